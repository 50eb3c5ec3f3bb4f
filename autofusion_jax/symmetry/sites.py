"""Sites of a traced program, and the values that stand there for a batch."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend import core as jex

from autofusion_jax.symmetry.axes import Axis, Concat, Family
from autofusion_jax.symmetry.factoring import transform_axes
from autofusion_jax.symmetry.freeze import COLLECTION, Frozen
from autofusion_jax.symmetry.labels import Factors, total
from autofusion_jax.symmetry.site import Position, Site
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.trace import Path, Tracer


def find_sites(spec: PermSpec, frozen: Frozen, tracer: Tracer, paths: Sequence[str]) -> tuple[Site, ...]:
    """Write down where weights make and read the groups, in the order of the program."""
    found: list[tuple[Path, int | None, int, Position, list[Factors], Sequence[int]]] = []
    for made in tracer.made.values():
        found.append((made.path, None, made.weight, "pre", made.axes, range(len(made.axes))))
    for read in tracer.read.values():
        found.append((read.path, read.operand, read.weight, "read", read.axes, read.dims))
    found.sort(key=lambda item: (item[0], item[1] is None))
    sites: list[Site] = []
    used: set[str] = set()
    for path, operand, weight, position, factors, dims in found:
        axes = tuple(frozen.axis(axis, "out") for axis in factors)
        shape = tuple(map(total, factors))
        base = f"{paths[weight].removeprefix(COLLECTION)}.{position}"
        for group in dict.fromkeys(name for dim in dims for name in axes[dim].groups):
            for occurrence in range(_occurrences(spec, axes, shape, group)):
                name, number = base, 2
                while name in used:
                    name, number = f"{base}_{number}", number + 1
                used.add(name)
                where = (paths[weight], shape, axes, occurrence, path, operand)
                sites.append(Site(name, group, position, *where))
    return tuple(sites)


def _occurrences(spec: PermSpec, axes: tuple[Axis, ...], shape: tuple[int, ...], group: str) -> int:
    composite = any(isinstance(term, Concat | Family) for axis in axes for term in axis.block)
    if not composite and spec.groups[group].combined is None:
        return sum(factor.group == group for axis in axes for factor in axis.factors)
    views: list[Array] = []
    jax.eval_shape(
        lambda value: views.extend(views_of(spec, axes, value, group)), jax.ShapeDtypeStruct(shape, "float32")
    )
    return len(views)


def views_of(spec: PermSpec, axes: tuple[Axis, ...], value: Array, group: str) -> list[Array]:
    """Every occurrence of a group in a value, as `[*rest, *outer, n]`."""
    views: list[Array] = []

    def action(piece: Array, axis: int, outer_axes: tuple[int, ...], name: str, role: str) -> Array:
        if name == group:
            where = (*outer_axes, axis)
            views.append(jnp.moveaxis(piece, where, range(-len(where), 0)))
        return piece

    transform_axes(spec, axes, value, action)
    return views
