"""Representation surgery: for each task, take back what merging did to what the head reads."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Key

from autofusion_jax.batching import predict
from autofusion_jax.merging.adaptive.adaptation import check_steps, descend, finite_curve
from autofusion_jax.merging.adaptive.adamerging import adamerging
from autofusion_jax.merging.checks import Batch
from autofusion_jax.merging.leafwise import results_in_place
from autofusion_jax.merging.own_inputs import inputs_of_each
from autofusion_jax.merging.regression.layers import LinearLayer, LinearLayers
from autofusion_jax.merging.result import MergeResult, MergeTask, Method
from autofusion_jax.merging.task_vectors.task_arithmetic import task_arithmetic
from autofusion_jax.symmetry.flat import FlatProgram, Override
from autofusion_jax.symmetry.infer import trace_program
from autofusion_jax.trees import flatten_by_path, num_params
from autofusion_jax.types import ApplyFn, Params
from autofusion_jax.validation import require, unknown_name

METHODS = ("adamerging", "task_arithmetic")
Modules = dict[str, Array]
"""`down [tasks, C, rank]` and `up [tasks, rank, C]`."""


@dataclasses.dataclass(frozen=True)
class HeadReader:
    """`apply_fn(params, x)` that gives what the head of a network reads, `[N, C]`."""

    apply_fn: ApplyFn

    def __call__(self, params: Params, x: Any) -> Float[Array, "N C"]:
        """The representations."""
        program, head = find_head(self.apply_fn, params, x)
        activation = program.equations[head.equation].inputs[head.product.live]
        (value,) = program.evaluate([activation], program.values(params, x))
        return head.product.read(value)[:, 0]


@dataclasses.dataclass(frozen=True)
class SurgeryNetwork:
    """The program of a merged network with a module and a head for each task; call it like any `apply_fn`.

    Attributes:
        apply_fn: the function of the networks that were merged.
    """

    apply_fn: ApplyFn

    def __call__(self, params: Params, x: Any) -> Float[Array, "tasks N classes"]:
        """The outputs of all heads, stacked."""
        program, head = find_head(self.apply_fn, params["network"], x)
        values = program.values(params["network"], x)
        inputs = program.equations[head.equation].inputs
        activation = inputs[head.product.live]
        (seen,) = program.evaluate([activation], values)

        def answer(leaves: dict[str, Array], modules: Modules) -> Array:
            mended = repaired(modules, head.product.read(seen)[:, 0])[:, None]
            back = jax.linear_transpose(head.product.read, seen)(mended.astype(seen.dtype))[0]

            def made(*operands: Array) -> Array:
                given = [back if number == activation else o for number, o in zip(inputs, operands)]
                return program.equations[head.equation](given)[0]

            own = values | {program.leaves[path]: leaf for path, leaf in leaves.items()}
            return program.evaluate(program.outputs, own, {head.made: Override(inputs, made)})[0]

        return jax.vmap(answer)(params["heads"], params["modules"])


def find_head(apply_fn: ApplyFn, params: Params, x: Any) -> tuple[FlatProgram, LinearLayer]:
    """The program of a network, and the layer that makes its one output.

    Raises:
        ValueError: there is no such layer.
    """
    program = FlatProgram(trace_program(apply_fn, params, x, caller="surgery"))
    with jax.ensure_compile_time_eval():  # finding layers runs parts of the program on constants
        head = LinearLayers(program, params, raw_inputs=True).head
    must_be = "one array [N, classes] made by a linear layer, nothing but its bias following"
    if head is None:
        raise ValueError(f"surgery: the networks' output must be {must_be}; got another one.")
    return program, head


def repaired(modules: Modules, seen: Float[Array, "N C"]) -> Float[Array, "N C"]:
    """`z - relu(z down) up`: what the head of one task is to read.

    Args:
        modules: `down [C, rank]` and `up [rank, C]`.
        seen: what it would read otherwise.

    Example:
        >>> modules = {"down": jnp.array([[1.0], [0.0]]), "up": jnp.array([[0.5, 0.0]])}
        >>> repaired(modules, jnp.array([[2.0, 3.0], [-2.0, 3.0]])).tolist()
        [[1.0, 3.0], [-2.0, 3.0]]
    """
    return seen - jax.nn.relu(seen @ modules["down"]) @ modules["up"]
