"""Optimal transport between units: Sinkhorn, exact assignment, and how they compare."""
