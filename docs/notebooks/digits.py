"""Scikit-learn's handwritten digits and a small classifier of them, as several notebooks use them."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

pixels, classes = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(pixels))
x, y = jnp.asarray(pixels[order] / 16, jnp.float32), jnp.asarray(classes[order])
train_x, train_y, test_x, test_y = x[:1400], y[:1400], x[1400:], y[1400:]


def init(key, sizes=(64, 64, 64, 10)):
    """Draw the weights of a multi-layer perceptron: {"dense_0": {"kernel", "bias"}, ...}."""
    shapes = list(itertools.pairwise(sizes))
    draw = jax.nn.initializers.he_normal()
    return {
        f"dense_{i}": {"kernel": draw(k, shape), "bias": jnp.zeros(shape[1])}
        for i, (k, shape) in enumerate(
            zip(jax.random.split(key, len(shapes)), shapes)
        )
    }


def apply_fn(params, x):
    """The logits `[N, 10]` of images `[N, 64]`."""
    *hidden, head = params.values()
    for layer in hidden:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ head["kernel"] + head["bias"]


@functools.partial(jax.jit, static_argnames=("apply_fn", "steps"))
def fit(apply_fn, params, x, y, steps=300, learning_rate=3e-3):
    """Train any network by Adam on all images at once."""
    optimizer = optax.adam(learning_rate)

    def loss(params):
        return optax.softmax_cross_entropy_with_integer_labels(
            apply_fn(params, x), y
        ).mean()

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), length=steps)[0][0]


def accuracy(apply_fn, params, x=test_x, y=test_y):
    """The share of images that a network classifies correctly, in percent."""
    return 100 * float((apply_fn(params, x).argmax(-1) == y).mean())
