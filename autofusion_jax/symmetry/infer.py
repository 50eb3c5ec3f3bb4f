"""`infer_perm_spec`: the permutation symmetries of any traceable function of parameters and inputs."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import jax
import numpy as np
from jax.extend import core as jex
from jax.interpreters import partial_eval

from autofusion_jax.arguments import anything, checked
from autofusion_jax.partition import check_apply_fn, check_has_numbers, split
from autofusion_jax.symmetry.build_spec import Frozen, Leaf
from autofusion_jax.symmetry.check import check_perm_spec
from autofusion_jax.symmetry.find_sites import find_sites
from autofusion_jax.symmetry.labels import (
    Factors,
    Label,
    blocks_of,
    family,
    find,
    fixed_axis,
    labels_of,
    pin,
)
from autofusion_jax.symmetry.nesting import find_structure, settle
from autofusion_jax.symmetry.rules import RULES
from autofusion_jax.symmetry.spec import LISTED, LeafSpec, PermSpec
from autofusion_jax.symmetry.trace import Record, Tracer, Value
from autofusion_jax.symmetry.unread import with_unread
from autofusion_jax.trees import flatten_by_path
from autofusion_jax.types import ApplyFn, Params
from autofusion_jax.validation import require

TIES = "an argmax, top_k or sort depends on the order of its entries (they tie): their axes are fixed"

DIGITS = 16
"""Of a digest that are kept."""

MAX_INDEXED = 64
"""A leaf's axes get labels of their own per index of another axis that is only ever indexed, up to here."""


Network = Annotated[ApplyFn, anything()]
"""Checked by `check_apply_fn`, which says what to give in place of a module."""


@checked
def infer_perm_spec(apply_fn: Network, params: Params, x: Any, *, check: bool = True) -> PermSpec:
    """Derive the permutation symmetries of a network from its program.

    Traces `apply_fn(params, x)` once with abstract values, gives every axis of every leaf a
    label, and propagates the labels through the jaxpr: an operation that needs two axes to be
    in the same order makes their labels the same, one that depends on the order fixes them.
    What is left free are the groups. No numbers are computed but for the check.

    Args:
        apply_fn: pure `apply_fn(params, x) -> outputs` (any pytree of arrays), traceable by JAX.
        params: a pytree of arrays, or of `jax.ShapeDtypeStruct` if `check` is False. Leaves that are no
            numbers (random keys, words, functions) are taken as they are and are not in the spec.
        x: inputs as `apply_fn` takes them, `[N, ...]` or a pytree; a few are enough, but N >= 2
            if activations are to be captured for other N.
        check: draw random group elements and compare the outputs, as `check_perm_spec` does.

    Returns:
        The spec; its `apply_fn` is the one given, its `notes` name what could not be followed.

    Raises:
        ValueError: `apply_fn` cannot be traced, does not fit `params` and `x`, or returns
            something that is no array; or the check fails, naming group, leaf and axis.

    Example:
        >>> import jax.numpy as jnp
        >>> def apply_fn(params, x):
        ...     return jnp.tanh(x @ params["up"]) @ params["down"]
        >>> params = {"up": jnp.arange(12.0).reshape(3, 4), "down": jnp.arange(8.0).reshape(4, 2)}
        >>> print(infer_perm_spec(apply_fn, params, jnp.ones((5, 3))))
        PermSpec with 1 groups
          up: 4 units
        up    (3, 4)              [3, out up:4]
        down  (4, 2)              [in up:4, 2]
    """
    if check and any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves((params, x))):
        raise ValueError(
            "infer_perm_spec: params and x must be arrays if check is True; got a ShapeDtypeStruct. "
            "Pass check=False to infer from shapes alone."
        )
    check_apply_fn("infer_perm_spec", apply_fn)
    check_has_numbers("infer_perm_spec", "params", params)
    numbers, rest = split(params)
    program = trace_program(rest.bind(apply_fn), numbers, x)
    spec, assumes_no_ties = _solve(program, apply_fn, strict=False)
    if not check:
        return spec
    if not assumes_no_ties:
        check_perm_spec(spec, params, x)
        return spec
    try:
        check_perm_spec(spec, params, x)
    except ValueError:  # entries do tie: do without what relies on their being different
        spec, _ = _solve(program, apply_fn, strict=True)
        check_perm_spec(spec, params, x)
        spec = dataclasses.replace(spec, notes=(*spec.notes, TIES))
    return spec


