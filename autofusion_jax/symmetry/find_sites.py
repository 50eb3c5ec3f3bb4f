"""The sites of a traced program: values that weights make and read, each with the groups it carries."""

from collections.abc import Sequence

import jax
from jax import Array

from autofusion_jax.symmetry.axes import Axis, Concat, Family
from autofusion_jax.symmetry.build_spec import COLLECTION, Frozen
from autofusion_jax.symmetry.factoring import views_of
from autofusion_jax.symmetry.labels import total
from autofusion_jax.symmetry.site import Position, Site
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.trace import Made, Read, Tracer


def find_sites(spec: PermSpec, frozen: Frozen, tracer: Tracer, paths: Sequence[str]) -> tuple[Site, ...]:
    """List the values where weights make and read groups, in the order of the program."""
    found: list[tuple[Position, int | None, Made | Read]] = [
        *(("pre", None, made) for made in tracer.made.values()),
        *(("read", read.operand, read) for read in tracer.read.values()),
    ]
    found.sort(key=lambda item: (item[2].path, item[1] is None))
    sites: list[Site] = []
    used: set[str] = set()
    for position, operand, value in found:
        axes = tuple(frozen.axis(axis, "out") for axis in value.axes)
        carried = {name for axis in axes for name in axis.groups}
        shape, weight = tuple(map(total, value.axes)), paths[value.weight]
        base = f"{weight.removeprefix(COLLECTION)}.{position}"
        own = [name for axis in value.own for name in frozen.axis(axis, "out").groups]
        for group in dict.fromkeys(name for name in own if name in carried):
            for occurrence in range(_occurrences(spec, axes, shape, group)):
                name, number = base, 2
                while name in used:
                    name, number = f"{base}_{number}", number + 1
                used.add(name)
                where = (weight, shape, axes, occurrence, value.path, operand)
                sites.append(Site(name, group, position, *where))
    return tuple(sites)


def _occurrences(spec: PermSpec, axes: tuple[Axis, ...], shape: tuple[int, ...], group: str) -> int:
    """Count a group's occurrences in a value; 0 if it holds products of the group's units with each other."""
    composite = any(isinstance(term, Concat | Family) for axis in axes for term in axis.block)
    if not composite and spec.groups[group].combined is None:
        return int(sum(factor.group == group for axis in axes for factor in axis.factors) == 1)
    views: list[Array] = []
    jax.eval_shape(
        lambda value: views.extend(views_of(spec, axes, value, group)), jax.ShapeDtypeStruct(shape, "float32")
    )
    return len(views)
