"""Measure the BatchNorm statistics of a merged network again, on unlabelled inputs."""

import dataclasses
import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from autofusion_jax.precision import wide
from autofusion_jax.programs import jit_by_network
from autofusion_jax.symmetry.affine import MOVES, AffineReader
from autofusion_jax.symmetry.program import Equation, FlatProgram, Override, Overrides, flatten_program
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.trees import flatten_by_path, unflatten_like
from autofusion_jax.types import Params
from autofusion_jax.validation import require

BATCH_SIZE = 500

ROOTS = frozenset(("rsqrt", "sqrt", "pow", "integer_pow"))


@dataclasses.dataclass(frozen=True)
class StoredNorm:
    """A normalisation with stored statistics, `(value - mean) / sqrt(variance + eps)`.

    Attributes:
        value: number of the value that is normalised.
        operand: number of the mean as it is subtracted, in the value's shape.
        mean: path of the leaf that holds the mean.
        variance: path of the leaf that holds the variance, of the same shape.
    """

    value: int
    operand: int
    mean: str
    variance: str


def reset_norm(
    spec: PermSpec, params: Params, x: Array, *, batch_size: int = BATCH_SIZE
) -> tuple[Params, dict[str, Any]]:
    """Set every stored mean and variance to that of the merged network's own activations.

    The normalisations are found in the program: a leaf is subtracted from an activation, and
    the difference multiplied by `1 / sqrt` of another one. Each batch is evaluated as in
    training, every normalisation by the statistics of the batch; the means and unbiased
    variances are averaged over batches.

    Args:
        spec: a spec that carries an `apply_fn`.
        params: parameters of the merged network, statistics among them.
        x: inputs `[N, ...]`.
        batch_size: inputs evaluated at once, >= 2; a last batch of one joins that before.

    Returns:
        The parameters with new statistics, and the leaves that were set.

    Raises:
        ValueError: the program has no such normalisation; or one of them sees a single number of every
            unit, which has no variance: one input, where there are no places to count over.

    References:
        Izmailov et al.: Averaging weights leads to wider optima and better generalization, UAI
        2018, Sec. 3.2.
    """
    norms = stored_norms(flatten_program(spec, params, x, caller="reset_norm"))
    require(
        bool(norms), "merge", "correction", 'None or "repair" for this network', '"reset_norm"',
        "Its program normalises nothing by stored statistics.",
    )  # fmt: skip
    leaves = flatten_by_path(params)
    measured = over_batches(functools.partial(_measure, spec, params), x, batch_size)
    return unflatten_like(params, updated(leaves, measured)), {"reset": sorted(measured)}


def updated(leaves: Mapping[str, Array], measured: Mapping[str, Array]) -> dict[str, Array]:
    """Leaves by path, with measured statistics in place of some, in the dtypes of those."""
    return {**leaves, **{path: value.astype(leaves[path].dtype) for path, value in measured.items()}}


def over_batches(
    measure: Callable[[Array], dict[str, tuple[Array, Array]]], x: Array, batch_size: int
) -> dict[str, Array]:
    """The mean of what is measured on batches, each counting as many times as it has inputs.

    Args:
        measure: gives path -> statistic, and on how many numbers each entry of it was measured.
        x: inputs `[N, ...]`.
        batch_size: the size of a batch, >= 2; a last one of one input joins that before.

    Raises:
        ValueError: a statistic was measured on one number.
    """
    starts = list(range(0, len(x), batch_size))
    # one number has no variance: 0 of it would count as if it had been measured
    stops = [*(starts[1:-1] if len(x) % batch_size == 1 else starts[1:]), len(x)]
    total: dict[str, Array] = {}
    for start, stop in zip(starts, stops):
        for path, (value, count) in measure(x[start:stop]).items():
            require(
                int(jnp.min(count, initial=2)) >= 2,
                *("merge", "batch", 'of two or more inputs for correction="reset_norm"', stop - start),
                f"{path!r} holds statistics, and a single number has no variance.",
            )
            total[path] = total.get(path, 0) + value * ((stop - start) / len(x))
    return total


@jit_by_network()
def _measure(spec: PermSpec, params: Params, x: Array) -> dict[str, tuple[Array, Array]]:
    program = flatten_program(spec, params, x, caller="reset_norm")
    return measure_norms(program, program.values(params, x), {}, program.outputs)


def measure_norms(
    program: FlatProgram, values: Mapping[int, Array], overrides: Overrides, outputs: Sequence[int]
) -> dict[str, tuple[Array, Array]]:
    """The statistics that every stored norm on the way to some values ought to hold.

    Args:
        program: the flat program.
        values: values of its leaves and inputs.
        overrides: other ways to compute some values.
        outputs: numbers of the values; norms that they do not depend on are left out.

    Returns:
        Path of a leaf -> its new value, in float32 or wider, and on how many numbers each entry of it was
        measured.
    """
    rules, wanted = training_rules(program, values, overrides, outputs)
    return dict(zip(wanted, program.evaluate(list(wanted.values()), values, rules)))


