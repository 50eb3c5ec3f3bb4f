"""The values that stand at a spec's sites, from one evaluation of the traced program."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend import core as jex
from jax.tree_util import Partial

from autofusion_jax.arguments import checked
from autofusion_jax.programs import jit_by_network
from autofusion_jax.symmetry.axes import Axis, Factor, block_size, fixed_axis
from autofusion_jax.symmetry.factoring import views_of
from autofusion_jax.symmetry.infer import fitted_spec, trace_program
from autofusion_jax.symmetry.moments import Moments, stream_moments
from autofusion_jax.symmetry.rules.control import CALLS, inner_jaxpr, scan_parts
from autofusion_jax.symmetry.site import Site
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.trace import Path
from autofusion_jax.symmetry.transform import check_params
from autofusion_jax.types import Params
from autofusion_jax.validation import require

Place = tuple[Path, int]
"""An equation, and which of its operands; -1 for its first output."""


@checked
def capture_sites(
    spec: PermSpec, params: Params, x: Any, *, sites: Sequence[Site] | None = None
) -> dict[str, Array]:
    """Evaluate the network once and return the values at all sites.

    Pure; jitted as one program, and jit-able and vmap-able over `params` and `x`. The number of
    inputs may differ from that of the inputs the spec was inferred from.

    Args:
        spec: a spec from `infer_perm_spec`.
        params: parameters of the network.
        x: inputs `[N, ...]`.
        sites: which of the spec's sites; all of them if left out.

    Returns:
        Site name -> values `[*samples, *outer, n]`: the group's units last, the outer indices of
        a nested group before them, and all that they are counted over in front.

    Raises:
        ValueError: the spec has no `apply_fn` or no sites, or does not fit `params` and `x`.

    Example:
        >>> from autofusion_jax.symmetry.infer import infer_perm_spec
        >>> def apply_fn(params, x):
        ...     return jnp.maximum(x @ params["up"], 0) @ params["down"]
        >>> params = {"up": jnp.eye(2), "down": jnp.ones((2, 1))}
        >>> spec = infer_perm_spec(apply_fn, params, jnp.ones((1, 2)))
        >>> values = capture_sites(spec, params, jnp.array([[1.0, -1.0]]))
        >>> values["up.pre"].tolist(), values["down.read"].tolist()
        ([[1.0, -1.0]], [[1.0, 0.0]])
    """
    check_params(spec, params, caller="capture_sites")
    if spec.apply_fn is None or (spec.groups and not spec.sites):
        missing = "apply_fn" if spec.apply_fn is None else "sites"
        raise ValueError(
            f"capture_sites: spec must carry an apply_fn and sites; it has no {missing}. "
            "Use infer_perm_spec(apply_fn, params, x)."
        )
    names = [site.name for site in (spec.sites if sites is None else sites)]
    spec, params = spec.of_numbers(params)
    spec = fitted_spec(spec, params, x, caller="capture_sites")
    known = {site.name: site for site in spec.sites}
    for name in names:
        require(name in known, "capture_sites", "sites", f"of the spec: {', '.join(known)}", repr(name))
    wanted = tuple(known[name] for name in names)
    found = _capture(spec, wanted, params, x)
    return {site.name: found[site.name] for site in wanted}  # jit sorts its dicts


# spec and sites are static and equal by value: the same sites of an equal spec compile once
@jit_by_network(static_argnames=("sites",))
def _capture(spec: PermSpec, sites: tuple[Site, ...], params: Params, x: Any) -> dict[str, Array]:
    assert spec.apply_fn is not None
    program = trace_program(spec.apply_fn, params, x, caller="capture_sites")
    # several sites may lie at one place: the groups of one value
    wanted = frozenset(map(_place, sites))
    inputs = [*jax.tree.leaves(params), *jax.tree.leaves(x)]
    _, found = _evaluate(program.jaxpr, program.consts, inputs, wanted, ())
    return {site.name: _view(spec, site, found) for site in sites}


def _place(site: Site) -> Place:
    return site.path, -1 if site.operand is None else site.operand


def _view(spec: PermSpec, site: Site, found: dict[Place, Array]) -> Array:
    value = found.get(_place(site))
    # other shapes can trace to another program (a branch on the batch size), where paths lead elsewhere
    if value is None or value.ndim != len(site.axes):
        raise ValueError(
            f"capture_sites: x must lead to the program that the spec was inferred from; site {site.name!r} "
            "is not in it. Infer the spec again with inputs like these."
        )
    return views_of(spec, fitted_axes(site, value.shape), value, site.group)[site.occurrence]


def fitted_axes(site: Site, shape: tuple[int, ...]) -> tuple[Axis, ...]:
    """The axes of a site's value for another number of inputs."""
    return tuple(_fitted(site, axis, size) for axis, size in zip(site.axes, shape))


