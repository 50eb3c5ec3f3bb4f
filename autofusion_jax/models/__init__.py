"""Bundled models (flax.linen), each with its permutation spec, in one registry."""
