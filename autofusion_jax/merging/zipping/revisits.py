"""Visits to families of groups, each matched anew as the groups around it are merged at present."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from autofusion_jax.merging.zipping.family_matching import Matching
from autofusion_jax.merging.zipping.group_families import Family
from autofusion_jax.symmetry.spec import PermSpec


class Revisits:
    """Visits to families that are not made again as long as nothing around the family has changed."""

    def __init__(
        self,
        spec: PermSpec,
        families: Sequence[Family],
        visit: Callable[[Family, Mapping[Family, Matching]], Matching],
    ) -> None:
        """Prepare visits; none is made yet.

        Args:
            spec: the permutation spec.
            families: its families.
            visit: matches a family anew, given the present matchings of all.
        """
        self._visit = visit
        self._last: dict[Family, tuple[list[Matching | None], Matching, float]] = {}
        carried = [{name for axis in leaf.axes for name in axis.groups} for leaf in spec.leaves]
        self._near = {
            family: [
                other
                for other in families
                if (other is not family or len(family.inner) > 1)
                and any(leaf & set(family.inner) and leaf & {*other.outer, *other.inner} for leaf in carried)
            ]
            for family in families
        }

    def visit(self, family: Family, state: Mapping[Family, Matching]) -> tuple[Matching, float]:
        """The family's matching, the same object if its matrices are as before, and its value."""
        around = [state.get(other) for other in self._near[family]]
        if family in self._last:
            before, matching, value = self._last[family]
            if all(x is y for x, y in zip(before, around)):
                return matching, value
        matching = self._visit(family, state)
        value, present = matching.value, state.get(family)
        if present and all(np.array_equal(u, present.unmerge[g]) for g, u in matching.unmerge.items()):
            matching = present
        self._last[family] = around, matching, value
        return matching, value
