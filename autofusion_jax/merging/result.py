"""Results of merges."""

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from autofusion_jax.merging.display import result_html, result_repr, summary_table, text_of
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.types import ApplyFn, Params, Perms, SoftPerms


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True, repr=False)
class MergeResult:
    """A merged network and how it came about; a pytree, so it goes through `jax.jit`, `vmap` and `tree.map`.

    Arrays and numbers are its leaves; `apply_fn`, `num_learned`, `num_heads`, `recipe`, `perm_spec` and
    words among the diagnostics are static. `print(result)` shows a table of it.

    Attributes:
        params: the merged parameters; one of `variants` where there are several.
        apply_fn: the function to call with them: the networks' own, except where the merged
            network is another program (an ensemble, a mixture of experts). None if the spec carries none.
        perms: the permutations of model B by group, hard; empty for methods without any.
        alignments: for each network, by group, which of its units go into which merged unit:
            permutations, soft ones, or merge matrices `M_k` (rows: merged units); empty where the
            merged network has no units of its own, or not these (ensembles, mixtures of experts).
        weights: for each network, how much it counts: a merged unit is made of
            `sum_k weights[k] * alignments[k]` (1 for merge matrices, which say so themselves).
        soft_perms: the same before rounding; empty for methods without any.
        variants: `"soft"` and `"hard"` parameters of methods that round soft permutations; all networks by
            name of those that make several.
        history: per-epoch curves by name, each `[epochs]`; empty for methods without any.
        diagnostics: numbers that say how far to trust the result (marginal errors, kept
            fraction, convergence); `summary` says of each what is good and what is bad.
        num_learned: how many numbers the method fitted to data.
        num_heads: how many heads the merged network has; `apply_fn` stacks their outputs
            `[num_heads, N, ...]` if there are several.
        recipe: what was done, as pairs of name and value: method, options, networks, inputs, alignment,
            correction.
        seconds: wall time of the merge, compilation included.
        perm_spec: the permutation spec of the merged network, or None if it is another program.
    """

    params: Params
    apply_fn: ApplyFn | None
    perms: Perms = dataclasses.field(default_factory=dict)
    alignments: tuple[Perms | SoftPerms, ...] = ()
    weights: tuple[float, ...] = ()
    soft_perms: SoftPerms = dataclasses.field(default_factory=dict)
    variants: Mapping[str, Params] = dataclasses.field(default_factory=dict)
    history: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    diagnostics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    num_learned: int = 0
    num_heads: int = 1
    recipe: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0
    perm_spec: PermSpec | None = None

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        """Its leaves by name, and what is static; see `jax.tree_util.register_pytree_with_keys_class`."""
        found, tree = jax.tree.flatten(dict(self.diagnostics))
        # No array can hold a word, so words are a part of the structure.
        words = tuple(leaf if isinstance(leaf, str) else None for leaf in found)
        values = {
            **{name: getattr(self, name) for name in ARRAYS},
            **{name: dict(getattr(self, name)) for name in MAPPINGS},
            "diagnostics": [leaf for leaf in found if not isinstance(leaf, str)],
        }
        children = [(jax.tree_util.GetAttrKey(name), value) for name, value in values.items()]
        return children, (*(getattr(self, name) for name in STATIC), words, tree)

    @classmethod
    def tree_unflatten(cls, static: tuple[Any, ...], children: Iterable[Any]) -> "MergeResult":
        """Put together what `tree_flatten_with_keys` took apart."""
        *fields, words, tree = static
        *values, numbers = children
        rest = iter(numbers)
        diagnostics = tree.unflatten([next(rest) if word is None else word for word in words])
        named = dict(zip((*ARRAYS, *MAPPINGS), values)) | dict(zip(STATIC, fields))
        result = object.__new__(cls)  # transformations put placeholders here, which no constructor would take
        for name, value in {**named, "diagnostics": diagnostics}.items():
            object.__setattr__(result, name, value)
        return result

    def summary(self) -> None:
        """Print what was done, what came out, and how far to trust it."""
        print(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the merged parameters, their spec and the recipe as a checkpoint folder.

        Args:
            path: the folder; one that is there is replaced, never in part.

        Returns:
            The path.

        Raises:
            FileExistsError: the folder is there and is no checkpoint.
            OSError: the folder cannot be written, or the disk is full.
            ImportError: the extra `checkpoints` is not installed.
        """
        from autofusion_jax.checkpoints.orbax_io import save  # orbax takes a second to import

        meta = {"recipe": dict(self.recipe), "num_learned": self.num_learned, "seconds": float(self.seconds)}
        return save(path, self.params, spec=self.perm_spec, meta=meta)

    def __repr__(self) -> str:
        return result_repr(self)

    def __str__(self) -> str:
        return text_of(summary_table(self))

    def _repr_html_(self) -> str:
        return result_html(self)


ARRAYS = ("params", "alignments", "weights", "seconds")
MAPPINGS = ("perms", "soft_perms", "variants", "history")
STATIC = ("apply_fn", "num_learned", "num_heads", "recipe", "perm_spec")
"""Fields by how they travel as a pytree; `diagnostics` are numbers and words."""
