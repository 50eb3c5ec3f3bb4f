"""Rules for arguments, written in signatures: `density: PositiveShare` is all that a function says of it.

A function's annotations are the one table of its arguments. `checked`, and `factory` for methods, read it:
what is given is held against it, and numbers of numpy or jax become Python's. `Literal`, classes, `bool`,
`None`, `Sequence[...]` and unions mean what they mean to a type checker; ranges are rules in
`Annotated[float, number(above=0)]`, most of them under a name below. What is refused is one line that names
the function, the argument, what it must be and what it was. `tests/merging/test_options.py` holds the
docstrings of all methods against the same rules.
"""

import collections.abc
import dataclasses
import functools
import inspect
import math
import numbers
import os
import reprlib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import AbstractArray, Key

from autofusion_jax.validation import nearest

P = ParamSpec("P")
T = TypeVar("T")
KEY_DTYPES = getattr(Key[jax.Array, ""], "dtypes", None)
FLOAT32 = np.finfo(np.float32)
LARGEST_INT = np.iinfo(np.int32).max
"""What XLA's loops and shapes count with."""
WIDTH = 80
"""Characters of a value in a message."""


class Refused(Exception):
    """A value that a rule does not take; says what to do, where there is more to say."""


@dataclasses.dataclass(frozen=True, repr=False)
class Rule:
    """What an argument must be.

    Attributes:
        take: returns a value as the function gets it, or raises `Refused`.
        kinds: all that it may be, in words: `"a number > 0"`, `"None"`.
        plural: several of it, in words.
        stated: what its entry in a docstring must hold: ranges and names.
        numeric: whether it takes numbers, so that a list of it may be an array.
    """

    take: Callable[[Any], Any]
    kinds: tuple[str, ...]
    plural: str = ""
    stated: tuple[str, ...] = ()
    numeric: bool = False

    def __repr__(self) -> str:
        *others, last = self.kinds
        return f"{', '.join(others)} or {last}" if others else last

    def check(self, caller: str, argument: str, value: Any) -> Any:
        """The value as the function gets it.

        Raises:
            ValueError: it is not what it must be.
        """
        try:
            return self.take(value)
        except Refused as advice:
            text = f"{caller}: {argument} must be {self!r}; got {shown(value)}. {advice}"
            raise ValueError(text.rstrip()) from None


def number(
    *, least: float | None = None, above: float | None = None, most: float | None = None,
    below: float | None = None,
) -> Rule:  # fmt: skip
    """A finite number within bounds, also as float32 holds it: none becomes 0, 1 or infinity on its way."""

    def fits(number: float) -> bool:
        return (
            math.isfinite(number)
            and (least is None or number >= least)
            and (above is None or number > above)
            and (most is None or number <= most)
            and (below is None or number < below)
        )

    def take(value: Any) -> float:
        given = as_python(value)
        if isinstance(given, bool) or not isinstance(given, numbers.Real):
            raise Refused
        try:
            given = float(given)
        except OverflowError:
            raise Refused from None
        if not fits(given):
            raise Refused
        with np.errstate(over="ignore"):
            held = float(np.float32(given))
        if not fits(held if abs(held) >= FLOAT32.tiny else 0.0):  # XLA takes denormals for 0
            raise Refused(f"As float32 it is {held:g}.")
        return given

    words = interval(least, above, most, below)
    if not words:
        return Rule(take, ("a finite number",), "finite numbers", numeric=True)
    return Rule(take, (f"a number {words}",), f"numbers {words}", (words,), numeric=True)


def integer(*, least: int | None = None, most: int | None = None) -> Rule:
    """An integer of at most 32 bits within bounds; 2.0 is none."""

    def take(value: Any) -> int:
        given = as_python(value)
        if isinstance(given, bool) or not isinstance(given, numbers.Integral):
            raise Refused
        given = int(given)
        if (least is not None and given < least) or (most is not None and given > most):
            raise Refused
        if abs(given) > LARGEST_INT:
            raise Refused(f"The largest is {LARGEST_INT}.")
        return given

    words = interval(least, None, most, None)
    if not words:
        return Rule(take, ("an integer",), "integers", numeric=True)
    return Rule(take, (f"an integer {words}",), f"integers {words}", (words,), numeric=True)


