"""Permutation symmetries: specs, their group elements, and how these act on parameters."""
