"""Representation surgery: for each task, take back what merging did to what the head reads."""

import dataclasses
import functools
import operator
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key

from autofusion_jax.arguments import Count, Positive
from autofusion_jax.batching import predict
from autofusion_jax.merging.adaptive.adamerging import adamerging
from autofusion_jax.merging.adaptive.adaptation import descend, finite_curve
from autofusion_jax.merging.leafwise import aligned_result
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.per_model_inputs import Batches, inputs_of_each
from autofusion_jax.merging.regression.linear_layers import LinearLayer, LinearLayers
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.task_vectors.task_arithmetic import task_arithmetic
from autofusion_jax.symmetry.infer import trace_program
from autofusion_jax.symmetry.program import FlatProgram, given
from autofusion_jax.trees import flatten_by_path, num_params
from autofusion_jax.types import ApplyFn, Params
from autofusion_jax.validation import require

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
        activation = program.equations[head.equation].inputs[head.product.live]
        (value,) = program.evaluate([activation], values)
        seen = head.product.read(value)[:, 0]

        def answer(leaves: dict[str, Array], modules: Modules) -> Array:
            mended = repaired(modules, seen)[:, None].astype(value.dtype)
            (back,) = jax.linear_transpose(head.product.read, value)(mended)
            own = values | {program.leaves[path]: leaf for path, leaf in leaves.items()}
            return program.evaluate(program.outputs, own, given({activation: back}))[0]

        return jax.vmap(answer)(params["heads"], params["modules"])


def find_head(apply_fn: ApplyFn, params: Params, x: Any) -> tuple[FlatProgram, LinearLayer]:
    """The program of a network, and the last layer of its one output.

    What follows that layer, but its bias, holds nothing learned, such as a CLIP-style head's cosines.

    Raises:
        ValueError: there is no such layer.
    """
    program = FlatProgram(trace_program(apply_fn, params, x, caller="surgery"))
    layers = LinearLayers(program, params, raw_inputs=True).layers
    found = [layer for layer in layers if _is_last(program, layer)]
    must_be = "one array [N, classes] made by a linear layer, nothing learned but its bias following"
    if len(program.outputs) != 1 or len(found) != 1:
        raise ValueError(f"surgery: the networks' output must be {must_be}; got another one.")
    return program, found[0]


def _is_last(program: FlatProgram, layer: LinearLayer) -> bool:
    """Whether outputs depend on what is learned through this layer `[N, C]` and its bias alone."""
    follows = program.needed(program.outputs, given({layer.made: None}))
    learned = {path for path, number in program.leaves.items() if number in follows}
    own = set() if layer.bias is None else {layer.bias.leaf}
    return learned == own and len(layer.product.made_shape) == 2 and layer.product.sizes[0] == 1


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


@factory
def surgery(
    *,
    method: Literal["task_arithmetic", "adamerging"] | Method = "task_arithmetic",
    scale: Positive = 0.3,
    rank: Count = 16,
    learning_rate: Positive = 1e-3,
    num_steps: Count = 1000,
    batch_size: Count = 16,
    inputs: Batches | None = None,
) -> Method:
    """Merge, then learn for each task what merging changed in what the head reads, and take it back:

    head k answers to `z - relu(z A_k) B_k`, z what the merged network gives the head; `A_k [C, rank]` and
    `B_k [rank, C]` by Adam on `mean |z - relu(z A_k) B_k - z_k|`, `z_k` what network k gives its own head.

    Args:
        method: what merges: `"task_arithmetic"` or `"adamerging"`, which learns on the same inputs; or a
            `Method` whose network is one of the merged ones' structure.
        scale: how much of each task vector those two add, or start from, > 0.
        rank: of the modules, >= 1.
        learning_rate: of Adam, > 0.
        num_steps: how many steps it takes, >= 1.
        batch_size: inputs of each task in a step, >= 1.
        inputs: inputs `[N, ...]` of each network's own data; the batch of the merge for all if left out.

    Returns:
        A method for any number of networks; needs `base`, inputs and an `apply_fn`, no spec. Its
        network has one head for each task, which is that of the task's own network, and `apply_fn` stacks
        their outputs. `params` is `{"network": the merged tree, "heads": {path: [tasks, ...]}, "modules":
        {"down": [tasks, C, rank], "up": [tasks, rank, C]}}`; `surgery_apply` makes the `apply_fn` again.
        `history["distance"]` `[steps, tasks]` is what is minimised; `diagnostics["num_params"]` counts all
        its numbers.

    Raises:
        ValueError: an option is out of its range, or a network's output is not made by a linear layer.

    References:
        Yang, Shen, Wang, Guo, Chen, Wang, Tao: Representation surgery for multi-task model merging,
        ICML 2024.

    Example:
        >>> surgery(method="adamerging", rank=4).name
        'surgery'
    """
    steps = {"learning_rate": learning_rate, "num_steps": num_steps, "batch_size": batch_size}
    merger = (
        adamerging(scale=scale, inputs=inputs) if method == "adamerging" else task_arithmetic(scale=scale)
    )
    merger = merger if isinstance(method, str) else method

    def run(task: MergeTask, key: Array) -> MergeResult:
        data = tuple(x for x, _ in inputs_of_each("surgery", task, inputs))
        _, head = find_head(task.require_apply_fn(), task.models[0], data[0][:1])
        require(
            not jnp.issubdtype(head.product.made_dtype, jnp.complexfloating), "surgery",
            f"what {head.weight!r} reads", "real, as the modules are", head.product.made_dtype,
        )  # fmt: skip
        return _operated(task, data, rank, tuple(sorted(steps.items())), merger.run(task, key), key)

    return Method(
        "surgery", run, max_models=None, assumes_aligned=True, needs_base=True, changes_program=True
    )


