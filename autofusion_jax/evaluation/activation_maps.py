"""Grad-CAM at any site of any traced network: the parts of an input that raise the score of a class."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from autofusion_jax.arguments import checked
from autofusion_jax.partition import split
from autofusion_jax.programs import jit_by_network
from autofusion_jax.symmetry.affine import AffineReader
from autofusion_jax.symmetry.capture import fitted_axes
from autofusion_jax.symmetry.factoring import views_of
from autofusion_jax.symmetry.program import FlatProgram, Override, flatten_program
from autofusion_jax.symmetry.rules.elementwise import BY_ENTRY, COPIES
from autofusion_jax.symmetry.site import Site
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.types import ApplyFn, Params
from autofusion_jax.validation import require

ELEMENTWISE = frozenset((*BY_ENTRY.split(), *COPIES.split(), "add", "sub", "mul", "div", "select_n"))

Kind = Literal["grad_cam", "gradient_x_input"]


class ActivationMaps(NamedTuple):
    """Maps over inputs, and how they were made.

    Attributes:
        values: `[N, *places]`, >= 0, at the resolution of the inputs.
        kind: `"grad_cam"`, or `"gradient_x_input"` where the site has no places like the inputs'.
    """

    values: Array
    kind: Kind


@checked
def activation_maps(
    spec: PermSpec,
    params: Params,
    x: Float[Array, "n ..."],
    classes: Int[Array, " n"],
    *,
    site: Site,
    relative: bool = False,
) -> ActivationMaps:
    """Map the evidence for a class: by Grad-CAM at a site, or by gradient x input where it has no places.

    Sites of dense layers have no places, and a transformer's tokens do not lie as pixels do: the map
    is then the same for all of them.

    Args:
        spec: a spec from `infer_perm_spec`, of a network with logits `[N, classes]`.
        params: parameters of the network.
        x: inputs `[N, *places, channels]`, such as images `[N, height, width, channels]`.
        classes: the class of each input whose logit is explained.
        site: where, one of `spec.sites`.
        relative: explain the logit less the mean of all logits; see `grad_cam`.

    Returns:
        The maps `[N, *places]`.

    Raises:
        ValueError: as `grad_cam`.
    """
    if has_places(spec, site, x):
        return ActivationMaps(grad_cam(spec, params, x, classes, site=site, relative=relative), "grad_cam")
    require(spec.apply_fn is not None, "activation_maps", "spec", "one that carries an apply_fn", "none")
    assert spec.apply_fn is not None
    return ActivationMaps(
        gradient_x_input(spec.apply_fn, params, x, classes, relative=relative), "gradient_x_input"
    )


def has_places(spec: PermSpec, site: Site, x: Float[Array, "n ..."]) -> bool:
    """Tell whether a site has as many axes of places, one or more, as inputs `[N, *places, channels]`."""
    shape = jax.ShapeDtypeStruct(site.shape, jnp.float32)
    view = jax.eval_shape(lambda value: _view(spec, site, value), shape)
    return view.ndim - 2 - len(spec.groups[site.group].nested_in) == x.ndim - 2 > 0


@checked
def grad_cam(
    spec: PermSpec,
    params: Params,
    x: Float[Array, "n ..."],
    classes: Int[Array, " n"],
    *,
    site: Site,
    relative: bool = False,
) -> Float[Array, "n ..."]:
    r"""Grad-CAM: `ReLU(sum_k alpha_k A_k)` with `alpha_k = mean over places of d logit / d A_k`.

    `A` is the value at the site or, if nothing but an elementwise function (ReLU, GELU, ...) takes it
    up, what that makes of it: the feature map before any pooling. Its gradient is taken by running
    the rest of the network from there. The map is brought to the inputs' size linearly. Where a
    ReLU's input is exactly 0, its gradient is one half, as jax has it for a maximum of equals.

    Args:
        spec: a spec from `infer_perm_spec`, of a network with logits `[N, classes]`.
        params: parameters of the network.
        x: inputs `[N, *places, channels]`; one may not depend on another.
        classes: the class of each input whose logit is explained.
        site: where: one that `has_places`.
        relative: explain the logit less the mean of all logits. What is added to all logits alike
            changes no answer, but it changes the map of a logit: where networks of different tasks
            are merged, all logits may fall, and nothing would speak for any.

    Returns:
        Maps `[N, *places]`, >= 0, in units of the logit over the number of places.

    Raises:
        ValueError: the site has no places, is inside of a loop, or the network gives no logits.

    References:
        Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra: Grad-CAM: visual explanations from deep
        networks via gradient-based localization, ICCV 2017, Eq. 1 and 2.
    """
    require(
        has_places(spec, site, x), "grad_cam", "site", "one with places as in x [N, *places, channels]",
        f"{site.name!r} of shape {site.shape}, x {list(x.shape)}", "Use gradient_x_input.",
    )  # fmt: skip
    spec, params = spec.of_numbers(params)
    _check_logits("grad_cam", spec.apply_fn, params, x, classes)
    return _grad_cam(spec, site, relative, params, x, classes)


@checked
def gradient_x_input(
    apply_fn: ApplyFn,
    params: Params,
    x: Float[Array, "n ..."],
    classes: Int[Array, " n"],
    *,
    relative: bool = False,
) -> Float[Array, "n ..."]:
    """The part of each place in a class's logit to first order: `ReLU(sum_c x_c d logit / d x_c)`.

    Args:
        apply_fn: the network, with logits `[N, classes]`.
        params: its parameters.
        x: inputs `[N, *places, channels]`; one may not depend on another.
        classes: the class of each input whose logit is explained.
        relative: explain the logit less the mean of all logits.

    Returns:
        Maps `[N, *places]`, >= 0.

    Raises:
        ValueError: the network gives no logits for these inputs.

    Example:
        >>> x = jnp.array([[[1.0], [2.0]]])  # one input, two places, one channel
        >>> weights = jnp.array([[1.0, 0.0], [-3.0, 1.0]])
        >>> print(gradient_x_input(lambda w, x: x[..., 0] @ w, weights, x, jnp.array([0])))
        [[1. 0.]]
    """
    params, rest = split(params)
    apply_fn = rest.bind(apply_fn)
    _check_logits("gradient_x_input", apply_fn, params, x, classes)
    return _gradient_x_input(apply_fn, relative, params, x, classes)


def activation_after(program: FlatProgram, number: int) -> int:
    """Find the output of the elementwise function that alone reads a value; else the value itself.

    Args:
        program: the network.
        number: of a value, such as a pre-activation.

    Returns:
        The number of the last value through which everything passes that the program computes of
        it, by elementwise operations with constants and parameters alone; itself if there is none.
    """
    live = AffineReader(program).live
    reached = {number}
    for equation in program.equations.values():  # in the order of the program
        operands = set(equation.inputs) & live
        if equation.name in ELEMENTWISE and operands and operands <= reached:
            reached.update(equation.outputs)
    exits = reached.intersection(program.outputs)
    for equation in program.equations.values():
        if not reached.intersection(equation.outputs):
            exits |= reached.intersection(equation.inputs)
    return exits.pop() if len(exits) == 1 else number


@jit_by_network(static_argnames=("site", "relative"))
def _grad_cam(spec: PermSpec, site: Site, relative: bool, params: Params, x: Array, classes: Array) -> Array:
    program = flatten_program(spec, params, x, caller="grad_cam")
    made = program.at(site)
    require(made is not None, "grad_cam", "site", "outside of loops (scans)", repr(site.name))
    assert made is not None
    number = activation_after(program, made)
    values = program.values(params, x)
    (value,) = program.evaluate([number], values)

    def score(value: Array) -> Array:
        (logits,) = program.evaluate(program.outputs[:1], values, {number: Override((), lambda: value)})
        return _chosen(logits, classes, relative)

    features, gradients = (_view(spec, site, v) for v in (value, jax.grad(score)(value)))
    inner = 1 + len(spec.groups[site.group].nested_in)
    places = tuple(range(1, features.ndim - inner))
    weights = gradients.mean(places, keepdims=True)
    maps = jnp.maximum((weights * features).sum(tuple(range(-inner, 0))), 0)
    return jax.image.resize(maps, x.shape[:-1], "linear")


@jit_by_network(static_argnames=("relative",))
def _gradient_x_input(apply_fn: ApplyFn, relative: bool, params: Params, x: Array, classes: Array) -> Array:
    gradient = jax.grad(lambda x: _chosen(apply_fn(params, x), classes, relative))(x)
    return jnp.maximum((gradient * x).sum(-1), 0)


def _chosen(logits: Array, classes: Array, relative: bool) -> Array:
    logits = logits - logits.mean(-1, keepdims=True) if relative else logits
    return jnp.take_along_axis(logits, classes[:, None], axis=1).sum()


def _view(spec: PermSpec, site: Site, value: Array) -> Array:
    """The value as `[N, *places, *outer, n]`."""
    return views_of(spec, fitted_axes(site, value.shape), value, site.group)[site.occurrence]


def _check_logits(caller: str, apply_fn: ApplyFn | None, params: Params, x: Array, classes: Array) -> None:
    require(apply_fn is not None, caller, "spec", "one that carries an apply_fn", "none")
    assert apply_fn is not None
    outputs = jax.tree.leaves(jax.eval_shape(apply_fn, params, x))
    shape = outputs[0].shape
    wanted = f"a network with logits [{len(x)}, classes]"
    require(len(outputs) == 1 and len(shape) == 2 and shape[0] == len(x), caller, "apply_fn", wanted, shape)
    low, high = int(classes.min()), int(classes.max())
    require(
        classes.shape == (len(x),) and low >= 0 and high < shape[1], caller, "classes",
        f"[{len(x)}] in [0, {shape[1]})", f"{list(classes.shape)}, {low} to {high}",
    )  # fmt: skip
