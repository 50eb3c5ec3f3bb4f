"""Bundled models (flax.linen), in one registry."""

from autofusion_jax.extras import need

need("flax", what="autofusion_jax.models")
