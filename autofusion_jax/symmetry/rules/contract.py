"""Products: dot_general and conv_general_dilated."""

from collections.abc import Sequence
from typing import Any

from autofusion_jax.symmetry.labels import Factors, fixed_axis, pin, total
from autofusion_jax.symmetry.rules.table import rule
from autofusion_jax.symmetry.trace import Made, Read, Tracer, Value, fixed_value
from autofusion_jax.symmetry.unify import split, unify


@rule("dot_general")
def dot_general(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Contracted and batch axes are the same on both sides; the free ones go to the output.

    That two axes carry one label does not say that they are aligned, so what the two sides
    share is recorded: nesting may rely on those axes only.
    """
    (left_sum, right_sum), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    left, right = inputs
    batch = [unify(left.axes[i], right.axes[j]) for i, j in zip(left_batch, right_batch)]
    summed = [unify(left.axes[i], right.axes[j]) for i, j in zip(left_sum, right_sum)]
    left_free = [i for i in range(len(left.axes)) if i not in (*left_sum, *left_batch)]
    right_free = [i for i in range(len(right.axes)) if i not in (*right_sum, *right_batch)]
    tracer.note_together([*batch, *summed])
    tracer.note_together([*batch, *(left.axes[i] for i in left_free)])
    tracer.note_together([*batch, *(right.axes[i] for i in right_free)])
    if left.live and right.live:
        tracer.pairs += batch
    axes = [*batch, *(left.axes[i] for i in left_free), *(right.axes[i] for i in right_free)]
    origin = [left.origin[i] | right.origin[j] for i, j in zip(left_batch, right_batch)]
    origin += [left.origin[i] for i in left_free] + [right.origin[i] for i in right_free]
    live = left.live or right.live
    out = Value(axes, [] if live else origin, live)
    side = _activation(left, right)
    dims = ((*left_sum, *left_batch), (*right_sum, *right_batch))
    _note_weight(tracer, inputs, side, dims[side], (left_sum, right_sum), out)
    return [out]


def _activation(left: Value, right: Value) -> int:
    """The side that a weight acts on; of two weights, the first."""
    if left.live != right.live:
        return 0 if left.live else 1
    return 1 if left.is_weight and not right.is_weight else 0


def _note_weight(
    tracer: Tracer,
    inputs: list[Value],
    side: int,
    dims: Sequence[int],
    summed: Sequence[Sequence[int]],
    out: Value,
) -> None:
    """Remember the roles of a weight's axes, and the values that it reads and makes."""
    activation, weight = inputs[side], inputs[1 - side]
    if not weight.is_weight:
        return
    free = [origin for dim, origin in enumerate(weight.origin) if dim not in summed[1 - side]]
    tracer.use([weight.origin[dim] for dim in summed[1 - side]], "in", weak=not activation.live)
    if activation.live:
        tracer.use(free, "out")
    else:
        tracer.use([activation.origin[dim] for dim in summed[side]], "out", weak=True)
    if not activation.live or not tracer.reachable or weight.weight is None:
        return
    read = Read(
        weight.weight,
        tracer.path,
        side,
        [*tracer.scans, *activation.axes],
        [activation.axes[dim] for dim in dims],
    )
    tracer.read[tracer.path, side] = read
    own = [axis for dim, axis in enumerate(weight.axes) if dim not in summed[1 - side]]
    out.made = tracer.made[tracer.path] = Made(weight.weight, tracer.path, [*tracer.scans, *out.axes], own)


@rule("conv_general_dilated", mixes=True)
def convolution(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Features as in a product; grouped features split in two; spatial axes fixed unless 1 x 1."""
    params, (left, right) = eqn.params, inputs
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    lhs, rhs, out_dims = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    if params["batch_group_count"] > 1:
        for value in inputs:
            value.pin("a convolution with batch groups")
        return [fixed_value(eqn.outvars[0].aval, "a convolution with batch groups")]
    features = left.axes[lhs[1]]
    produced = right.axes[rhs[0]]
    if groups > 1:
        outer, inner = split(features, total(features) // groups)
        out_outer, out_inner = split(produced, total(produced) // groups)
        shared = unify(outer, out_outer)
        tracer.note_together([shared, unify(inner, right.axes[rhs[1]])])
        produced = [*shared, *out_inner]
    else:
        tracer.note_together([unify(features, right.axes[rhs[1]])])
    tracer.note_together([produced])
    axes: list[Factors] = [[] for _ in left.axes]
    axes[out_dims[0]], axes[out_dims[1]] = left.axes[lhs[0]], produced
    shape = eqn.outvars[0].aval.shape
    for k in range(2, len(lhs)):
        axes[out_dims[k]] = _spatial(params, k - 2, left.axes[lhs[k]], right.axes[rhs[k]], shape[out_dims[k]])
    out = Value(axes)
    out.live = left.live or right.live
    _note_weight(tracer, inputs, 0, (lhs[1],), ((lhs[1],), (rhs[1],)), out)
    return [out]


def _spatial(params: dict[str, Any], k: int, image: Factors, window: Factors, size: int) -> Factors:
    """One spatial axis of the output: the input's if the window is a single point, else fixed."""
    plain = params["window_strides"][k] == 1 and params["lhs_dilation"][k] == 1
    if total(window) == 1 and plain and tuple(params["padding"][k]) == (0, 0):
        return image
    pin(image, "a convolution's window")
    pin(window, "a convolution's window")
    return fixed_axis(size, "a convolution's window")
