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
from jax import Array

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


def divisors(n):
    return [d for d in range(1, n + 1) if n % d == 0]
