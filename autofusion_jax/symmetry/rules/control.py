"""Calls, loops and branches."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from autofusion_jax.symmetry.labels import Factors, fixed_axis, pin, resolve, total
from autofusion_jax.symmetry.rules.table import rule
from autofusion_jax.symmetry.trace import Tracer, Value
from autofusion_jax.symmetry.unify import unify

CALLS = (
    "jit",
    "pjit",
    "call",
    "closed_call",
    "composite",
    "remat",
    "remat2",
    "checkpoint",
    "custom_jvp_call",
    "custom_vjp_call",
)

Opened: TypeAlias = tuple[Any, Sequence[Any]]
"""A jaxpr and the values of its constants."""


def opened(jaxpr: Any) -> Opened:
    """Take a jaxpr apart, whether or not it is closed over its constants."""
    return getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ())


def inner_jaxpr(eqn: Any) -> Opened:
    """The jaxpr that a call runs."""
    return opened(next(eqn.params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if k in eqn.params))


def scan_parts(eqn: Any, values: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """A scan's operands: what stays, what goes round, and what is scanned."""
    if "ft_in" in eqn.params:  # jax >= 0.12
        stays, carry, scanned = map(list, eqn.params["ft_in"].update(list(values)).unpack())
        return stays, carry, scanned
    first = eqn.params["num_consts"]
    second = first + eqn.params["num_carry"]
    return list(values[:first]), list(values[first:second]), list(values[second:])


@rule(" ".join(CALLS), is_call=True)
def call(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Walk over what is called."""
    return tracer.run(*inner_jaxpr(eqn), inputs)


@rule("shard_map", is_call=True)
def shard_map(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Walk over one shard; axes that are spread over devices are fixed."""
    jaxpr, consts = inner_jaxpr(eqn)
    local = [_resized(value, var) for value, var in zip(inputs, jaxpr.invars)]
    with tracer.unreachable():
        outputs = tracer.run(jaxpr, consts, local)
    return [_resized(value, var) for value, var in zip(outputs, eqn.outvars)]


def _resized(value: Value, var: Any) -> Value:
    axes: list[Factors] = []
    for axis, size in zip(value.axes, var.aval.shape):
        if total(axis) != size:
            pin(axis, "spread over devices")
            axis = fixed_axis(size, "spread over devices")
        axes.append(axis)
    return dataclasses.replace(value, axes=axes, leaf=value.leaf)


def _carry(tracer: Tracer, carry: list[Value], step: Callable[[list[Value]], list[Value]]) -> list[Value]:
    """Make what goes into a loop's body and what comes out the same, until nothing changes."""
    for value in carry:
        if value.index is not None:
            pin(value.index, "positions that go round a loop")
    carry = [Value(value.axes, live=value.live) for value in carry]
    while True:
        outputs = step(carry)
        live = [a.live or b.live for a, b in zip(carry, outputs)]
        axes = [[unify(a, b) for a, b in zip(v.axes, o.axes)] for v, o in zip(carry, outputs)]
        after = [Value(a, live=alive) for a, alive in zip(axes, live)]
        for output in outputs:
            if output.index is not None:
                pin(output.index, "positions that go round a loop")
        if _state(after) == _state(carry):
            return after
        carry = after


def _state(values: list[Value]) -> list[Any]:
    """The part of a carry that can still change: constant factors become labels, and labels are split."""
    return [
        (v.live, [[f if isinstance(f, int) else None for f in resolve(axis)] for axis in v.axes])
        for v in values
    ]


@rule("scan", is_call=True)
def scan(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """The scanned axes are one fixed axis; units inside may be permuted for each of its indices."""
    params = eqn.params
    consts, carry, scanned = scan_parts(eqn, inputs)
    num_carry = len(carry)
    lead = fixed_axis(params["length"], "a scanned axis")
    for value in scanned:
        unify(value.axes[0], lead)
        if value.index is not None:
            pin(value.index, "a scanned axis")
    rows = [dataclasses.replace(v.pick(range(1, len(v.axes))), index=None, leaf=v.leaf) for v in scanned]
    stacked: list[Value] = []

    def step(state: list[Value]) -> list[Value]:
        for value in state:
            tracer.note_value(value)
        with tracer.inside(lead):
            outputs = tracer.run(*inner_jaxpr(eqn), [*consts, *state, *rows])
        for value in outputs[:num_carry]:
            tracer.note_value(value)
        stacked[:] = outputs[num_carry:]
        return outputs[:num_carry]

    final = _carry(tracer, carry, step)
    for value in stacked:
        if value.index is not None:
            pin(value.index, "a scanned axis")
    return final + [Value([list(lead), *v.axes], live=v.live) for v in stacked]


@rule("while", is_call=True)
def while_loop(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """As scan, without scanned axes."""
    params = eqn.params
    a, b = params["cond_nconsts"], params["body_nconsts"]
    condition, body = opened(params["cond_jaxpr"]), opened(params["body_jaxpr"])

    def step(state: list[Value]) -> list[Value]:
        tracer.run(*condition, [*inputs[:a], *state])
        return tracer.run(*body, [*inputs[a : a + b], *state])

    with tracer.unreachable():
        return _carry(tracer, inputs[a + b :], step)


@rule("cond", is_call=True)
def cond(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """All branches return the same axes."""
    choice, *operands = inputs
    if choice.index is not None:
        pin(choice.index, "the choice of a branch")
    with tracer.unreachable():
        runs = [tracer.run(*opened(branch), operands) for branch in eqn.params["branches"]]
    outputs = []
    for values in zip(*runs):
        for value in values:
            if value.index is not None:
                pin(value.index, "the result of a branch")
        axes = values[0].axes
        for value in values[1:]:
            axes = [unify(ours, theirs) for ours, theirs in zip(axes, value.axes)]
        outputs.append(Value(axes))
    return outputs


@rule("psum psum_invariant pmax pmin pbroadcast")
def collective(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """A sum, maximum, ... over devices keeps the axes of each operand."""
    if eqn.params.get("axis_index_groups") is not None or any(
        isinstance(axis, int) for axis in eqn.params.get("axes", ())
    ):
        for value in inputs:
            value.pin("a collective operation over groups of devices")
    return [Value(value.axes, live=value.live) for value in inputs]
