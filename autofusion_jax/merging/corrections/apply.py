"""The corrections by name, applied to the result of any method."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal

from jax import Array

from autofusion_jax.merging.corrections.repair import repair
from autofusion_jax.merging.corrections.reset_norm import (
    BATCH_SIZE,
    measure_norms,
    over_batches,
    reset_norm,
    training_rules,
    updated,
)
from autofusion_jax.merging.partial_network import PartialNetwork
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.programs import jit_by_network
from autofusion_jax.symmetry.program import flatten_program
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.types import Params
from autofusion_jax.validation import require

Correction = Literal["repair", "reset_norm"]


def corrected(
    spec: PermSpec, models: Sequence[Params], result: MergeResult, x: Array, correction: Correction
) -> MergeResult:
    """Correct a merged network, and each of its variants.

    Args:
        spec: the spec of the networks that were merged.
        models: their parameters.
        result: the merge.
        x: inputs `[N, ...]`.
        correction: `"repair"` or `"reset_norm"`.

    Returns:
        The result with corrected parameters; `diagnostics["correction"]` says what was done.

    Raises:
        ValueError: the merged network is an ensemble or another program, or has nothing to correct.
    """
    if isinstance(result.apply_fn, PartialNetwork):
        require(
            correction == "reset_norm", "merge", "correction", 'None or "reset_norm" for several heads',
            repr(correction),
        )  # fmt: skip
        return dataclasses.replace(result, params=reset_heads(result.apply_fn, result.params, x))
    require(
        bool(result.alignments), "merge", "correction",
        "None for an ensemble, or for another program than the networks' own", repr(correction),
    )  # fmt: skip
    variants = result.variants or {"": result.params}
    done = {name: _correct(spec, models, _of_variant(result, name), x, correction) for name in variants}
    params = {name: params for name, (params, _) in done.items()}
    chosen = next((name for name, old in variants.items() if old is result.params), next(iter(variants)))
    diagnostics = {**result.diagnostics, "correction": {"name": correction, **done[chosen][1]}}
    return dataclasses.replace(
        result, params=params[chosen], variants=params if result.variants else {}, diagnostics=diagnostics
    )


def _of_variant(result: MergeResult, name: str) -> MergeResult:
    if not name:
        return result
    rounded = {"hard": result.perms, "soft": result.soft_perms}
    alignments = (*result.alignments[:-1], rounded.get(name, result.alignments[-1]))
    return dataclasses.replace(result, params=result.variants[name], alignments=alignments)


def _correct(
    spec: PermSpec, models: Sequence[Params], result: MergeResult, x: Array, correction: Correction
) -> tuple[Params, dict[str, Any]]:
    if correction == "reset_norm":
        return reset_norm(spec, result.params, x)
    return repair(spec, models, result, x)


def reset_heads(network: PartialNetwork, params: Params, x: Array, *, batch_size: int = BATCH_SIZE) -> Params:
    """`reset_norm` for a trunk and, on what it gives them in training, all of its heads.

    Args:
        network: the program of the partially zipped network.
        params: its parameters.
        x: inputs `[N, ...]`.
        batch_size: inputs evaluated at once, >= 2.
    """
    trunk = over_batches(functools.partial(_measure_trunk, network, params), x, batch_size)
    heads = [
        over_batches(functools.partial(_measure_head, network, number, params), x, batch_size)
        for number in range(len(params["heads"]))
    ]
    return {
        **params,
        "trunk": updated(params["trunk"], trunk),
        "heads": [updated(leaves, measured) for leaves, measured in zip(params["heads"], heads)],
    }


@jit_by_network()
def _measure_trunk(network: PartialNetwork, params: Params, x: Array) -> dict[str, tuple[Array, Array]]:
    program = flatten_program(network.spec, network.shapes, x, caller="reset_norm")
    values = network.trunk(program, params, x)
    return measure_norms(program, values, {}, network.numbers(program))


@jit_by_network(static_argnames=("number",))
def _measure_head(
    network: PartialNetwork, number: int, params: Params, x: Array
) -> dict[str, tuple[Array, Array]]:
    program = flatten_program(network.spec, network.shapes, x, caller="reset_norm")
    trunk = network.trunk(program, params, x)
    rules, _ = training_rules(program, trunk, {}, network.numbers(program))
    values, overrides = network.head(program, params, x, number, rules)
    return measure_norms(program, values, overrides, program.outputs)
