"""The corrections by name, applied to the result of any method."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from jax import Array

from autofusion_jax.merging.corrections.repair import repair
from autofusion_jax.merging.corrections.reset_norm import measure_norms, reset_norm
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.zipping.partial import PartialNetwork
from autofusion_jax.symmetry.flat import flatten_program
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.types import Params
from autofusion_jax.validation import require, unknown_name

CORRECTIONS = ("repair", "reset_norm")


def check_correction(correction: str | None) -> None:
    """Raise ValueError for an unknown name."""
    if correction is not None and correction not in CORRECTIONS:
        raise unknown_name("merge", "correction", correction, CORRECTIONS)


def corrected(
    spec: PermSpec, models: Sequence[Params], result: MergeResult, x: Array, correction: str
) -> MergeResult:
    """Correct a merged network, and each of its variants.

    Args:
        spec: the spec of the networks that were merged.
        models: their parameters.
        result: the merge.
        x: inputs `[N, ...]`.
        correction: one of `CORRECTIONS`.

    Returns:
        The result with corrected parameters; `diagnostics["correction"]` says what was done.

    Raises:
        ValueError: the merged network is an ensemble, or its program has nothing to correct.
    """
    if isinstance(result.apply_fn, PartialNetwork):
        require(
            correction == "reset_norm", "merge", "correction", 'None or "reset_norm" for several heads',
            repr(correction),
        )  # fmt: skip
        return dataclasses.replace(result, params=_reset_heads(result.apply_fn, result.params, x))
    require(
        bool(result.alignments), "merge", "correction", "None for an ensemble, whose members are whole",
        repr(correction),
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
    second = result.perms if name == "hard" else result.soft_perms
    alignments = (*result.alignments[:-1], second)
    return dataclasses.replace(result, params=result.variants[name], alignments=alignments)


def _correct(
    spec: PermSpec, models: Sequence[Params], result: MergeResult, x: Array, correction: str
) -> tuple[Params, dict[str, Any]]:
    if correction == "reset_norm":
        return reset_norm(spec, result.params, x)
    return repair(spec, models, result, x)


def _reset_heads(network: PartialNetwork, params: Params, x: Array) -> Params:
    """Reset the trunk first, then every head on what the trunk then gives it."""
    program = flatten_program(network.spec, network.shapes, x, caller="reset_norm")
    values = {program.leaves[path]: leaf for path, leaf in params["trunk"].items()}
    values.update(zip(program.inputs, jax.tree.leaves(x)))
    params = {
        **params,
        "trunk": params["trunk"] | measure_norms(program, values, {}, network.numbers(program)),
    }
    heads = []
    for number, head in enumerate(params["heads"]):
        values, overrides = network.head(program, params, x, number)
        heads.append(head | measure_norms(program, values, overrides, program.outputs))
    return {**params, "heads": heads}
