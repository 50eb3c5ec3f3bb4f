"""Drawings of permutation specs."""

from autofusion_jax.extras import need

need("matplotlib", what="autofusion_jax.plots")