def surgery_apply(apply_fn: ApplyFn) -> SurgeryNetwork:
    """The function of a network that `surgery` made, from the function of the networks it was made of."""
    return SurgeryNetwork(apply_fn)


def _operated(
    task: MergeTask,
    data: tuple[Array, ...],
    rank: int,
    steps: tuple[tuple[str, Any], ...],
    merged: MergeResult,
    key: Key[Array, ""],
) -> MergeResult:
    apply_fn = task.require_apply_fn()
    require(
        jax.tree.structure(merged.params) == jax.tree.structure(task.require_base()), "surgery", "method",
        "one whose network has the merged ones' structure", "another structure",
    )  # fmt: skip
    reader = HeadReader(apply_fn)
    pairs = tuple(
        (predict(reader, merged.params, x), predict(reader, own, x)) for own, x in zip(task.models, data)
    )
    modules, distance = learn_modules(pairs, key, rank=rank, steps=steps)
    _, head = find_head(apply_fn, merged.params, data[0][:1])
    paths = [head.weight, *([head.bias.leaf] if head.bias else [])]
    models = [flatten_by_path(params) for params in task.models]
    heads = {path: jnp.stack([params[path] for params in models]) for path in paths}
    params = {"network": merged.params, "heads": heads, "modules": modules}
    result = aligned_result(
        task, params, history={"distance": finite_curve("surgery", "the distance", distance)},
        num_learned=merged.num_learned + num_params(modules), num_heads=len(models),
        diagnostics={**merged.diagnostics, "num_params": num_params(params)},
    )  # fmt: skip
    return dataclasses.replace(result, apply_fn=surgery_apply(apply_fn), alignments=())


@functools.partial(jax.jit, static_argnames=("rank", "steps"))
def learn_modules(
    pairs: tuple[tuple[Float[Array, "_ C"], Float[Array, "_ C"]], ...],
    key: Key[Array, ""],
    *,
    rank: int,
    steps: tuple[tuple[str, Any], ...],
) -> tuple[Modules, Float[Array, "steps tasks"]]:
    """Fit each task's module to pairs of what its head reads and what it should read.

    Args:
        pairs: for each task what the merged network gives the head, and what its own network gives.
        key: decides where the modules start, and the batches.
        rank: of the modules.
        steps: options of `descend`.

    Returns:
        The modules, and the mean distance of each task before each step.
    """
    size, num = pairs[0][0].shape[1], len(pairs)
    start_key, key = jax.random.split(key)
    down = jax.random.uniform(start_key, (num, size, rank), minval=-1, maxval=1) / size**0.5
    start = {"down": down, "up": jnp.zeros((num, rank, size))}

    def distances(modules: Modules, batches: list[tuple[Array, Array]]) -> tuple[Array, Array]:
        each = [jax.tree.map(operator.itemgetter(task), modules) for task in range(num)]
        missing = [repaired(module, seen) - own for module, (seen, own) in zip(each, batches)]
        # jax's derivative of |0| is 1: what is right already would be moved
        found = [jnp.where(gap == 0, 0, jnp.abs(gap)).mean() for gap in missing]
        return jnp.stack(found).sum(), jnp.stack(found)

    def gradient(modules: Modules, batches: list[Any], key: Array) -> tuple[Array, Modules]:
        grads, each = jax.grad(distances, has_aux=True)(modules, batches)
        return each, grads

    return descend(gradient, start, pairs, key, **dict(steps))
