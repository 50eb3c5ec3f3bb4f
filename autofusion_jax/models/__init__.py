"""Bundled models (flax.linen), in one registry."""
