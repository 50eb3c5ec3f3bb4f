"""Random small network programs, for fuzzing the inference of symmetries.

A program is a first dense layer, 3 to 10 ops of the registry `OPS`, and a dense read-out. An op is
`op(net, h) -> h`, or None, before it has done anything, where it does not apply to the shape of
`h`. `Net` makes its random choices; every run of a program replays them from its seed.
Axis 0 of every value is the batch; no op touches it.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

BATCH = 3
SIZES = (2, 4, 6, 8, 12, 24)
MAX_SIZE = 400  # numbers per value and example
MAX_AXES = 5
OPS: dict[str, Callable[["Net", Array], Array | None]] = {}
WEIGHTS: dict[str, float] = {}


class RandomProgram(NamedTuple):
    """A program, its parameters and inputs, and its ops in words."""

    apply_fn: Callable[[dict[str, Array], Array], Array]
    params: dict[str, Array]
    x: Array
    ops: list[str]


class Net:
    """One run of a program: its random choices, and the leaves and values so far.

    Leaves that `params` lacks are drawn and put there.
    """

    def __init__(self, seed: int, params: dict[str, Any]) -> None:
        self.seed, self.params = seed, params
        self.rng = np.random.default_rng(seed)
        self.leaves: dict[str, Array] = {}
        self.values: list[Array] = []
        self.ops: list[str] = []
        self.op = ""

    def param(self, *shape: int, fan: int = 1) -> Array:
        """A new leaf with entries of variance `1 / fan`."""
        name = f"{self.op}_{len(self.leaves)}"
        if name not in self.params:
            rng = np.random.default_rng([self.seed, len(self.leaves)])
            self.params[name] = (rng.standard_normal(shape) / fan**0.5).astype(np.float32)
        self.leaves[name] = jnp.asarray(self.params[name])
        return self.leaves[name]

    def vector(self, h: Array, axis: int) -> Array:
        """A parameter that varies along `axis` only."""
        return self.param(h.shape[axis]).reshape(-1, *(1,) * (h.ndim - 1 - axis))

    def choice(self, options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def axis(self, h: Array) -> int:
        return int(self.rng.integers(1, h.ndim))

    def two_axes(self, h: Array) -> tuple[int, int]:
        first, second = self.rng.choice(np.arange(1, h.ndim), 2, replace=False)
        return int(first), int(second)

    def new_size(self, h: Array, axis: int) -> int | None:
        """A size for `axis` that keeps the value small."""
        fitting = [size for size in SIZES if per_example(h) // h.shape[axis] * size <= MAX_SIZE]
        return self.choice(fitting) if fitting else None

    def step(self, h: Array) -> Array:
        """Apply a random op that fits."""
        out, names, weights = None, list(OPS), np.array(list(WEIGHTS.values()))
        while out is None:
            self.op = str(self.rng.choice(names, p=weights / weights.sum()))
            out = OPS[self.op](self, h)
        return self.record(out)

    def record(self, h: Array) -> Array:
        self.values.append(h)
        self.ops.append(f"{self.op} {list(h.shape)}")
        return h


def build(seed: int) -> RandomProgram:
    """Draw the program of a seed."""

    def apply_fn(params: dict[str, Array], x: Array) -> Array:
        return run(Net(seed, dict(params)), x)

    rng = np.random.default_rng([seed, BATCH])
    x = rng.standard_normal((BATCH, *((4,) if rng.random() < 0.4 else ()), 5)).astype(np.float32)
    net = Net(seed, {})
    jax.eval_shape(functools.partial(run, net), x)
    return RandomProgram(apply_fn, jax.tree.map(jnp.asarray, net.params), jnp.asarray(x), net.ops)


def run(net: Net, x: Array) -> Array:
    """The forward pass, `[batch, 2]`."""
    net.op = "first"
    h = net.record(jnp.tanh(x @ net.param(x.shape[-1], net.choice(SIZES[1:]))))
    for _ in range(int(net.rng.integers(3, 11))):
        h = net.step(h)
    net.op = "read_out"
    return net.record(read_out(net, unit(h)))


def read_out(net: Net, h: Array) -> Array:
    kind, shape = net.choice(["flat", "tensor", "pooled"]), h.shape[1:]
    if kind == "flat":
        return h.reshape(BATCH, -1) @ net.param(per_example(h), 2)
    if kind == "tensor":
        return jnp.tensordot(h, net.param(*shape, 2), h.ndim - 1)
    return jax.nn.gelu(h @ net.param(shape[-1], 2)).mean(tuple(range(1, h.ndim - 1)))


def op(weight: float = 1.0) -> Callable:
    """Register an op; those that destroy symmetries should be rare."""

    def register(fn: Callable) -> Callable:
        OPS[fn.__name__], WEIGHTS[fn.__name__] = fn, weight
        return fn

    return register


def per_example(h: Array) -> int:
    return h.size // h.shape[0]


def unit(h: Array) -> Array:
    """Divide every example by its mean absolute value."""
    return h / (0.05 + jnp.abs(h).mean(tuple(range(1, h.ndim)), keepdims=True))


def at(h: Array, axis: int, index: Any) -> tuple[Any, ...]:
    return (*(slice(None),) * axis, index)


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


# Shapes


def divisors(n):
    return [d for d in range(1, n + 1) if n % d == 0]


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