def interval(least: float | None, above: float | None, most: float | None, below: float | None) -> str:
    """Bounds in words, or nothing where there are none.

    Example:
        >>> interval(None, 0, 1, None), interval(1, None, None, None)
        ('in (0, 1]', '>= 1')
    """
    low, high = (least if above is None else above), (most if below is None else below)
    if low is None and high is None:
        return ""
    if high is None:
        return f"{'>=' if above is None else '>'} {low}"
    if low is None:
        return f"{'<=' if below is None else '<'} {high}"
    return f"in {'[' if above is None else '('}{low}, {high}{']' if below is None else ')'}"


def one_of(*names: str) -> Rule:
    """One of a few names."""

    def take(value: Any) -> str:
        name = as_python(value)
        if not isinstance(name, str):
            raise Refused
        if name not in names:
            raise Refused(nearest(name, names))
        return str(name)

    quoted = tuple(f'"{name}"' for name in names)
    return Rule(take, quoted, "names", quoted)


def instance(of: type | tuple[type, ...], words: str) -> Rule:
    """An object of a class, or of one of several; `words` say which, with an article."""

    def take(value: Any) -> Any:
        if not isinstance(value, of):
            raise Refused
        return value

    return Rule(take, (words,), f"{words.split(' ', 1)[-1]}s")


def list_of(item: Rule, *, positive_sum: bool = False, or_iterator: bool = False) -> Rule:
    """A list, tuple or other sequence; of numbers also an array `[n]`. The function gets a tuple."""

    def take(value: Any) -> tuple:
        if isinstance(value, Tracer):
            raise Refused
        if item.numeric and isinstance(value, jax.Array | np.ndarray) and value.ndim:
            value = np.asarray(value).tolist()
        kinds = collections.abc.Sequence | (collections.abc.Iterator if or_iterator else tuple)
        if not isinstance(value, kinds) or isinstance(value, str | bytes | bytearray):
            raise Refused
        items = tuple(item.take(one) for one in value)
        if positive_sum and not 0 < math.fsum(items) < FLOAT32.max:
            raise Refused
        return items

    words = f"{item.plural}{' with a sum above 0' if positive_sum else ''}"
    stated = (*item.stated, "sum above 0") if positive_sum else item.stated
    return Rule(take, (f"a list of {words}",), f"lists of {words}", stated, item.numeric)


def any_of(*rules: Rule) -> Rule:
    """What one of several rules takes."""

    def take(value: Any) -> Any:
        advice = ""
        for rule in rules:
            try:
                return rule.take(value)
            except Refused as refused:
                advice = advice or str(refused)
        raise Refused(advice)

    return Rule(
        take,
        tuple(dict.fromkeys(words for rule in rules for words in rule.kinds)),
        " or ".join(rule.plural for rule in rules),
        tuple(words for rule in rules for words in rule.stated),
    )


def anything(words: str = "a value", plural: str = "values") -> Rule:
    """Data whose form is checked where it is used."""
    return Rule(lambda value: value, (words,), plural)


def array(axes: str, *, or_list: bool = False) -> Rule:
    """An array of numpy or jax, traced or not; its axes are checked where they are used.

    Args:
        axes: their names. Without any it is a traced number: all others are numbers, see `number`.
        or_list: also take a list of numbers, or of lists of them, which becomes an array of numpy.
    """
    if not axes.strip():
        return Rule(_traced_number, ("a traced number",), "traced numbers")

    def take(value: Any) -> Any:
        if or_list and isinstance(value, list | tuple):
            try:
                value = np.asarray(value)
            except ValueError:  # of several lengths
                raise Refused from None
        if not (hasattr(value, "shape") and hasattr(value, "dtype")) or value.dtype == object:
            raise Refused
        return value

    return Rule(take, (f"an array [{', '.join(axes.split())}]",), "arrays")


