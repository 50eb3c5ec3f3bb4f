"""Ops of random programs that compute: elementwise, products, reductions."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.symmetry.fuzz.program import MAX_SIZE, SIZES, divisors, op, per_example, unit

# Elementwise


@op()
def gelu(net, h):
    return jax.nn.gelu(h)


@op()
def mean_abs(net, h):
    return unit(h)


@op(2)
def bias(net, h):
    """Sizes of 1 broadcast."""
    return h + net.param(*(size if net.rng.random() < 0.7 else 1 for size in h.shape[1:]))


@op()
def scale(net, h):
    return h * net.vector(h, net.axis(h))


@op(0.3)
def constant(net, h):
    """A constant along an axis that varies, is all equal, or is constant in blocks."""
    axis = net.axis(h)
    n, kind = h.shape[axis], net.choice(["varying", "equal", "blocks"])
    block = {"varying": 1, "equal": n, "blocks": net.choice(divisors(n))}[kind]
    values = np.repeat(net.rng.standard_normal(n // block), block)
    return h * values.reshape(-1, *(1,) * (h.ndim - 1 - axis))


@op(0.5)
def mask(net, h):
    """A mask from iota: triangle, diagonal or its complement of two axes; else a prefix of one."""
    rows = columns = net.axis(h)
    if h.ndim > 2:
        rows, columns = net.two_axes(h)
    indices = lax.broadcasted_iota(jnp.int32, (1, *h.shape[1:]), rows)
    other = 1 if rows == columns else lax.broadcasted_iota(jnp.int32, (1, *h.shape[1:]), columns)
    compare = net.choice([jnp.greater_equal, jnp.equal, jnp.not_equal])
    return jnp.where(compare(indices, other), h, 0.0 if net.rng.random() < 0.5 else net.param())


# Contractions with parameters


@op(4)
def dense(net, h):
    m = net.new_size(h, h.ndim - 1)
    return m and jnp.tanh(h @ net.param(h.shape[-1], m, fan=h.shape[-1]))


@op(2)
def dense_inner(net, h):
    """A dense layer along any axis, which stays where it is."""
    axis = net.axis(h)
    m, names = net.new_size(h, axis), "bcdef"[: h.ndim]
    spec = f"{names},{names[axis]}z->{names.replace(names[axis], 'z')}"
    return m and jnp.tanh(jnp.einsum(spec, h, net.param(h.shape[axis], m, fan=h.shape[axis])))


@op()
def dense_general(net, h):
    """Contract the last two axes at once, or make two of the last."""
    if h.ndim > 2:
        m = net.choice(SIZES)
        kernel = net.param(*h.shape[-2:], m, fan=h.shape[-1] * h.shape[-2])
        return jnp.tanh(jnp.tensordot(h, kernel, 2))
    return jnp.tanh(jnp.einsum("bi,ihd->bhd", h, net.param(h.shape[1], 3, 4, fan=h.shape[1])))


@op(2)
def tied(net, h):
    """Use an earlier matrix again, as it is or transposed."""
    matrices = [w for w in net.leaves.values() if w.ndim == 2]
    fitting = [w for w in matrices + [w.T for w in matrices] if w.shape[0] == h.shape[-1]]
    fitting = [w for w in fitting if per_example(h) // h.shape[-1] * w.shape[1] <= MAX_SIZE]
    return jnp.tanh(h @ net.choice(fitting)) if fitting else None


@op(3)
def mix_two(net, h):
    """One parameter on two axes of the same size; of one axis a product of each two entries."""
    if h.ndim == 2 and per_example(h) ** 2 <= MAX_SIZE:
        h = h[:, :, None] * jnp.tanh(h)[:, None]
    pairs = [(d, e) for d in range(1, h.ndim) for e in range(d + 1, h.ndim) if h.shape[d] == h.shape[e]]
    if not pairs:
        return None
    d, e = net.choice(pairs)
    w, names = net.param(h.shape[d], h.shape[d], fan=h.shape[d]), "bcdef"[: h.ndim]
    out = names.replace(names[d], "y").replace(names[e], "z")
    return jnp.tanh(jnp.einsum(f"{names},{names[d]}y,{names[e]}z->{out}", h, w, w))


@op(3)
def grouped_dense(net, h):
    """One matrix for every index of an axis."""
    m = net.new_size(h, h.ndim - 1)
    if h.ndim < 3 or m is None:
        return None
    return jnp.tanh(jnp.einsum("...gi,gio->...go", h, net.param(*h.shape[-2:], m, fan=h.shape[-1])))


@op(2)
def conv(net, h):
    """A convolution over one axis in 1, 2 or as many groups as there are channels."""
    if h.ndim != 3:
        return None
    layout = net.choice([("NWC", "WIO", "NWC"), ("NCW", "OIW", "NCW")])
    channels = h.shape[layout[0].index("C")]
    groups = net.choice([g for g in (1, 2, channels) if channels % g == 0])
    out = groups * net.choice([1, 2, 3]) if groups > 1 else net.choice(SIZES)
    if out * h.shape[layout[0].index("W")] > MAX_SIZE:
        return None
    sizes = {"W": net.choice([1, 3]), "I": channels // groups, "O": out}
    kernel = net.param(*(sizes[letter] for letter in layout[1]), fan=sizes["W"] * sizes["I"])
    stride, padding = (net.choice([1, 2]),), net.choice(["SAME", ((1, 2),)])
    return jnp.tanh(
        lax.conv_general_dilated(
            h, kernel, stride, padding, dimension_numbers=layout, feature_group_count=groups
        )
    )


# Products of activations


@op()
def outer(net, h):
    others = [v for v in net.values if v.ndim == 2 and per_example(v) * per_example(h) <= MAX_SIZE]
    return h[:, :, None] * jnp.tanh(net.choice(others))[:, None] if h.ndim == 2 and others else None


@op(2)
def bilinear(net, h):
    """Compare every index of an axis with every one of another value."""
    others = [v for v in net.values if v.ndim == 3 == h.ndim and v.shape[-1] == h.shape[-1]]
    others = [v for v in others if h.shape[1] * v.shape[1] <= MAX_SIZE]
    return jnp.einsum("bik,bjk->bij", h, jnp.tanh(net.choice(others))) / h.shape[-1] if others else None


@op(2)
def attention(net, h):
    if h.ndim != 3 or h.shape[1] > 12:
        return None
    heads, dim = net.choice([1, 2, 3]), net.choice([2, 4])
    q, k, v = heads_of(net, h, heads, dim)
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / dim**0.5)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
    if net.rng.random() < 0.5:
        return h + jnp.einsum("bqhd,hdc->bqc", mixed, net.param(heads, dim, h.shape[-1], fan=heads * dim))
    return h + mixed.reshape(*h.shape[:2], -1) @ net.param(heads * dim, h.shape[-1], fan=heads * dim)


def heads_of(net, h, heads, dim):
    """Queries, keys and values `[batch, time, heads, dim]`, by one of the usual layouts."""
    channels, kind = h.shape[-1], net.choice(["general", "reshape", "fused split", "fused axis"])
    split = (*h.shape[:2], heads, dim)
    if kind == "general":
        return [
            jnp.einsum("btc,chd->bthd", h, net.param(channels, heads, dim, fan=channels)) for _ in range(3)
        ]
    if kind == "reshape":
        return [(h @ net.param(channels, heads * dim, fan=channels)).reshape(split) for _ in range(3)]
    fused = h @ net.param(channels, 3 * heads * dim, fan=channels)
    if kind == "fused split":
        return [part.reshape(split) for part in jnp.split(fused, 3, -1)]
    return list(jnp.moveaxis(fused.reshape(*h.shape[:2], 3, heads, dim), 2, 0))


@op()
def glu(net, h):
    axis = net.axis(h)
    if h.shape[axis] % 2:
        return None
    value, gate = jnp.split(h, 2, axis)
    return value * jax.nn.sigmoid(gate)


@op(2)
def residual(net, h):
    same = [v for v in net.values if v.shape == h.shape]
    return h + jnp.tanh(net.choice(same)) if same else None


@op()
def residual_reshaped(net, h):
    others = [v for v in net.values if v.size == h.size and v.shape != h.shape]
    return h + jnp.tanh(net.choice(others)).reshape(h.shape) if others else None


# Along an axis


@op(2)
def softmax(net, h):
    return jax.nn.softmax(2 * h, net.axis(h))


@op(2)
def norm(net, h):
    """Centre and scale along one axis, or along two."""
    axes = net.two_axes(h) if h.ndim > 2 and net.rng.random() < 0.3 else net.axis(h)
    return (h - h.mean(axes, keepdims=True)) / (0.1 + h.std(axes, keepdims=True))


@op(0.5)
def cumsum(net, h):
    axis = net.axis(h)
    return jnp.cumsum(h, axis) / h.shape[axis] ** 0.5


@op(0.5)
def sort(net, h):
    return jnp.sort(h, net.axis(h))


@op(0.3)
def roll(net, h):
    return jnp.roll(h, 1, net.axis(h))


@op(2)
def reduce(net, h):
    """Reduce over one axis, or over two."""
    num = net.choice([1, 2])
    if h.ndim < num + 2:
        return None
    axes = net.axis(h) if num == 1 else net.two_axes(h)
    return net.choice([jnp.max, jnp.min, jnp.mean, jnp.sum, jax.nn.logsumexp])(h, axes)


@op()
def max_pool(net, h):
    axis, window, padding = net.axis(h), net.choice([2, 3]), net.choice(["SAME", "VALID"])
    if h.shape[axis] < window:
        return None
    sizes, strides = (
        tuple(s if a == axis else 1 for a in range(h.ndim)) for s in (window, net.choice([1, 2]))
    )
    return lax.reduce_window(h, -jnp.inf, lax.max, sizes, strides, padding)


@op(0.5)
def max_of_pairs(net, h):
    axis = net.axis(h)
    if h.shape[axis] % 2:
        return None
    even, odd = (lax.slice_in_dim(h, start, None, 2, axis) for start in (0, 1))
    return jnp.maximum(even, odd)


@op()
def argmax_gate(net, h):
    """Keep the best entry along an axis."""
    axis = net.axis(h)
    best = jnp.argmax(scores(net, h, axis), axis)
    return h * (0.1 + jax.nn.one_hot(best, h.shape[axis], dtype=h.dtype, axis=axis))


@op()
def take_along(net, h):
    """Order an earlier value by the scores of this one, or take its best entry."""
    axis, other = net.axis(h), jnp.tanh(net.choice([v for v in [*net.values, h] if v.shape == h.shape]))
    if net.rng.random() < 0.5:
        return jnp.take_along_axis(other, jnp.argsort(scores(net, h, axis), axis), axis)
    return jnp.take_along_axis(other, jnp.argmax(scores(net, h, axis), axis, keepdims=True), axis)


def scores(net, h, axis):
    """`h` plus a leaf that varies along `axis`: without ties, which indices break by position."""
    return h + net.param(
        *(n if a == axis or net.rng.random() < 0.5 else 1 for a, n in enumerate(h.shape) if a)
    )
