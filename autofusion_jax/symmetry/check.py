"""Numerical check of a permutation spec: random group elements must not change the outputs."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend import core as jex

from autofusion_jax.arguments import checked
from autofusion_jax.programs import jit_by_network
from autofusion_jax.symmetry.axes import Axis, Factor, fixed_axis
from autofusion_jax.symmetry.spec import LeafSpec, PermSpec
from autofusion_jax.symmetry.transform import apply_perm, check_params, identity_perms, random_perms
from autofusion_jax.types import Params, Perms

NUM_DRAWS = 3
FLOAT64_TOLERANCE = 1e-7


@checked
def check_perm_spec(spec: PermSpec, params: Params, x: Any) -> float:
    """Draw random group elements, apply them, and compare the outputs.

    Args:
        spec: the spec to check; must carry an `apply_fn`.
        params: parameters of the network; a little noise is added, so freshly initialised will do.
        x: inputs `[N, ...]`; a few are enough.

    Returns:
        The largest change of an output, relative to its largest entry.

    Raises:
        ValueError: the outputs change by more than rounding explains; names the group, the
            leaf and axis most likely wrong, and the size of the change. Also if the spec has
            no `apply_fn` or does not fit `params`.
    """
    check_params(spec, params, caller="check_perm_spec")
    spec, params = spec.of_numbers(params)
    comparison = _Comparison(spec, params, x)
    tolerance = _tolerance(spec, params, x)
    worst = max(comparison.change(random_perms(spec, jax.random.key(draw))) for draw in range(NUM_DRAWS))
    if worst > tolerance and not _holds_in_float64(spec, params, x):
        raise ValueError(_explain(spec, params, x, comparison, worst, tolerance))
    return worst


class _Comparison:
    """The outputs before and after a group element, as one compiled program."""

    def __init__(self, spec: PermSpec, params: Params, x: Any) -> None:
        if spec.apply_fn is None:
            raise ValueError("check_perm_spec: spec must carry an apply_fn; give PermSpec(..., apply_fn=f).")
        self._spec, self._params, self._x = spec, _perturbed(params), x
        self._before = self._evaluate(identity_perms(spec))

    def _evaluate(self, perms: Perms) -> list[np.ndarray]:
        found = map(np.asarray, _outputs(self._spec, self._params, self._x, perms))
        outputs = [np.asarray(y, np.result_type(y, np.float64)) for y in found]
        if not all(np.isfinite(y).all() for y in outputs):
            raise ValueError(
                "check_perm_spec: the outputs must be finite; got NaN or infinity. Check params and x."
            )
        return outputs

    def change(self, perms: Perms) -> float:
        """The largest change of an output, relative to the largest entry of that output."""
        after = self._evaluate(perms)
        changes = [
            np.abs(b - a).max() / (np.abs(b).max() or 1.0) for a, b in zip(after, self._before) if a.size
        ]
        return float(max(changes, default=0.0))


# parameters are arguments: XLA would compute what depends on constants alone while it compiles
@jit_by_network()
def _outputs(spec: PermSpec, params: Params, x: Any, perms: Perms) -> list[Array]:
    assert spec.apply_fn is not None
    outputs = jax.tree.leaves(spec.apply_fn(apply_perm(spec, params, perms), x))
    return [y for y in outputs if not jnp.issubdtype(jnp.result_type(y), jax.dtypes.extended)]  # no keys


def _perturbed(params: Params) -> Params:
    """The same with a little noise: biases and heads that start at zero would hide what is wrong."""
    rng = np.random.default_rng(0)

    def shift(leaf: Any) -> Any:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            return leaf
        values = np.asarray(leaf, np.float64)
        scale = 0.05 * (np.sqrt(np.mean(values**2)) if values.size else 1.0) or 0.05
        return jnp.asarray(values + scale * np.abs(rng.standard_normal(values.shape)), jnp.result_type(leaf))

    return jax.tree.map(shift, params)


def _tolerance(spec: PermSpec, params: Params, x: Any) -> float:
    """Rounding of the widest sum, once a layer: eps * sqrt(n) * layers, with a margin of 50, at most 0.1."""
    assert spec.apply_fn is not None
    eps = _coarsest(jax.make_jaxpr(spec.apply_fn)(params, x).jaxpr)
    widest = max((axis.size for leaf in spec.leaves for axis in leaf.axes), default=1)
    return min(50 * eps * widest**0.5 * max(len(spec.layers), 1), 0.1)


def _coarsest(jaxpr: Any) -> float:
    """The largest rounding unit among the floating-point values of a program; float32's at least."""
    dtypes = {getattr(var.aval, "dtype", None) for eqn in jaxpr.eqns for var in eqn.outvars}
    floats = [dtype for dtype in dtypes if dtype is not None and jnp.issubdtype(dtype, jnp.floating)]
    inner = [_coarsest(each) for each in jex.subjaxprs(jaxpr)]
    return max([float(jnp.finfo(dtype).eps) for dtype in [*floats, jnp.float32]] + inner)


