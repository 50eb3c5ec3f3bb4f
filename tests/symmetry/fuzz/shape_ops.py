"""Ops of random programs about shapes, indices and control flow."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from tests.symmetry.fuzz.program import MAX_AXES, MAX_SIZE, at, divisors, op, per_example

# Shapes


@op(4)
def split_axis(net, h):
    axis = net.axis(h)
    inner = [d for d in divisors(h.shape[axis]) if 1 < d < h.shape[axis]]
    if h.ndim >= MAX_AXES or not inner:
        return None
    d = net.choice(inner)
    return h.reshape(*h.shape[:axis], h.shape[axis] // d, d, *h.shape[axis + 1 :])


@op(2)
def flatten(net, h):
    axis = net.axis(h)
    return h.reshape(*h.shape[:axis], -1, *h.shape[axis + 2 :]) if axis < h.ndim - 1 else None


@op(2)
def swap_axes(net, h):
    return h.swapaxes(*net.two_axes(h)) if h.ndim > 2 else None


@op(0.5)
def transposed_reshape(net, h):
    """Read an axis column by column instead of row by row."""
    d = net.choice(divisors(h.shape[-1]))
    return jnp.tanh(h.reshape(*h.shape[:-1], -1, d).swapaxes(-1, -2).reshape(h.shape))


@op()
def expand(net, h):
    """Add an axis and take it away again, or repeat the indices of an axis."""
    axis = net.axis(h)
    if per_example(h) * 2 > MAX_SIZE or net.rng.random() < 0.3:
        return jnp.tanh(jnp.expand_dims(h, axis)).squeeze(axis)
    if net.rng.random() < 0.5 and h.ndim < MAX_AXES:
        copies = jnp.broadcast_to(jnp.expand_dims(h, axis), (*h.shape[:axis], 2, *h.shape[axis:]))
        return copies * net.vector(copies, axis)
    return jnp.repeat(h, 2, axis)


@op()
def stack(net, h):
    if h.ndim >= MAX_AXES or per_example(h) * 2 > MAX_SIZE:
        return None
    return jnp.stack([h, h * net.param(*h.shape[1:])], net.axis(h))


@op()
def split_concat(net, h):
    """Treat two parts of an axis differently and put them back, sometimes the other way round."""
    axis = net.axis(h)
    if h.shape[axis] < 2:
        return None
    first, second = jnp.split(h, [int(net.rng.integers(1, h.shape[axis]))], axis)
    parts = [jnp.tanh(first), 2 * second]
    return jnp.concatenate(net.choice([parts, parts, parts[::-1]]), axis)


@op(0.5)
def pad(net, h):
    axis = net.axis(h)
    width = [(0, 0, 0)] * h.ndim
    width[axis] = net.choice([(1, 1, 0), (2, 0, 0), (0, 2, 0), (0, 0, 1)])
    return lax.pad(h, jnp.zeros((), h.dtype), width) if per_example(h) * 2 <= MAX_SIZE else None


# Indexing


@op(0.7)
def index(net, h):
    if h.ndim < 3:
        return None
    axis = net.axis(h)
    position = int(net.rng.integers(h.shape[axis]))
    return lax.index_in_dim(h, position, axis, False) if net.choice([0, 1]) else h[at(h, axis, position)]


@op(0.5)
def gather(net, h):
    """Rows of the value, or of a table that is added, by a constant index."""
    axis = net.axis(h)
    n = h.shape[axis]
    if net.rng.random() < 0.5:
        return jnp.take(h, net.rng.integers(0, n, net.choice([n, max(n // 2, 1)])), axis)
    rows = net.param(5, *h.shape[axis + 1 :])[net.rng.integers(0, 5, n)]
    return h + rows


@op(0.5)
def dynamic_slice(net, h):
    """A slice from a constant or a computed place, alone or put back changed."""
    axis = net.axis(h)
    size = (h.shape[axis] + 1) // 2
    start = net.choice([jnp.int32(1), jnp.argmax(net.param(3))])
    part = lax.dynamic_slice_in_dim(h, start, size, axis)
    if net.rng.random() < 0.5:
        return part
    return lax.dynamic_update_slice_in_dim(h, jnp.tanh(part), start, axis)


# Control flow and calls


@op(2)
def scan_axis(net, h):
    """A recurrent layer over an axis: all its states, or the last."""
    if h.ndim < 3:
        return None
    axis, n = int(net.rng.integers(1, h.ndim - 1)), h.shape[-1]
    w, reverse, last = net.param(n, n, fan=n), net.choice([False, True]), net.choice([False, True])

    def cell(state, x):
        state = jnp.tanh(x + state @ w)
        return state, state

    xs = jnp.moveaxis(h, axis, 0)
    state, states = lax.scan(cell, jnp.zeros_like(xs[0]), xs, reverse=reverse)
    return state if last else jnp.moveaxis(states, 0, axis)


@op()
def scan_layers(net, h):
    """Layers whose weights are stacked."""
    n = h.shape[-1]
    layers = net.param(3, n, n, fan=n), net.param(3, n)
    return lax.scan(lambda h, layer: (jnp.tanh(h + h @ layer[0] + layer[1]), None), h, layers)[0]


@op()
def cond(net, h):
    factor = net.vector(h, net.axis(h))
    branches = (lambda h, f: jnp.tanh(h) * f), (lambda h, f: jnp.tanh(h + f))
    kind = net.choice(["leaf", "sum", "each example"])
    if kind == "each example":
        return jax.vmap(lambda row: lax.cond(row.max() > 0.7, *branches, row, factor))(h)
    return lax.cond(net.param(*(() if kind == "leaf" else (6,))).sum() > 0, *branches, h, factor)


@op()
def loop(net, h):
    """A loop of a fixed number of steps, of one that a leaf gives, or by a counter."""
    n = h.shape[-1]
    w, kind = net.param(n, n, fan=n), net.choice(["fixed", "leaf", "while"])
    if kind == "while":
        return lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, jnp.tanh(c[1] @ w)), (0, h))[1]
    steps = 2 if kind == "fixed" else 1 + jnp.argmax(net.param(3))
    return lax.fori_loop(0, steps, lambda i, h: jnp.tanh(h @ w + h), h)


@op()
def wrapped(net, h):
    n = h.shape[-1]
    wrap = net.choice([jax.checkpoint, jax.jit, with_custom_jvp, with_custom_vjp])
    return wrap(lambda h, w, b: jax.nn.silu(h @ w + b))(h, net.param(n, n, fan=n), net.param(n))


def with_custom_jvp(fn):
    wrapped = jax.custom_jvp(fn)
    wrapped.defjvp(functools.partial(jax.jvp, fn))
    return wrapped


def with_custom_vjp(fn):
    wrapped = jax.custom_vjp(fn)
    wrapped.defvjp(functools.partial(jax.vjp, fn), lambda pullback, cotangent: pullback(cotangent))
    return wrapped
