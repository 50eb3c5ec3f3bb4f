"""Calls, loops and branches."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jax.extend import core as jex

from autofusion_jax.symmetry.labels import Factors, Label, fixed_axis, pin, resolve, total
from autofusion_jax.symmetry.rules.marks import is_call
from autofusion_jax.symmetry.rules.window import random
from autofusion_jax.symmetry.trace import Rule, Tracer, Value
from autofusion_jax.symmetry.unify import unify

CALLS = "jit pjit call closed_call composite remat remat2 checkpoint custom_jvp_call custom_vjp_call".split()


def inner_jaxpr(eqn: Any) -> tuple[Any, list[Any]]:
    """The jaxpr that a call runs, and its constants."""
    inner = next(eqn.params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if k in eqn.params)
    return (inner, []) if isinstance(inner, jex.Jaxpr) else (inner.jaxpr, inner.consts)


@is_call
def call(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Walk over what is called."""
    return tracer.run(*inner_jaxpr(eqn), inputs)


@is_call
def shard_map(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """Walk over one shard; axes that are spread over devices are fixed."""
    jaxpr, consts = inner_jaxpr(eqn)
    local = [_resized(value, var) for value, var in zip(inputs, jaxpr.invars)]
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
    carry = [dataclasses.replace(value, index=None, leaf=None, made=None) for value in carry]
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
    """What can still change: constant factors that become labels, and labels that are split."""
    return [
        (v.live, [[f if isinstance(f, int) else None for f in resolve(axis)] for axis in v.axes])
        for v in values
    ]


@is_call
def scan(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """The scanned axes are one fixed axis; units inside may be permuted for each of its indices."""
    params = eqn.params
    num_consts, num_carry = params["num_consts"], params["num_carry"]
    consts, carry = inputs[:num_consts], inputs[num_consts : num_consts + num_carry]
    scanned = inputs[num_consts + num_carry :]
    lead = fixed_axis(params["length"], "a scanned axis")
    for value in scanned:
        unify(value.axes[0], lead)
        if value.index is not None:
            pin(value.index, "a scanned axis")
    rows = [dataclasses.replace(v.pick(range(1, len(v.axes))), index=None, leaf=v.leaf) for v in scanned]
    stacked: list[Value] = []
    body = params["jaxpr"]

    def step(state: list[Value]) -> list[Value]:
        for value in state:
            tracer.note_value(value)
        with tracer.inside([label for label in lead if isinstance(label, Label)]):
            outputs = tracer.run(body.jaxpr, body.consts, [*consts, *state, *rows])
        for value in outputs[:num_carry]:
            tracer.note_value(value)
        stacked[:] = outputs[num_carry:]
        return outputs[:num_carry]

    final = _carry(tracer, carry, step)
    for value in stacked:
        if value.index is not None:
            pin(value.index, "a scanned axis")
    return final + [Value([list(lead), *v.axes], live=v.live) for v in stacked]


@is_call
def while_loop(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """As scan, without scanned axes."""
    params = eqn.params
    a, b = params["cond_nconsts"], params["body_nconsts"]
    condition, body = params["cond_jaxpr"], params["body_jaxpr"]

    def step(state: list[Value]) -> list[Value]:
        tracer.run(condition.jaxpr, condition.consts, [*inputs[:a], *state])
        return tracer.run(body.jaxpr, body.consts, [*inputs[a : a + b], *state])

    with tracer.unreachable():
        return _carry(tracer, inputs[a + b :], step)


@is_call
def cond(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """All branches return the same axes."""
    choice, *operands = inputs
    if choice.index is not None:
        pin(choice.index, "the choice of a branch")
    with tracer.unreachable():
        runs = [tracer.run(branch.jaxpr, branch.consts, operands) for branch in eqn.params["branches"]]
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


def collective(tracer: Tracer, eqn: Any, inputs: list[Value]) -> list[Value]:
    """A sum, maximum, ... over devices keeps the axes of each operand."""
    if eqn.params.get("axis_index_groups") is not None or any(
        isinstance(axis, int) for axis in eqn.params.get("axes", ())
    ):
        for value in inputs:
            value.pin("a collective operation over groups of devices")
    return [Value(value.axes, live=value.live) for value in inputs]


COLLECTIVES = "psum psum_invariant pmax pmin pbroadcast".split()

RULES: dict[str, Rule] = {
    **dict.fromkeys(CALLS, call),
    **dict.fromkeys(COLLECTIVES, collective),
    "cond": cond,
    "scan": scan,
    "shard_map": shard_map,
    "while": while_loop,
    "axis_index": random,
}