def tuple_of(*rules: Rule) -> Rule:
    """As many values as there are rules, one for each."""

    def take(value: Any) -> tuple:
        if not isinstance(value, list | tuple) or len(value) != len(rules):
            raise Refused
        return tuple(rule.take(one) for rule, one in zip(rules, value))

    return Rule(take, (f"a tuple ({', '.join(map(repr, rules))})",), "tuples")


def random_key(axes: str = "") -> Rule:
    """A typed random key, or several; one of `jax.random.PRNGKey` becomes the typed one of its bits."""
    several = axes.strip()
    advice = f"Give jax.random.{f'split(jax.random.key(0), {several})' if several else 'key(0)'}."

    def take(value: Any) -> Any:
        if not isinstance(value, jax.Array | np.ndarray):
            raise Refused(advice)
        if value.dtype == np.uint32 and value.shape[-1:] == jax.random.key_data(jax.random.key(0)).shape:
            value = jax.random.wrap_key_data(jnp.asarray(value))
        typed = jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
        if not typed or value.ndim != len(several.split()) or not value.size:
            raise Refused(advice)
        return value

    return Rule(take, (f"random keys [{several}]" if several else "a random key",), "random keys")


def path() -> Rule:
    """The path of a file or folder, as a string or a path object."""

    def take(value: Any) -> Any:
        if not isinstance(value, str | os.PathLike):
            raise Refused
        text = os.fspath(value)
        if not text or "\0" in str(text):
            raise Refused
        return value

    return Rule(take, ("a path",), "paths")


def _traced_number(value: Any) -> Any:
    if not isinstance(value, Tracer) or value.ndim:
        raise Refused
    return value


def _flag(value: Any) -> bool:
    flag = as_python(value)
    if not isinstance(flag, bool):
        raise Refused
    return flag


def _function(value: Any) -> Any:
    if not callable(value):
        raise Refused
    return value


FLAG = Rule(_flag, ("True", "False"), "flags")
FUNCTION = Rule(_function, ("a function",), "functions")
SIMPLE = {
    bool: FLAG,
    float: number(),
    int: integer(),
    str: instance(str, "a string"),
    types.NoneType: instance(types.NoneType, "None"),
    jax.Array: array("..."),
    np.ndarray: array("...", or_list=True),
}
"""Rules of the classes that signatures name most."""

Positive = Annotated[float, number(above=0)]
NonNegative = Annotated[float, number(least=0)]
Share = Annotated[float, number(least=0, most=1)]
PositiveShare = Annotated[float, number(above=0, most=1)]
ShareBelowOne = Annotated[float, number(least=0, below=1)]
Count = Annotated[int, integer(least=1)]
CountOrZero = Annotated[int, integer(least=0)]
Factors = Annotated[Sequence[float], list_of(number())]
Weights = Annotated[Sequence[float], list_of(number(), positive_sum=True)]
NonNegativeWeights = Annotated[Sequence[float], list_of(number(least=0), positive_sum=True)]
Pytrees = Annotated[Sequence[Any], list_of(anything("a pytree", "pytrees"))]
AnyPath = Annotated[str | os.PathLike[str], path()]


def as_python(value: Any) -> Any:
    """A number, flag or word of numpy or jax as Python's; all else, traced values too, as it is.

    Example:
        >>> as_python(np.float32(0.5)), as_python(jnp.int32(2)), as_python(np.array([1]))
        (0.5, 2, array([1]))
    """
    if isinstance(value, Tracer) or not isinstance(value, np.generic | np.ndarray | jax.Array):
        return value
    if value.ndim > 0 or jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return value
    return np.asarray(value).item()