@dataclasses.dataclass(frozen=True)
class Program:
    """A traced network: its jaxpr without dead code, whose first inputs are the leaves."""

    jaxpr: Any
    consts: list[Any]
    paths: list[str]
    shapes: list[tuple[int, ...]]


def trace_program(apply_fn: ApplyFn, params: Params, x: Any, *, caller: str = "infer_perm_spec") -> Program:
    """Trace `apply_fn(params, x)` with abstract values; all leaves are numbers.

    Raises:
        ValueError: it cannot be traced; says what JAX said.
    """
    flat = flatten_by_path(params)
    try:
        # of the function itself, not of one around it: JAX keeps what it traced of it for the same shapes
        closed = jax.make_jaxpr(apply_fn)(params, x)
    except Exception as error:
        raise ValueError(f"{caller}: {_why_not(error)}") from error
    jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars), instantiate=True)
    shapes = [np.shape(leaf) for leaf in flat.values()]
    return Program(jaxpr, list(closed.consts), list(flat), shapes)


def digest(program: Program) -> str:
    """What tells apart programs in which one path leads to different places: their primitives, in order."""
    return hashlib.sha256(" ".join(_primitives(program.jaxpr)).encode()).hexdigest()[:DIGITS]


def _primitives(jaxpr: Any) -> Iterator[str]:
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name
        values = eqn.params.values()
        for part in (part for value in values for part in (value if isinstance(value, tuple) else (value,))):
            opened = getattr(part, "jaxpr", part)
            if hasattr(opened, "eqns"):
                yield "("
                yield from _primitives(opened)
                yield ")"


def fitted_spec(spec: PermSpec, params: Params, x: Any, *, caller: str) -> PermSpec:
    """The spec with the sites of the program that these networks run on these inputs.

    Networks of another dtype than those the spec was inferred from, or other inputs, may run a program with
    more or fewer steps, in which the places of the sites lead elsewhere: they are found again.

    Args:
        spec: a spec; one without sites, or of an unknown program, is returned as it is.
        params: a network, all leaves numbers.
        x: inputs.
        caller: the public function that asks, for messages.

    Raises:
        ValueError: these networks have other symmetries than the spec.
    """
    if not spec.sites or not spec.program or spec.apply_fn is None:
        return spec
    program = trace_program(spec.apply_fn, params, x, caller=caller)
    if digest(program) == spec.program:
        return spec
    again, _ = _solve(program, spec.apply_fn, strict=TIES in spec.notes)
    same = (again.leaves, dict(again.groups)) == (spec.leaves, dict(spec.groups))
    advice = "Infer it from them: infer_perm_spec(apply_fn, params, x)."
    require(same, caller, "perm_spec", "of networks and inputs like these", "one of another program", advice)
    return dataclasses.replace(spec, sites=again.sites, program=again.program, fitted=True)


def _why_not(error: Exception) -> str:
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    said = said.rstrip(".") + ". "
    prefix = f"apply_fn(params, x) must be traceable by JAX; {type(error).__name__}: {said}"
    if isinstance(error, jax.errors.ConcretizationTypeError | jax.errors.TracerArrayConversionError):
        return (
            prefix + "Python control flow or numpy on traced values cannot be followed: use jax.lax and jnp."
        )
    if "not a valid JAX type" in said or "valid JAX type" in said:
        return prefix + "Every output must be an array, or a pytree of arrays."
    return prefix + "Do params and x belong to this function, and do their shapes fit?"


def _solve(program: Program, apply_fn: ApplyFn, *, strict: bool) -> tuple[PermSpec, bool]:
    leaves, tracer = _propagate(program, {}, strict=strict)
    indexed = {leaf.number: axes for leaf in leaves if (axes := _indexed_axes(leaf))}
    if indexed:
        leaves, tracer = _propagate(program, indexed, strict=strict)
    settle(tracer.records)
    structure = find_structure(tracer.records)
    order = {number: place for place, number in enumerate(tracer.order)}
    leaves.sort(key=lambda leaf: order.get(leaf.number, len(order)))
    frozen = Frozen(leaves, structure, tracer)
    specs = tuple(
        LeafSpec(
            leaf.path,
            tuple(frozen.axis(axis, tracer.role(leaf.number, k)) for k, axis in enumerate(leaf.axes)),
        )
        for leaf in leaves
    )
    paths = {leaf.number: leaf.path for leaf in leaves}
    used = _used(program)
    unread = {path for path, var in zip(program.paths, program.jaxpr.invars) if var not in used}
    specs, more = with_unread(specs, unread)
    notes = [*tracer.notes, *_two_roles(specs, paths, tracer), *more]
    if not frozen.groups:
        notes += _why_none(leaves)
    spec = PermSpec(specs, frozen.groups, apply_fn, frozen.stacks, tuple(notes))
    sites = find_sites(spec, frozen, tracer, program.paths)
    return dataclasses.replace(spec, sites=sites, program=digest(program)), tracer.assumes_no_ties