def _holds_in_float64(spec: PermSpec, params: Params, x: Any) -> bool:
    """Tell whether the change vanishes in float64: then rounding made it, and the spec is right."""

    def double(tree: Any) -> Any:
        return jax.tree.map(
            lambda v: v.astype(jnp.float64) if jnp.issubdtype(v.dtype, jnp.float32) else v,
            jax.tree.map(jnp.asarray, tree),
        )

    with jax.enable_x64(True):
        comparison = _Comparison(spec, double(params), double(x))
        changes = [comparison.change(random_perms(spec, jax.random.key(draw))) for draw in range(NUM_DRAWS)]
    return max(changes) < FLOAT64_TOLERANCE


def _explain(
    spec: PermSpec, params: Params, x: Any, comparison: _Comparison, worst: float, tolerance: float
) -> str:
    """Name the group that breaks the function, and the axis whose relabelling mends it."""
    identity = identity_perms(spec)
    for name in spec.groups:
        perms = {**identity, name: random_perms(spec, jax.random.key(1))[name]}
        change = comparison.change(perms)
        if change > tolerance:
            place = _suspect(spec, params, x, name, perms, tolerance)
            return (
                f"check_perm_spec: reordering group {name!r} must leave the outputs as they are; "
                f"they change by {change:.1e} (tolerance {tolerance:.1e}). {place}"
            )
    return (
        f"check_perm_spec: reordering all groups changes the outputs by {worst:.1e} (tolerance "
        f"{tolerance:.1e}), though no group alone does: a nesting or a shared axis is wrong."
    )


def _suspect(spec: PermSpec, params: Params, x: Any, name: str, perms: Perms, tolerance: float) -> str:
    carriers = []
    for index, leaf in enumerate(spec.leaves):
        for number, axis in enumerate(leaf.axes):
            if name in axis.groups and spec.groups[name].combined is not None:
                carriers.append(f"{leaf.path} axis {number}")
                continue
            if name in axis.groups:
                carriers.append(f"{leaf.path} axis {number}")
                other, advice = fixed_axis(axis.size), "should not carry it"
            elif not axis.groups and axis.size == spec.groups[name].size:
                other, advice = Axis(((Factor(axis.size, name),),), "out"), "should carry it as well"
            else:
                continue
            changed = _with_axis(spec, index, leaf, number, other)
            still_there = any(name in a.groups for item in changed.leaves for a in item.axes)
            if still_there and _Comparison(changed, params, x).change(perms) <= tolerance:
                return f"{leaf.path} axis {number} {advice}."
    return f"It is carried by {', '.join(carriers)}: one of them is wrong or another is missing."


def _with_axis(spec: PermSpec, index: int, leaf: LeafSpec, number: int, axis: Axis) -> PermSpec:
    axes = (*leaf.axes[:number], axis, *leaf.axes[number + 1 :])
    leaves = (*spec.leaves[:index], LeafSpec(leaf.path, axes), *spec.leaves[index + 1 :])
    return dataclasses.replace(spec, leaves=leaves)
