"""Optimal transport between units: Sinkhorn's algorithm and exact assignment."""
