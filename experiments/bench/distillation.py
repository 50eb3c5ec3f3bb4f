"""A step of training a ResNet20 with BatchNorm in a compiled loop: flax's, and its program replayed.

    python experiments/bench/distillation.py

Width 16, batches of 64 random images of CIFAR-10's size; CPU seconds of a step of gradient descent, the
compilation left out. Replayed, a program keeps the derivatives of functions that bring their own (what
distillation uses), or all calls are inlined, and convolutions have XLA's gradients.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from rich.console import Console

from autofusion_jax.merging.corrections.reset_norm import training_rules
from autofusion_jax.merging.distillation import InTraining
from autofusion_jax.models.registry import build_model
from autofusion_jax.symmetry.program import flatten_program
from autofusion_jax.types import Params

STEPS = 3
MODEL = build_model("resnet", (32, 32, 3), num_classes=10, widths=(16, 32, 64), depths=(3, 3, 3))


def inlined(params: Params, x: Array) -> Array:
    """The network in training, all calls of its program inlined."""
    program = flatten_program(MODEL.perm_spec, params, x, caller="bench")
    values = program.values(params, x)
    rules, _ = training_rules(program, values, {}, program.outputs)
    return program.evaluate(program.outputs, values, rules)[0]


def flax_in_training(params: Params, x: Array) -> Array:
    """The network in flax's own training mode."""
    assert MODEL.train_apply is not None, "a network with BatchNorm has a training mode"
    return MODEL.train_apply(params, x)[0]


NETWORKS: dict[str, Callable[[Params, Array], Any]] = {
    "flax": flax_in_training,
    "replayed, own derivatives": InTraining(MODEL.perm_spec),
    "replayed, inlined": inlined,
}


def measure(network: Callable[[Params, Array], Any]) -> float:
    """CPU seconds of a step."""
    params = MODEL.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (64, *MODEL.input_shape))
    labels = jax.nn.one_hot(jnp.arange(len(x)) % 10, 10)

    def loss(params: Params) -> Array:
        return -(jax.nn.log_softmax(network(params, x)) * labels).sum(-1).mean()

    def step(params: Params, _: None) -> tuple[Params, None]:
        return jax.tree.map(lambda leaf, grad: leaf - 1e-4 * grad, params, jax.grad(loss)(params)), None

    run = jax.jit(lambda params: jax.lax.scan(step, params, length=STEPS)[0])
    jax.block_until_ready(run(params))
    start = time.process_time()
    jax.block_until_ready(run(params))
    return (time.process_time() - start) / STEPS


def main() -> None:
    console = Console()
    for name, network in NETWORKS.items():
        console.print(f"{name}: {measure(network):.2f} CPU seconds a step")


if __name__ == "__main__":
    main()
