"""The program of a network with one trunk and several heads, as a partial zip makes it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from autofusion_jax.symmetry.capture import fitted_axes
from autofusion_jax.symmetry.factoring import transform_axes
from autofusion_jax.symmetry.program import FlatProgram, Overrides, flatten_program, given
from autofusion_jax.symmetry.site import Site
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.transform import mix_factor
from autofusion_jax.types import Params, SoftPerms


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
        return numbers_at(program, self.cut)

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


def numbers_at(program: FlatProgram, cut: Sequence[Site]) -> list[int]:
    """The numbers of the values at sites."""
    return [number for site in cut if (number := program.at(site)) is not None]


def _unmerged(spec: PermSpec, site: Site, value: Array, unmerge: SoftPerms) -> Array:
    def action(piece: Array, axis: int, outer_axes: tuple[int, ...], group: str, role: str) -> Array:
        return mix_factor(piece, axis, outer_axes, unmerge[group])

    return transform_axes(spec, fitted_axes(site, value.shape), value, action)
