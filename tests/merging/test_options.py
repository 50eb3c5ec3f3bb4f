"""Options of all methods: their tables, what these refuse, and what docstrings say of them.

Whether a value is allowed is worked out here from the rule's words alone, not by the rule.
"""

import inspect
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.arguments import rules_of
from autofusion_jax.merging.registry import METHODS

OPTIONS = [
    (name, option) for name, factory in METHODS.items() for option in inspect.signature(factory).parameters
]
WRONG = (
    None, "x", "0.5", "y" * 1000, b"x", -1, 0, 1.5, 1j, 10**30, 10**400, 10**5000, 1e-50, math.inf, -math.inf,
    math.nan, True, np.bool_(True), np.float32(math.nan), [], ["a"], [1, None], [1, math.nan], {}, range(2),
    np.array([1, 2]), np.ones((2, 2)), jnp.zeros(3), object(), af.methods.ties,
)  # fmt: skip
REFUSED_TOGETHER = {
    ("depth_upscaling", "blocks"),  # a pattern, which "x" is none
    ("depth_upscaling", "layers"),  # indices written out, which "x" are none
    ("moe_upscaling", "num_experts"),  # no fewer than experts_per_token
}
"""Options whose rule is not all: what fits it may still not fit other options, or hold no pattern."""


def in_range(words, value):
    """Whether a number lies where words such as "> 0" or "in (0, 1]" say."""
    if not words:
        return True
    if words.startswith("in "):
        low, high = map(float, words[4:-1].split(", "))
        return (value > low or (words[3] == "[" and value == low)) and (
            value < high or (words[-1] == "]" and value == high)
        )
    sign, bound = words.split()
    return value > float(bound) or (sign == ">=" and value == float(bound))


def is_number(words, value, whole=False):
    if isinstance(value, bool | np.bool_) or not isinstance(value, int if whole else int | float):
        return False
    largest = 2**31 - 1 if whole else 3.4e38
    tiny = abs(value) < 1.2e-38 and value != 0  # nothing in float32
    return bool(abs(value) <= largest and in_range(words, 0 if tiny else value))


def is_list(words, value):
    if isinstance(value, np.ndarray | jax.Array):
        return "numbers" in words and value.ndim == 1 and is_list(words, value.tolist())
    if not isinstance(value, list | range):
        return False
    if match := re.match(r"a list of (finite )?numbers ?(>= 0)?", words):
        adds_up = "sum above 0" not in words
        return all(is_number(match[2] or "", item) for item in value) and (adds_up or math.fsum(value) > 0)
    kinds = {"integers or strings": int | str, "strings": str, "dicts": dict}.get(
        words.removeprefix("a list of ")
    )
    return kinds is None or all(isinstance(item, kinds) for item in value)


def allows(kind, value):
    """Whether one of a rule's kinds, in words, has room for a value."""
    if kind in ("True", "False"):
        return isinstance(value, bool | np.bool_) and str(bool(value)) == kind
    if kind.startswith('"'):
        return isinstance(value, str) and value == kind.strip('"')
    for start, whole in (("a number", False), ("a finite number", False), ("an integer", True)):
        if kind.startswith(start):
            return is_number(kind.removeprefix(start).strip(), value, whole)
    if kind.startswith("a list of "):
        return is_list(kind, value)
    known = {"None": value is None, "a string": isinstance(value, str), "a function": callable(value)}
    return known.get(kind, False)  # the rest are classes, which none of the values is of


def test_every_option_is_checked_and_its_default_allowed():
    for name, factory in METHODS.items():
        parameters = inspect.signature(factory).parameters
        assert set(rules_of(factory)) == set(parameters), name
        for option, rule in rules_of(factory).items():
            assert rule.check(name, option, parameters[option].default) == parameters[option].default
        assert dict(factory().options) == {option: p.default for option, p in parameters.items()}


@pytest.mark.parametrize("name", METHODS)
def test_wrong_values(name):
    """Each is taken because its rule allows it, or refused in a line that names method, option and value."""
    counts = {"taken": 0, "refused": 0}
    for option, rule in rules_of(METHODS[name]).items():
        for value in WRONG:
            allowed = any(allows(kind, value) for kind in rule.kinds)
            try:
                METHODS[name](**{option: value})
            except ValueError as error:
                message = str(error)
                assert message.startswith(f"{name}: "), message
                assert option in message and " must be " in message and "; got " in message, message
                assert "\n" not in message and len(message) < 400, message
                assert not allowed or (name, option) in REFUSED_TOGETHER, message
                counts["refused"] += 1
            else:
                assert allowed, (name, option, value)
                counts["taken"] += 1
    print(f"{name}: {counts}")
    assert sum(counts.values()) == len(WRONG) * len(rules_of(METHODS[name]))


SCALARS = (
    np.float32(0.5), np.float64(0.5), jnp.float32(0.5), jnp.bfloat16(0.5), np.array(0.5), np.int64(2),
    np.uint8(1), jnp.int32(2), np.array(1), np.bool_(True), jnp.array(False),
)  # fmt: skip