class _Shown(reprlib.Repr):
    """Short texts of values; of arrays their dtype and shape."""

    def repr1(self, x: Any, level: int) -> str:
        if isinstance(x, np.ndarray | jax.Array) and x.ndim:
            return f"{x.dtype}{list(x.shape)}"
        try:
            return " ".join(super().repr1(x, level).split())
        except Exception:  # a repr may raise what it likes, as that of an int of 5,000 digits does
            return f"<{type(x).__name__}>"


_SHOWN = _Shown()
_SHOWN.maxstring = _SHOWN.maxother = _SHOWN.maxlong = WIDTH


def shown(value: Any) -> str:
    """A value in at most 80 characters.

    Example:
        >>> shown(np.ones((2, 3))), shown([1, "a"]), len(shown("x" * 500))
        ('float64[2, 3]', "[1, 'a']", 80)
    """
    text = _SHOWN.repr(value)
    return text if len(text) <= WIDTH else text[: WIDTH - 3] + "..."


def rule_of(annotation: Any) -> Rule:
    """The rule that an annotation stands for.

    Example:
        >>> rule_of(PositiveShare | Literal["all"] | None)
        a number in (0, 1], "all" or None
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return next((one for one in arguments[1:] if isinstance(one, Rule)), rule_of(arguments[0]))
    if origin is Literal:
        return one_of(*arguments)
    if origin in (typing.Union, types.UnionType):
        return any_of(*map(rule_of, arguments))
    if origin is collections.abc.Callable:
        return FUNCTION
    if origin is collections.abc.Sequence:
        return list_of(rule_of(arguments[0]))
    if origin is tuple and ... not in arguments:
        return tuple_of(*map(rule_of, arguments))
    if origin in (dict, collections.abc.Mapping):
        return instance(Mapping, "a dict")
    if annotation is Any or not isinstance(annotation, type):
        return anything()
    return _rule_of_class(annotation)


def _rule_of_class(annotation: type) -> Rule:
    if annotation in SIMPLE:
        return SIMPLE[annotation]
    if issubclass(annotation, AbstractArray):
        if getattr(annotation, "dtypes", None) == KEY_DTYPES:
            return random_key(annotation.dim_str)
        return array(annotation.dim_str, or_list=getattr(annotation, "array_type", None) is np.ndarray)
    name = annotation.__name__
    return instance(annotation, f"{'an' if name[0] in 'AEIOU' else 'a'} {name}")


@functools.cache
def rules_of(fn: Callable[..., Any]) -> dict[str, Rule]:
    """The table of a function: the rules of its arguments by name, from its annotations."""
    plain = inspect.unwrap(fn)
    hints = typing.get_type_hints(plain, include_extras=True)
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(plain).parameters.items()
    return {name: rule_of(hints[name]) for name, p in parameters if p.kind not in several and name in hints}


def checked_arguments(
    fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> inspect.BoundArguments:
    """The arguments of a call, held against the function's table.

    Raises:
        ValueError: one is not what it must be.
        TypeError: one is missing, or there are too many.
    """
    try:
        bound = inspect.signature(fn).bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{fn.__name__}: {error}.") from None
    rules = rules_of(fn)
    for name, value in bound.arguments.items():
        if name in rules:
            bound.arguments[name] = rules[name].check(fn.__name__, name, value)
    return bound


def checked(fn: Callable[P, T]) -> Callable[P, T]:
    """Have a function's arguments checked by its annotations before it runs.

    Example:
        >>> @checked
        ... def halve(x: float, *, times: Count = 1) -> float:
        ...     return x / 2**times
        >>> halve(np.float32(8), times=2)
        2.0
        >>> halve(1.0, times=0)
        Traceback (most recent call last):
        ValueError: halve: times must be an integer >= 1; got 0.
    """

    @functools.wraps(fn)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        bound = checked_arguments(fn, args, kwargs)
        return fn(*bound.args, **bound.kwargs)

    return call
