"""Time of `infer_perm_spec` against the depth of a network, tracing included, checks left out.

    python experiments/bench/inference.py [--depths=2,6,12,24,48,96] [--networks=mlp,resnet,unet,gpt2]

Prints a table: seconds and microseconds per equation, which should not grow with the depth. The
networks are flax.linen modules of small widths; only their jaxprs matter. The rows `resnet50`
and `gpt2_12` and `vit_b_12` are of the real widths, with abstract parameters. Takes about two
minutes on a 2-core CPU.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
from absl import app, flags
from flax import linen as nn
from rich.console import Console
from rich.table import Table

import autofusion_jax as af
from autofusion_jax.symmetry.infer import trace_program

_DEPTHS = flags.DEFINE_list("depths", ["2", "6", "12", "24", "48", "96"], "Depths of the small networks.")
_NETWORKS = flags.DEFINE_list("networks", ["mlp", "resnet", "unet", "gpt2"], "Networks to grow.")

Network = tuple[nn.Module, jax.ShapeDtypeStruct]


class Net(nn.Module):
    """A function of inputs, as a module."""

    fn: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Call the function."""
        return self.fn(x)


def conv(width: int, size: int = 3, stride: int = 1) -> nn.Conv:
    return nn.Conv(width, (size, size), (stride, stride), use_bias=False)


def norm(x: jax.Array) -> jax.Array:
    return nn.BatchNorm(use_running_average=True)(x)


def mlp(depth: int) -> Network:
    def run(x: jax.Array) -> jax.Array:
        for _ in range(depth):
            x = nn.relu(nn.Dense(16)(x))
        return nn.Dense(3)(x)

    return Net(run), jax.ShapeDtypeStruct((2, 8), jnp.float32)


def bottlenecks(blocks: tuple[int, ...], width: int, side: int) -> Network:
    """A ResNet of bottleneck blocks; (3, 4, 6, 3) with width 64 is ResNet50."""

    def run(x: jax.Array) -> jax.Array:
        x = nn.max_pool(nn.relu(norm(conv(width, 7, 2)(x))), (3, 3), (2, 2), "SAME")
        for stage, count in enumerate(blocks):
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                wide = width * 2**stage
                y = nn.relu(norm(conv(wide, 1)(x)))
                y = norm(conv(4 * wide, 1)(nn.relu(norm(conv(wide, 3, stride)(y)))))
                x = nn.relu(y + (norm(conv(4 * wide, 1, stride)(x)) if block == 0 else x))
        return nn.Dense(10)(x.mean((1, 2)))

    return Net(run), jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)


def resnet(depth: int) -> Network:
    return bottlenecks((depth,), 4, 16)


def unet(depth: int) -> Network:
    """`depth` residual blocks, half of them on the way down and half on the way up, with skips."""
    levels = 3 if depth >= 6 else 1
    per_level = max(depth // (2 * levels), 1)

    def block(x: jax.Array, width: int) -> jax.Array:
        y = conv(width)(nn.silu(nn.GroupNorm(num_groups=2)(x)))
        y = conv(width)(nn.silu(nn.GroupNorm(num_groups=2)(y)))
        return y + (x if x.shape[-1] == width else conv(width, 1)(x))

    def run(x: jax.Array) -> jax.Array:
        x, skips = conv(8)(x), []
        for level in range(levels):
            for _ in range(per_level):
                x = block(x, 8 * 2**level)
                skips.append(x)
            x = conv(8 * 2**level, 3, 2)(x)
        for level in reversed(range(levels)):
            x = conv(8 * 2**level)(jnp.repeat(jnp.repeat(x, 2, 1), 2, 2))
            for _ in range(per_level):
                x = block(jnp.concatenate([x, skips.pop()], -1), 8 * 2**level)
        return conv(3)(x)

    return Net(run), jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)


def transformer(depth: int, width: int, heads: int, length: int, *, causal: bool) -> Callable[..., jax.Array]:
    def run(x: jax.Array) -> jax.Array:
        mask = nn.make_causal_mask(jnp.ones((x.shape[0], length))) if causal else None
        for _ in range(depth):
            x = x + nn.MultiHeadDotProductAttention(num_heads=heads)(nn.LayerNorm()(x), mask=mask)
            x = x + nn.Dense(width)(nn.gelu(nn.Dense(4 * width)(nn.LayerNorm()(x))))
        return nn.LayerNorm()(x)

    return run


def gpt2_of(depth: int, width: int, heads: int, length: int, vocabulary: int) -> Network:
    def run(tokens: jax.Array) -> jax.Array:
        table = nn.Embed(vocabulary, width)
        x = table(tokens) + nn.Embed(length, width)(jnp.arange(length))
        return table.attend(transformer(depth, width, heads, length, causal=True)(x))

    return Net(run), jax.ShapeDtypeStruct((2, length), jnp.int32)


def gpt2(depth: int) -> Network:
    return gpt2_of(depth, 8, 2, 6, 11)


def vit_b(depth: int = 12) -> Network:
    def run(x: jax.Array) -> jax.Array:
        x = nn.Conv(768, (16, 16), (16, 16))(x).reshape(x.shape[0], 196, 768)
        x = transformer(depth, 768, 12, 196, causal=False)(x)
        return nn.Dense(1000)(x.mean(1))

    return Net(run), jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)


GROWING = {"mlp": mlp, "resnet": resnet, "unet": unet, "gpt2": gpt2}
REAL = {
    "resnet50": lambda: bottlenecks((3, 4, 6, 3), 64, 224),
    "gpt2_12": lambda: gpt2_of(12, 768, 12, 64, 50257),
    "vit_b_12": vit_b,
}


def count_equations(jaxpr: Any) -> int:
    """The equations of a jaxpr, those inside of calls included."""
    return len(jaxpr.eqns) + sum(map(count_equations, jax.extend.core.subjaxprs(jaxpr)))


def measure(table: Table, name: str, depth: int | None, network: Network) -> None:
    """Infer once and add a row."""
    module, x = network
    params = jax.eval_shape(module.init, jax.random.key(0), x)
    equations = count_equations(trace_program(module.apply, params, x).jaxpr)
    start = time.perf_counter()
    spec = af.infer_perm_spec(module.apply, params, x, check=False)
    seconds = time.perf_counter() - start
    row = [name, str(depth or ""), len(params["params"]), equations, len(spec.groups)]
    table.add_row(*map(str, row), f"{seconds:.2f}", f"{1e6 * seconds / equations:.0f}")


def main(_: list[str]) -> None:
    console = Console()
    table = Table("network", "depth", "layers", "equations", "groups", "seconds", "us / equation")
    measure(Table(*[""] * 7), "warm up", 1, mlp(1))
    with console.status("inferring"):
        for name in _NETWORKS.value:
            for depth in map(int, _DEPTHS.value):
                measure(table, name, depth, GROWING[name](depth))
        for name, make in REAL.items():
            measure(table, name, None, make())
    console.print(table)


if __name__ == "__main__":
    app.run(main)
