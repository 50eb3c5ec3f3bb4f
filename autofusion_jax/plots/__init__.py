"""Drawings of permutation specs; needs matplotlib (extra `report`)."""
