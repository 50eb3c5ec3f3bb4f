"""A merge with the installed package and its core dependencies alone: run outside of the repository."""

import importlib.util
from pathlib import Path

import jax
import numpy as np

import autofusion_jax as af


def apply_fn(params, x):
    """One hidden layer of 8 units."""
    return jax.nn.relu(x @ params["up"]) @ params["down"]


def network(key):
    """Random parameters."""
    up, down = jax.random.split(key)
    return {"up": jax.random.normal(up, (4, 8)), "down": jax.random.normal(down, (8, 3))}


params, x = network(jax.random.key(0)), jax.random.normal(jax.random.key(1), (16, 4))
spec = af.infer_perm_spec(apply_fn, params, x)
copy = af.apply_perm(spec, params, af.random_perms(spec, jax.random.key(2)))
merged = af.merge(params, copy, spec, x, method="activation_matching")
np.testing.assert_allclose(apply_fn(merged.params, x), apply_fn(params, x), atol=1e-4)
assert af.merge(params, copy, spec, x, epochs=1).params.keys() == params.keys()
assert "site-packages" in Path(af.__file__).parts
assert not [name for name in ("flax", "matplotlib", "tensorflow_datasets") if importlib.util.find_spec(name)]
print(f"{af.__file__}: {len(af.list_methods())} methods; a network and its copy merge")