def test_numbers_of_numpy_and_jax():
    """They are taken for Python's, which they become, so that programs are shared."""
    taken = 0
    for name, option in OPTIONS:
        kinds = rules_of(METHODS[name])[option].kinds
        for value in SCALARS:
            plain = np.asarray(value).item()
            if any(allows(kind, plain) for kind in kinds) and (name, option) not in REFUSED_TOGETHER:
                kept = METHODS[name](**{option: value}).options[option]
                assert kept == plain and type(kept) in (bool, int, float), (name, option, value)
                taken += 1
    assert taken > 500


RANGE = r"[<>]=? \d+(?:\.\d+)?|in [\[(]\d[^\])]*[\])]"


def entries(factory):
    """The docstring's words for each option."""
    if "Args:" not in (inspect.getdoc(factory) or ""):
        factory = METHODS["autofusion"]  # `autofusion_paper` refers to it
    section = re.search(r"^Args:\n(.*?)^\S", inspect.getdoc(factory) or "", re.S | re.M)
    assert section
    found = re.findall(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", section[1], re.S | re.M)
    return {option: " ".join(words.split()) for option, words in found}


@pytest.mark.parametrize("name", [name for name, factory in METHODS.items() if rules_of(factory)])
def test_docstrings_say_what_the_table_says(name):
    documented = entries(METHODS[name])
    assert list(documented) == list(rules_of(METHODS[name]))
    for option, rule in rules_of(METHODS[name]).items():
        for words in rule.stated:
            assert words in documented[option], f"{name}: {option} must be {rule}"
        if re.search("number|integer", repr(rule)):
            ranges = set(re.findall(RANGE, documented[option]))
            assert ranges <= set(rule.stated), f"{name}: {option} must be {rule}, not {ranges}"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ties", {"density": 20.0}, "ties: density must be a number in (0, 1]; got 20.0."),
        ("ties", {"merge": "meen"}, '"mean", "sum" or "max"; got \'meen\'. Did you mean \'mean\'?'),
        ("ties", {"weights": [1, "a"]}, "weights must be a list of finite numbers or None; got [1, 'a']."),
        ("karcher", {"tolerance": 1e-50}, "must be a number > 0; got 1e-50. As float32 it is 0."),
        ("karcher", {"num_iters": 2**40}, "an integer >= 1; got 1099511627776. The largest is 2147483647."),
        ("dare", {"merge": af.methods.zipit()}, "dare: merge must be a method for task vectors"),
        (
            "autofusion",
            {"gamma": "learnt"},
            "or \"learned\"; got 'learnt'. Did you mean 'learned'?",
        ),
        ("moe_upscaling", {"experts_per_token": 9}, "must be in [1, 8], num_experts; got 9."),
        ("depth_upscaling", {"layers": "0-999999999"}, "layers must be indices, or strings such as"),
        ("slerp", {"gama": 0.5}, "slerp: unknown option 'gama'. Did you mean 'gamma'? Known: gamma."),
        ("average", {"weights": [1, 2]}, "average: unknown option 'weights'."),
    ],
)
def test_messages(name, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        METHODS[name](**options)


def test_options_by_position():
    with pytest.raises(TypeError, match="slerp: too many positional arguments"):
        af.methods.slerp(0.5)


def test_a_merge_tells_its_options_however_they_are_given():
    base, models = {"w": jnp.zeros(3)}, [{"w": jnp.array([1.0, 2.0, value])} for value in (3.0, -4.0)]
    named = af.merge(*models, None, base=base, method="ties", density=np.float32(0.5))
    built = af.merge(*models, None, base=base, method=af.methods.ties(density=0.5))
    assert named.recipe == built.recipe
    assert dict(named.recipe)["density"] == "0.5" and "scale" not in dict(named.recipe)


FRONT_DOORS = (
    af.merge, af.merge_many, af.merge_repeats, af.merge_files, af.infer_perm_spec, af.check_perm_spec,
    af.fuse, af.fused_apply, af.apply_perm, af.apply_soft, af.apply_merge, af.identity_perms, af.random_perms,
    af.compose, af.invert, af.capture_sites, af.moments, af.log_sinkhorn, af.solve_assignment, af.greedy_zip,
    af.save, af.load, af.load_pretrained, af.save_pretrained, af.evaluation.compare, af.evaluation.evaluate,
    af.evaluation.read_results, af.evaluation.write_results, af.evaluation.scaled_performance,
)  # fmt: skip


@pytest.mark.parametrize("function", FRONT_DOORS, ids=lambda function: function.__name__)
def test_front_doors_refuse_what_is_of_no_kind(function):
    """Every argument but data, which is checked where it is used: one line with function and argument."""
    wrong, name, parameters = object(), function.__name__, inspect.signature(function).parameters.items()
    required = [a for a, p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    checked = [argument for argument, rule in rules_of(function).items() if "a value" not in rule.kinds]
    assert checked
    for argument in checked:
        with pytest.raises(ValueError, match=rf"^{name}: {argument} must be .*; got <object"):
            rules_of(function)[argument].check(name, argument, wrong)
        with pytest.raises(ValueError, match=rf"^{name}: ({'|'.join(checked)}) must be .*; got <object"):
            function(**dict.fromkeys([*required, argument], wrong))
