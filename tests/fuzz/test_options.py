"""Options of all methods: every wrong value is refused by method and option, or is a value of its kind."""

import inspect
import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import autofusion_jax as af
from autofusion_jax.merging.registry import METHODS
from autofusion_jax.trees import all_finite
from tests.conftest import inputs_for, params_for
from tests.fuzz.harness import Tally, expect
from tests.fuzz.mutations import ODD_VALUES
from tests.merging.test_contracts import options_for

pytestmark = pytest.mark.slow

VALUES = (
    *ODD_VALUES, object(), b"x", 1j, range(3), lambda x: x, np.array([1, 2]), np.array("x"), np.float32(0.5),
    np.int64(3), np.bool_(True), np.float64("nan"), jnp.float32(2.0), jnp.array([1.0]), "weights", set(),
    af.MergeResult, {"w": 1.0}, [1.0, -1.0], ["a", "b"], float, Ellipsis,
)  # fmt: skip


def build(name, options):
    """Make a method; what it takes for a number must be one, and finite."""
    method = METHODS[name](**options)
    for option, value in options.items():
        default = inspect.signature(METHODS[name]).parameters[option].default
        if isinstance(default, float) and not isinstance(value, str):
            number = isinstance(value, int | float | np.number) or getattr(value, "shape", None) == ()
            expect(number and not isinstance(value, bool | np.bool_), f"{option}={value!r} for a number")
            expect(math.isfinite(value), f"{option}={value!r} for a finite number")
        if isinstance(default, int) and not isinstance(default, bool) and value is not None:
            whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
            expect(whole, f"{option}={value!r} for an integer")
        if isinstance(default, bool):
            expect(isinstance(value, bool | np.bool_), f"{option}={value!r} for True or False")
    return method


def test_every_option_of_every_method(record_property):
    tally = Tally("options: every value for every option")
    for name, factory in METHODS.items():
        for option in inspect.signature(factory).parameters:
            for value in VALUES:
                names = (rf"{name}.*{option}.*must be|{name}.*unknown {option}",)
                tally.run((name, option, value), lambda n=name, o=option, v=value: build(n, {o: v}), *names)
    tally.done(record_property, least=7000)


def test_numbers_of_any_size(record_property):
    tally = Tally("options: drawn numbers")
    numeric = [
        (name, option)
        for name, factory in METHODS.items()
        for option, parameter in inspect.signature(factory).parameters.items()
        if isinstance(parameter.default, int | float) and not isinstance(parameter.default, bool)
    ]

    @hypothesis.settings(max_examples=1500, deadline=None, database=None, derandomize=True)
    @hypothesis.given(st.sampled_from(numeric), st.one_of(st.floats(), st.integers()))
    def draw(where, value):
        name, option = where
        tally.run((name, option, value), lambda: build(name, {option: value}), f"{name}.*{option}")

    draw()
    tally.done(record_property, least=1500)


def test_unknown_options(record_property):
    tally = Tally("options: unknown names")
    params = {"w": jnp.ones(2)}
    for name, factory in METHODS.items():
        for option in (
            "",
            "x",
            "self",
            "key_",
            "__class__",
            *(o + "s" for o in inspect.signature(factory).parameters),
        ):
            call = lambda n=name, o=option: af.merge(params, params, None, method=n, base=params, **{o: 1})  # noqa: E731
            tally.run((name, option), call, "unknown option", "must be")
    tally.done(record_property, least=300)


EXTREMES = {float: (1e-30, 1e-9, 1.0, 1e9, 1e30), int: (1, 2, 10**6)}
WORK = (
    "steps",
    "epochs",
    "iters",
    "rounds",
    "copies",
    "restarts",
    "sweeps",
    "batches",
    "experts",
    "switch_every",
    "depth",
)
"""Options that say how much work is done: more of it takes longer, and that is what was asked for."""


def extremes():
    for name, factory in METHODS.items():
        for option, parameter in inspect.signature(factory).parameters.items():
            kind = type(parameter.default)
            for value in EXTREMES.get(kind, ()):
                more_work = any(word in option for word in WORK) and value > 2
                if not more_work and value != parameter.default:
                    yield name, option, value


def test_merges_with_extreme_options(record_property, mlp):
    """What a method takes it works with: finite, or an error that names the method or the option."""
    tally = Tally("options: whole merges with extreme ones")
    models = [params_for(mlp, seed) for seed in range(2)]

    def merge(name, option, value):
        options = {**options_for(name, mlp), option: value}
        result = af.merge(*models, mlp.perm_spec, inputs_for(mlp), method=name, **options)
        expect(all_finite(result.params), f"{option}={value} gives no finite network")

    for name, option, value in extremes():
        what = (name, option, value)
        tally.run(what, lambda w=what: merge(*w), name, option, "overflow|finite")
        if sum(tally.counts.values()) % 50 == 0:
            jax.clear_caches()  # each program holds memory maps, of which a process has 65,530
    tally.done(record_property, least=200)
