"""Small networks with and without BatchNorm, as bare functions."""

import itertools

import jax
import jax.numpy as jnp

import autofusion_jax as af

WIDTHS = (6, 10, 8, 4)


def init(seed, *, norm=False, bias=True):
    layers = {}
    for number, (before, after) in enumerate(itertools.pairwise(WIDTHS)):
        keys = iter(jax.random.split(jax.random.key(100 * seed + number), 6))
        layer = {"kernel": jax.random.normal(next(keys), (before, after)) / before**0.5}
        if bias:
            layer["bias"] = 0.5 * jax.random.normal(next(keys), (after,))
        if norm and number < 2:
            layer |= {
                "scale": 1 + 0.3 * jax.random.normal(next(keys), (after,)),
                "mean": jax.random.normal(next(keys), (after,)),
                "var": jax.random.uniform(next(keys), (after,), minval=0.5, maxval=2),
            }
        layers[f"layer_{number}"] = layer
    return layers


def apply(params, x):
    for number in range(3):
        layer = params[f"layer_{number}"]
        x = x @ layer["kernel"]
        if "var" in layer:
            x = (x - layer["mean"]) / jnp.sqrt(layer["var"] + 1e-5) * layer["scale"]
        x = x + layer["bias"] if "bias" in layer else x
        x = jax.nn.relu(x) if number < 2 else x
    return x


def pair(**options):
    """Two networks, their spec, and inputs."""
    x = jax.random.normal(jax.random.key(9), (200, WIDTHS[0]))
    params_a, params_b = init(1, **options), init(2, **options)
    return params_a, params_b, af.infer_perm_spec(apply, params_a, x[:3]), x
