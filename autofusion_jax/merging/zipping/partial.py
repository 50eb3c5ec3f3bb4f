"""A network zipped up to a cut: one trunk, and the original networks' own heads behind it."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jax import Array

from autofusion_jax.merging.method import MergeTask
from autofusion_jax.merging.partial_network import PartialNetwork, numbers_at
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.symmetry.program import FlatProgram, Override, Overrides, flatten_program
from autofusion_jax.symmetry.site import Site
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.trees import flatten_by_path
from autofusion_jax.types import Params, SoftPerms
from autofusion_jax.validation import require


def find_cut(spec: PermSpec, params: Params, x: Array, stop_at: str | Sequence[str]) -> tuple[Site, ...]:
    """The sites at which to stop, if they separate the inputs from the outputs.

    Args:
        spec: a spec from `infer_perm_spec`.
        params: parameters of the network.
        x: inputs `[N, ...]`.
        stop_at: name of a site, or of several that separate together.

    Returns:
        The sites.

    Raises:
        ValueError: an unknown site, one inside of a loop, or sites past which the inputs still
            reach the outputs; lists the single sites that are valid.
    """
    names = [stop_at] if isinstance(stop_at, str) else list(stop_at)
    program = flatten_program(spec, params, x, caller="zipit")
    by_name = {site.name: site for site in spec.sites}
    cut = tuple(by_name[name] for name in names if name in by_name)
    if len(cut) == len(names) and _separates(program, cut):
        return cut
    valid = [site.name for site in spec.sites if _separates(program, [site])]
    unknown = [name for name in names if name not in by_name]
    reason = (
        f"no site of this spec is named {unknown[0]!r}" if unknown else "inputs reach the outputs past it"
    )
    got = f"{stop_at!r} ({reason})"
    require(False, "zipit", "stop_at", f"sites that separate inputs from outputs, such as {valid}", got)
    return ()


def _separates(program: FlatProgram, cut: Sequence[Site]) -> bool:
    numbers = numbers_at(program, cut)
    if len(numbers) < len(cut):
        return False
    nothing: Overrides = {number: Override((), lambda: jnp.zeros(())) for number in numbers}
    return not set(program.inputs).intersection(program.needed(program.outputs, nothing))


def partial_network(
    spec: PermSpec,
    models: Sequence[Params],
    merged: Params,
    unmerge: Sequence[SoftPerms],
    cut: tuple[Site, ...],
    x: Array,
) -> tuple[Params, PartialNetwork]:
    """Put the trunk of the merged network before the heads of the original ones.

    Args:
        spec: the spec of the original networks.
        models: their parameters.
        merged: the parameters of the fully zipped network.
        unmerge: for each network, group -> `U_k [*outer, n, n]`, from merged units to its own.
        cut: sites from `find_cut`.
        x: inputs `[N, ...]`.

    Returns:
        The parameters of the partially zipped network, and its program.
    """
    shapes = jax.eval_shape(lambda: models[0])
    program = flatten_program(spec, shapes, x, caller="zipit")
    numbers = numbers_at(program, cut)
    nothing: Mapping[int, Override] = {number: Override((), lambda: jnp.zeros(())) for number in numbers}
    before, behind = program.needed(numbers), program.needed(program.outputs, nothing)
    trunk = {path: leaf for path, leaf in flatten_by_path(merged).items() if program.leaves[path] in before}
    heads = [
        {path: leaf for path, leaf in flatten_by_path(params).items() if program.leaves[path] in behind}
        for params in models
    ]
    crossing = {group for site in cut for axis in site.axes for group in axis.groups}
    known = [{group: matrices[group] for group in sorted(crossing)} for matrices in unmerge]
    return {"trunk": trunk, "heads": heads, "unmerge": known}, PartialNetwork(spec, shapes, cut)


def stopped(
    task: MergeTask, result: MergeResult, unmerge: Sequence[SoftPerms], cut: tuple[Site, ...]
) -> MergeResult:
    """Keep of a zipped network what stands before a cut. See `partial_network`."""
    params, network = partial_network(
        task.require_perm_spec(), task.models, result.params, unmerge, cut, task.require_x()[:2]
    )
    return dataclasses.replace(result, params=params, apply_fn=network, num_heads=len(task.models))