def training_rules(
    program: FlatProgram, values: Mapping[int, Array], overrides: Overrides, outputs: Sequence[int]
) -> tuple[Overrides, dict[str, int]]:
    """The overrides under which stored norms use the batch's own statistics. See `measure_norms`.

    Returns:
        The overrides, those given among them; and path of a leaf -> number of its new value.
    """
    reached = program.needed(outputs, overrides)
    wanted: dict[str, int] = {}
    rules = dict(overrides)
    for norm in (norm for norm in stored_norms(program) if norm.value in reached):
        mean, variance = program.leaves[norm.mean], program.leaves[norm.variance]
        spread, new_mean, new_variance = program.new(), program.new(), program.new()
        rules[spread] = Override((norm.value,), functools.partial(_statistics, program, norm, values[mean]))
        rules[mean] = Override((spread,), functools.partial(_cast, 0, values[mean].dtype))
        rules[variance] = Override((spread,), functools.partial(_cast, 1, values[variance].dtype))
        rules[new_mean] = Override((spread,), operator.itemgetter(0, 3))
        rules[new_variance] = Override((spread,), operator.itemgetter(2, 3))
        wanted |= {norm.mean: new_mean, norm.variance: new_variance}
    return rules, wanted


def _cast(index: int, dtype: Any, spread: tuple[Array, ...]) -> Array:
    return spread[index].astype(dtype)


def _statistics(
    program: FlatProgram, norm: StoredNorm, leaf: Array, value: Array
) -> tuple[Array, Array, Array, Array]:
    """Mean, variance, unbiased variance and number of places that an entry of the leaf is subtracted at."""
    value = wide(value)

    def spread_out(leaf: Array) -> Array:
        operand = program.evaluate([norm.operand], {program.leaves[norm.mean]: leaf})[0]
        return jnp.broadcast_to(operand, value.shape).astype(value.dtype)

    gather = jax.linear_transpose(spread_out, jax.ShapeDtypeStruct(leaf.shape, value.dtype))
    count, total = gather(jnp.ones_like(value))[0].real, gather(value)[0]
    # a real leaf moves a complex value along its real part alone
    mean = (total if jnp.iscomplexobj(leaf) else total.real) / count
    squares = gather(jnp.abs(value - spread_out(mean)).astype(value.dtype) ** 2)[0].real
    return mean, squares / count, squares / jnp.maximum(count - 1, 1), count


def stored_statistics(spec: PermSpec, params: Params, x: Array | None) -> frozenset[str]:
    """Paths of the leaves that hold measured statistics of norms; none where nothing can be traced."""
    if spec.apply_fn is None or x is None:
        return frozenset()
    norms = stored_norms(flatten_program(spec, params, x, caller="reset_norm"))
    return frozenset(path for norm in norms for path in (norm.mean, norm.variance))


def stored_norms(program: FlatProgram) -> list[StoredNorm]:
    """Find the normalisations by stored statistics, each with leaves of its own."""
    reader = AffineReader(program)
    readers: dict[int, list[Equation]] = {}
    for equation in program.equations.values():
        for number in equation.inputs:
            readers.setdefault(number, []).append(equation)
    found: list[StoredNorm] = []
    for equation in program.equations.values():
        operands = reader.split(equation) if equation.name == "sub" else None
        if operands is None or operands[1] is None or operands[0] != equation.inputs[0]:
            continue
        mean = reader.leaf(operands[1])
        variances = _variances(reader, readers, equation) if mean else set()
        if mean and len(variances) == 1:
            found.append(StoredNorm(operands[0], operands[1], mean, variances.pop()))
    used = [path for norm in found for path in (norm.mean, norm.variance)]
    return [norm for norm in found if used.count(norm.mean) == used.count(norm.variance) == 1]


def _variances(reader: AffineReader, readers: Mapping[int, list[Equation]], difference: Equation) -> set[str]:
    """The leaves under the square roots that a difference is multiplied or divided by."""
    found: set[str] = set()
    waiting = list(difference.outputs)
    while waiting:
        for equation in readers.get(waiting.pop(), ()):
            if equation.name in MOVES:
                waiting.extend(equation.outputs)
            elif equation.name in ("mul", "div"):
                for number in set(equation.inputs) - reader.live:
                    found |= _under_roots(reader, number)
    return found


def _under_roots(reader: AffineReader, number: int) -> set[str]:
    """The leaves that stand, perhaps with an epsilon, under a square root in a value."""
    program = reader.program
    makers = (program.maker.get(value) for value in program.needed([number]))
    roots = (equation.inputs[0] for equation in makers if equation and equation.name in ROOTS)
    return {path for root in roots for inner in program.needed([root]) if (path := reader.leaf(inner))}
