"""Reductions, cumulative operations, pooling windows, and random bits."""

import functools
from typing import Any

from autofusion_jax.symmetry.labels import Factors, fixed_axis, pin
from autofusion_jax.symmetry.rules.shape import mix
from autofusion_jax.symmetry.rules.table import rule
from autofusion_jax.symmetry.trace import Tracer, Value, fixed_value
from autofusion_jax.symmetry.unify import unify

RANDOM = """
random_bits random_seed random_split random_fold_in random_wrap random_unwrap random_clone random_gamma
rng_bit_generator rng_uniform threefry2x32 threefry4x32 philox2x32 philox4x32 iota_2x32_shape
platform_index axis_index
"""


@rule("reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor")
def reduce(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """A sum, maximum, ... over some axes does not depend on their order."""
    dropped, out = eqn.params["axes"], []
    for value in inputs[: len(eqn.outvars)]:
        kept = [d for d in range(len(value.axes)) if d not in dropped]
        out.append(value.pick(kept))
    return out


@rule("cumsum cumprod cummax cummin cumlogsumexp", mixes=True)
def cumulative(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Each entry depends on those before it."""
    axis, reason = eqn.params["axis"], "a cumulative operation"
    out = mix(inputs[0], [axis], reason)
    if eqn.primitive.name not in ("cummax", "cummin"):  # sums of equal entries grow
        out.axes[axis] = fixed_axis(eqn.outvars[0].aval.shape[axis], reason)
    return [out]


@rule("reduce_window reduce_window_sum reduce_window_max reduce_window_min", mixes=True)
def reduce_window(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Pooling: axes with a window are fixed, the others pass."""
    params = eqn.params
    strides, padding = params["window_strides"], params["padding"]
    dilation = params.get("base_dilation") or [1] * len(strides)
    shape, operands = eqn.outvars[0].aval.shape, inputs[: len(eqn.outvars)]
    axes: list[Factors] = []
    for k in range(len(shape)):
        plain = params["window_dimensions"][k] == strides[k] == dilation[k] == 1
        if plain and tuple(padding[k]) == (0, 0):
            axes.append(functools.reduce(unify, [value.axes[k] for value in operands]))
            continue
        for value in operands:
            pin(value.axes[k], "a pooling window")
        axes.append(fixed_axis(shape[k], "a pooling window"))
    live = any(value.live for value in operands)
    return [Value(axes, live=live) for _ in operands]


@rule("fft", mixes=True)
def fft(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """The transformed axes are fixed."""
    count, value = len(eqn.params["fft_lengths"]), inputs[0]
    axes = list(value.axes)
    shape = eqn.outvars[0].aval.shape
    for dim in range(len(axes) - count, len(axes)):
        pin(axes[dim], "a Fourier transform")
        axes[dim] = fixed_axis(shape[dim], "a Fourier transform")
    return [Value(axes, live=value.live)]


@rule(RANDOM)
def random(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Random bits depend on where they stand (dropout with a key)."""
    for value in inputs:
        value.pin("random bits")
    return [fixed_value(var.aval, "random bits") for var in eqn.outvars]


@rule("debug_callback debug_print dce_sink")
def effect(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Printing does not change the outputs."""
    return []