def _fitted(site: Site, axis: Axis, size: int) -> Axis:
    """The axis for another number of inputs, which only changes what stands outside the groups."""
    if axis.size == size:
        return axis
    if not axis.groups:
        return fixed_axis(size)
    first, *rest = axis.block
    # only a plain outermost factor can hold examples, as in a reshape of [N, heads] to [N * heads]
    lead = isinstance(first, Factor) and first.group is None and first.stack is None
    inner = tuple(rest) if lead else axis.block
    # the units are what they were; the rest must be a whole number of examples
    if size % block_size(inner):
        raise ValueError(
            f"capture_sites: site {site.name!r} must have an axis of {axis.size} units; got {size}. "
            "Infer the spec again with inputs like these."
        )
    return dataclasses.replace(axis, blocks=((Factor(size // block_size(inner)), *inner),))


def _evaluate(
    jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any], wanted: frozenset[Place], path: Path
) -> tuple[list[Any], dict[Place, Array]]:
    """Evaluate a jaxpr, calls inlined, and keep the values that are wanted."""
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *inputs)))
    found: dict[Place, Array] = {}

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jex.Literal) else values[atom]

    for number, eqn in enumerate(jaxpr.eqns):
        here, operands = (*path, number), [read(atom) for atom in eqn.invars]
        # a scan in which nothing is wanted is bound as it is: carrying values out costs memory
        inside = any(place[: len(here)] == here and len(place) > len(here) for place, _ in wanted)
        # always inlined: paths count equations through calls, as the tracer did
        if eqn.primitive.name in CALLS:
            outputs, more = _evaluate(*inner_jaxpr(eqn), operands, wanted, here)
        elif inside and eqn.primitive.name == "scan":
            outputs, more = _evaluate_scan(eqn, operands, wanted, here)
        else:
            outputs, more = eqn.primitive.bind(*operands, **eqn.params), {}
            outputs = outputs if eqn.primitive.multiple_results else [outputs]
        found |= more
        found |= {(here, k): v for k, v in enumerate(operands) if (here, k) in wanted}
        if (here, -1) in wanted:
            found[here, -1] = outputs[0]
        values.update(zip(eqn.outvars, outputs))
    return [read(atom) for atom in jaxpr.outvars], found


def _evaluate_scan(
    eqn: Any, operands: list[Any], wanted: frozenset[Place], path: Path
) -> tuple[list[Any], dict[Place, Array]]:
    """A scan whose body also returns what is wanted, stacked along the scanned axis."""
    consts, carry, scanned = scan_parts(eqn, operands)

    def step(carry: list[Any], rows: list[Any]) -> tuple[list[Any], Any]:
        outputs, found = _evaluate(*inner_jaxpr(eqn), [*consts, *carry, *rows], wanted, path)
        # values leave a scan only as outputs, stacked in front, where `Site.axes` has the scanned axis
        return outputs[: len(carry)], (outputs[len(carry) :], found)

    options = {name: eqn.params[name] for name in ("length", "reverse", "unroll")}
    carry, (stacked, found) = jax.lax.scan(step, carry, scanned, **options)
    return [*carry, *stacked], found


@checked
def moments(
    spec: PermSpec,
    models: Sequence[Params],
    batches: Iterable[Any],
    *,
    sites: Sequence[Site] | None = None,
) -> dict[str, Moments]:
    """Stream means, covariances and cross-covariances of the activations at every site.

    Nothing is held but the moments themselves. The entries of a site are counted over all
    inputs and, for feature maps or sequences, over all places.

    Args:
        spec: a spec from `infer_perm_spec`.
        models: one, two or more networks, each the parameters of one architecture.
        batches: batches of inputs, each `[N, ...]`; the last may be smaller.
        sites: which of the spec's sites; all of them if left out.

    Returns:
        Site name -> `Moments`; its `cross(0, 1)` is the cross-covariance of two networks.

    Raises:
        ValueError: something does not fit, there is no batch, or an activation is not finite.
    """
    wanted = spec.sites if sites is None else tuple(sites)
    pairs = [spec.of_numbers(params) for params in models]  # networks are arguments of a compiled step
    spec, models = pairs[0][0], [numbers for _, numbers in pairs]
    # bound by Partial, the models are arguments of the compiled step and not constants in it
    return stream_moments(Partial(_Stacked(spec, wanted), list(models)), batches)


@dataclasses.dataclass(frozen=True)
class _Stacked:
    """The values at sites, of all models side by side, as `stream_moments` takes them."""

    spec: PermSpec
    sites: tuple[Site, ...]

    def __call__(self, models: Sequence[Params], batch: Any) -> dict[str, tuple[Array, int]]:
        captured = [capture_sites(self.spec, params, batch, sites=self.sites) for params in models]
        return {
            site.name: (
                jnp.stack([values[site.name] for values in captured]),
                len(self.spec.groups[site.group].nested_in),
            )
            for site in self.sites
        }