def _propagate(program: Program, indexed: dict[int, list[int]], *, strict: bool) -> tuple[list[Leaf], Tracer]:
    """Label the leaves and walk over the program."""
    tracer = Tracer(RULES, strict=strict)
    used = _used(program)
    leaves, inputs = [], []
    for number, var in enumerate(program.jaxpr.invars):
        if number >= len(program.paths):
            value = Value([fixed_axis(size, "an input") for size in var.aval.shape])
        else:
            axes = _leaf_axes(program.shapes[number], indexed.get(number, []))
            origin = [frozenset([(number, axis)]) for axis in range(len(axes))]
            value = Value(axes, origin, live=False, leaf=number)
            leaves.append(Leaf(number, program.paths[number], value.axes))
            if var not in used:
                value.pin("not used")
        tracer.records.append(Record(value.axes, is_leaf=value.leaf is not None))
        inputs.append(value)
    for output in tracer.run(program.jaxpr, program.consts, inputs):
        output.pin("an output")
        if output.index is not None:
            pin(output.index, "an output")
    return leaves, tracer


def _used(program: Program) -> set[Any]:
    """The variables that an equation reads or that are outputs."""
    atoms = (*(atom for eqn in program.jaxpr.eqns for atom in eqn.invars), *program.jaxpr.outvars)
    return {atom for atom in atoms if not isinstance(atom, jex.Literal)}


def _leaf_axes(shape: Sequence[int], indexed: Sequence[int]) -> list[Factors]:
    """A label for each axis; the others of a leaf with indexed axes have one for each index."""
    axes: list[Factors] = [[Label(size)] if size > 1 else [size] for size in shape]
    keys = [axes[number][0] for number in indexed]

    def per_index(size: int, keys: Sequence[Any]) -> Factors:
        if not keys:
            return [Label(size)]
        return [family(keys[0], [per_index(size, keys[1:]) for _ in range(keys[0].size)])]

    for number, size in enumerate(shape):
        if number not in indexed and size > 1:
            axes[number] = per_index(size, keys)
    return axes


def _indexed_axes(leaf: Leaf) -> list[int]:
    """The axes of a leaf that the program takes apart into single indices (stacked weights)."""
    found = []
    for number, axis in enumerate(leaf.axes):
        label = find(axis[0]) if axis and isinstance(axis[0], Label) else None
        if label is None or label.kind != "concat" or len(leaf.axes) == 1:
            continue
        if 1 < label.size <= MAX_INDEXED and len(blocks_of(label)) == label.size:
            found.append(number)
    sizes = [leaf.axes[number][0] for number in found]
    return found if np.prod([getattr(size, "size", 1) for size in sizes] or [1]) <= MAX_INDEXED else found[:1]


def _why_none(leaves: Sequence[Leaf]) -> list[str]:
    """Say what fixed the axes of a network in which nothing can be moved, each for one of its leaves."""
    reasons: dict[int, str] = {}
    for leaf in leaves:
        for number, axis in enumerate(leaf.axes):
            for label in labels_of(axis):
                if label.fixed and label.reason not in ("an input", "not used"):
                    place = f"{leaf.path} axis {number} ({label.size}): {label.reason}"
                    reasons.setdefault(label.id, place)
    return (
        [f"no groups, as all axes are fixed: {'; '.join(list(reasons.values())[:LISTED])}"] if reasons else []
    )


def _two_roles(leaves: Sequence[LeafSpec], paths: dict[int, str], tracer: Tracer) -> list[str]:
    by_path = {leaf.path: leaf for leaf in leaves}
    return [
        f"{paths[number]} axis {axis} is used in both roles; it is taken as {tracer.roles[number, axis]!r}"
        for number, axis in tracer.two_roles
        if by_path[paths[number]].axes[axis].groups
    ]
