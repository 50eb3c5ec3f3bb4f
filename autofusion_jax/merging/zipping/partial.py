"""A network zipped up to a cut: one trunk, and the original networks' own heads behind it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from autofusion_jax.merging.method import MergeTask
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.symmetry.capture import fitted_axes
from autofusion_jax.symmetry.factoring import transform_axes
from autofusion_jax.symmetry.program import FlatProgram, Override, Overrides, flatten_program, given
from autofusion_jax.symmetry.site import Site
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.transform import mix_factor
from autofusion_jax.trees import flatten_by_path
from autofusion_jax.types import Params, SoftPerms
from autofusion_jax.validation import require


@dataclasses.dataclass(frozen=True, eq=False)
class PartialNetwork:
    """The program of a partially zipped network; call it like any `apply_fn`.

    Its parameters are `{"trunk": {path: leaf}, "heads": [{path: leaf}], "unmerge": [{group: U_k}]}`:
    the merged leaves before the cut, each network's own behind it, and the matrices that give
    each head the units it knows.

    Attributes:
        spec: the spec of the original networks.
        shapes: their parameters, as shapes.
        cut: the sites whose values separate the inputs from the outputs.
    """

    spec: PermSpec
    shapes: Params
    cut: tuple[Site, ...]

    def __call__(self, params: Params, x: Any) -> Any:
        """The outputs of all heads, stacked `[num_heads, N, ...]`."""
        program = flatten_program(self.spec, self.shapes, x, caller="zipit")
        tree = jax.tree.structure(jax.eval_shape(self.spec.apply_fn or _none, self.shapes, x))
        outputs = []
        for head in range(len(params["heads"])):
            values, overrides = self.head(program, params, x, head)
            outputs.append(tree.unflatten(program.evaluate(program.outputs, values, overrides)))
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)

    def trunk(self, program: FlatProgram, params: Params, x: Any) -> dict[int, Any]:
        """The values of the inputs and of the trunk's leaves."""
        values = {program.leaves[path]: leaf for path, leaf in params["trunk"].items()}
        return values | dict(zip(program.inputs, jax.tree.leaves(x)))

    def numbers(self, program: FlatProgram) -> list[int]:
        """The numbers of the values at the cut."""
        return _numbers(program, self.cut)

    def head(
        self, program: FlatProgram, params: Params, x: Any, head: int, trunk_rules: Overrides | None = None
    ) -> tuple[dict[int, Any], Overrides]:
        """The values of one head's leaves, and the overrides that stand for the trunk.

        Args:
            program: the flat program of the original networks.
            params: parameters of this network.
            x: inputs.
            head: number of the head.
            trunk_rules: other ways to compute some values of the trunk.
        """
        numbers = self.numbers(program)
        at_the_cut = program.evaluate(numbers, self.trunk(program, params, x), trunk_rules)
        values = {program.leaves[path]: leaf for path, leaf in params["heads"][head].items()}
        unmerged = [
            _unmerged(self.spec, site, value, params["unmerge"][head])
            for site, value in zip(self.cut, at_the_cut)
        ]
        return values, given(dict(zip(numbers, unmerged)))


def _none(params: Params, x: Any) -> Any:
    raise ValueError("zipit: perm_spec must carry an apply_fn; got none.")


def _numbers(program: FlatProgram, cut: Sequence[Site]) -> list[int]:
    return [number for site in cut if (number := program.at(site)) is not None]


def _unmerged(spec: PermSpec, site: Site, value: Array, unmerge: SoftPerms) -> Array:
    def action(piece: Array, axis: int, outer_axes: tuple[int, ...], group: str, role: str) -> Array:
        return mix_factor(piece, axis, outer_axes, unmerge[group])

    return transform_axes(spec, fitted_axes(site, value.shape), value, action)


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
    numbers = _numbers(program, cut)
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
    numbers = _numbers(program, cut)
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
