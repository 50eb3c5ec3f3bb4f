"""Tables of rules between our leaves and foreign tensors, read in both directions."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax.numpy as jnp
import numpy as np

from autofusion_jax.checkpoints.convert.layout import Layout, lay_out
from autofusion_jax.trees import check_finite
from autofusion_jax.validation import require

FLOAT64 = 'For float64 call jax.config.update("jax_enable_x64", True).'


class Stored(Protocol):
    """A tensor whose numbers are read when they are needed."""

    @property
    def dtype(self) -> np.dtype:
        """Its dtype."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        ...

    def read(self) -> np.ndarray:
        """Its numbers."""
        ...


Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Shapes of our leaves by path."""


class Rule(NamedTuple):
    """One foreign tensor and the leaf, or the leaves side by side, that it holds.

    Attributes:
        leaves: paths of our leaves, which have one shape if there are several.
        name: of the foreign tensor.
        pattern: how its axes are laid out, `"ours -> theirs"` (`convert.layout`).
        sizes: of names in the pattern that no shape tells.
        axis: of the foreign tensor, along which several leaves stand side by side.
        copies: names under which a file may hold the same tensor again (tied weights). They must
            be equal to it, and are not written.
    """

    leaves: tuple[str, ...]
    name: str
    pattern: str
    sizes: Mapping[str, int] = {}
    axis: int = 0
    copies: tuple[str, ...] = ()

    def layout(self, shapes: Shapes) -> Layout:
        """The layout of each leaf."""
        return lay_out(self.pattern, shapes[self.leaves[0]], self.sizes)

    def shape(self, shapes: Shapes) -> tuple[int, ...]:
        """Shape of the foreign tensor."""
        shape = list(self.layout(shapes).shape)
        if len(self.leaves) > 1:
            shape[self.axis] *= len(self.leaves)
        return tuple(shape)

    def to_ours(self, tensor: np.ndarray, shapes: Shapes) -> dict[str, np.ndarray]:
        """The leaves that a foreign tensor holds."""
        layout = self.layout(shapes)
        parts = np.split(tensor, len(self.leaves), self.axis) if len(self.leaves) > 1 else [tensor]
        return {leaf: layout.to_ours(part) for leaf, part in zip(self.leaves, parts)}

    def to_theirs(self, leaves: Mapping[str, Any]) -> np.ndarray:
        """The foreign tensor that holds the leaves."""
        arrays = [np.asarray(leaves[leaf]) for leaf in self.leaves]
        layout = lay_out(self.pattern, arrays[0].shape, self.sizes)
        parts = [layout.to_theirs(array) for array in arrays]
        return np.concatenate(parts, self.axis) if len(parts) > 1 else parts[0]


Kind: TypeAlias = str | Callable[[str, str], list[Rule]]
"""A pattern, or a function of the two names of a layer that gives the rules of its leaves."""

Table: TypeAlias = Iterable[tuple[Kind, str, str]]
"""Lines of `(kind, our name, foreign name)`."""


def expand(table: Table, ours: str, theirs: str) -> list[Rule]:
    """The rules of a table, with prefixes for both names."""
    rules = []
    for kind, our, foreign in table:
        names = (ours + our, theirs + foreign)
        rules += [Rule((names[0],), names[1], kind)] if isinstance(kind, str) else kind(*names)
    return rules


def linear(ours: str, theirs: str) -> list[Rule]:
    """torch's Linear."""
    return expand([("i o -> o i", "/kernel", ".weight"), ("o -> o", "/bias", ".bias")], ours, theirs)


def norm(ours: str, theirs: str) -> list[Rule]:
    """A norm with a scale and a bias."""
    return expand([("d -> d", "/scale", ".weight"), ("d -> d", "/bias", ".bias")], ours, theirs)


def heads(ours: str, theirs: str) -> list[Rule]:
    """A Linear whose outputs are the units of heads: queries, keys or values."""
    return expand(
        [("i h d -> (h d) i", "/kernel", ".weight"), ("h d -> (h d)", "/bias", ".bias")], ours, theirs
    )


def heads_out(ours: str, theirs: str) -> list[Rule]:
    """A Linear whose inputs are the units of heads."""
    return expand([("h d o -> o (h d)", "/kernel", ".weight"), ("o -> o", "/bias", ".bias")], ours, theirs)


def patches(size: int) -> Kind:
    """The kernel of a convolution of stride `size` over patches of that size."""

    def rules(ours: str, theirs: str) -> list[Rule]:
        return [Rule((ours,), theirs, "(p q c) o -> o c p q", {"p": size, "q": size})]

    return rules


def to_leaves(
    source: Path, rules: Sequence[Rule], shapes: Shapes, state: Mapping[str, Stored]
) -> dict[str, np.ndarray]:
    """Read every leaf, one tensor after the other.

    Args:
        source: where the tensors are, for messages.
        rules: the table.
        shapes: of our leaves, by path.
        state: the foreign tensors by name.

    Raises:
        ValueError: a tensor is missing, has another shape, or is in no rule; names the first one.
    """
    _check_state(source, rules, shapes, state)
    leaves: dict[str, np.ndarray] = {}
    for rule in rules:
        tensor = state[rule.name].read()
        check_finite("load_pretrained", str(source), {rule.name: tensor})
        for copy in rule.copies:
            same = copy not in state or np.array_equal(tensor, state[copy].read())
            _require(same, source, copy, f"a copy of {rule.name!r}", "other numbers")
        leaves |= rule.to_ours(tensor, shapes)
    return leaves


def _check_state(source: Path, rules: Sequence[Rule], shapes: Shapes, state: Mapping[str, Stored]) -> None:
    """Raise ValueError at the first tensor that is missing, has another shape, or is in no rule."""
    known = {name: rule.shape(shapes) for rule in rules for name in (rule.name, *rule.copies)}
    unknown = [name for name in state if name not in known]
    hint = f"It has {unknown[0]!r}, which this architecture has not." if unknown else ""
    for rule in rules:
        must_be = f"a tensor of shape {list(known[rule.name])}"
        _require(rule.name in state, source, rule.name, must_be, "nothing", hint)
        for name in (rule.name, *rule.copies):
            shape = state[name].shape if name in state else known[name]
            _require(shape == known[name], source, name, must_be, list(shape), "Is config.json its own?")
            if name in state:
                dtype = state[name].dtype
                _require(is_float(dtype), source, name, "of float32, float16 or bfloat16", dtype, FLOAT64)
    for name in unknown[:1]:
        must_be = "no tensor, as this architecture has none of that name"
        _require(False, source, name, must_be, list(state[name].shape), "Is config.json its own?")


def is_float(dtype: np.dtype) -> bool:
    """Whether numbers of a dtype are floats that jax takes as they are."""
    widest = jnp.result_type(float).itemsize
    return bool(jnp.issubdtype(dtype, jnp.floating)) and 2 <= dtype.itemsize <= widest


def _require(condition: bool, source: Path, name: str, must_be: str, got: Any, advice: str = "") -> None:
    require(condition, "load_pretrained", f"{source}[{name!r}]", must_be, got, advice)
