"""Five repeats of AutoFusion in one program against five single ones, unrolled and vmapped.

    python experiments/bench/repeats.py

Random networks and inputs of MNIST's size, one epoch of 4 steps; seconds with and without the
compilation, each program compiled anew.
"""

import time

import jax
import jax.numpy as jnp
from rich.console import Console

from autofusion_jax.merging.autofusion.optimise import Data, Problem, init_states, run_epochs
from autofusion_jax.merging.autofusion.options import Options
from autofusion_jax.merging.teachers import real_labels
from autofusion_jax.models.registry import build_model

MODELS = {
    "vgg": build_model("vgg", (28, 28, 1), widths=(32, 64, 128, 128), pool_after=(0, 1, 2), num_classes=10),
    "mlp": build_model("mlp", (28, 28, 1), widths=(512,) * 6, num_classes=10),
}
REPEATS, NUM_INPUTS = 5, 512


def measure(name: str, repeats: int, unroll: bool) -> tuple[float, float]:
    """Seconds of the first call, compilation included, and of the second."""
    model = MODELS[name]
    a, b = (model.init(jax.random.key(seed)) for seed in range(2))
    x = jax.random.uniform(jax.random.key(2), (NUM_INPUTS, *model.input_shape))
    problem = Problem(model.perm_spec, model.apply, Options(epochs=1), unroll)
    data = Data(a, b, x, real_labels(jnp.arange(NUM_INPUTS) % 10, 10))
    jax.clear_caches()
    seconds = []
    for _ in range(2):
        states = init_states(problem, NUM_INPUTS, jax.random.split(jax.random.key(3), repeats))
        start = time.perf_counter()
        jax.block_until_ready(run_epochs(problem, states, data, jnp.arange(1)))
        seconds.append(time.perf_counter() - start)
    return seconds[0], seconds[1]


def main() -> None:
    console = Console()
    console.print(f"on {jax.default_backend()}; seconds with compilation / without")
    for name in MODELS:
        single = measure(name, 1, unroll=True)
        console.print(f"{name}: {REPEATS} single ones {REPEATS * single[0]:.1f} / {REPEATS * single[1]:.1f}")
        for unroll in (True, False):
            first, second = measure(name, REPEATS, unroll)
            how = "unrolled" if unroll else "vmapped"
            console.print(f"{name}: {REPEATS} in one program, {how} {first:.1f} / {second:.1f}")


if __name__ == "__main__":
    main()
