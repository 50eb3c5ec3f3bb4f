"""Networks to evaluate: merged ones, with what they took, and all of them side by side."""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Key

from autofusion_jax.merging.api import merge_repeats
from autofusion_jax.merging.method import Method
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.types import ApplyFn, Params


class Network(NamedTuple):
    """One network to evaluate.

    Attributes:
        params: its parameters.
        apply_fn: its function.
        variant: `"soft"`, `"hard"` or None.
        repeat: number of the repeat, from 0.
        num_learned: numbers fitted to data.
        seconds: time it took to make.
        result: the merge it comes from, or None.
        kept_at: where its checkpoint already is, or None.
        storable: False if its parameters are not those of one network of the architecture.
        found: settings that were searched for on training data, by name.
    """

    params: Params
    apply_fn: ApplyFn
    variant: str | None = None
    repeat: int = 0
    num_learned: int = 0
    seconds: float = 0.0
    result: MergeResult | None = None
    kept_at: str | None = None
    storable: bool = True
    found: Mapping[str, float] = MappingProxyType({})

    @property
    def num_heads(self) -> int:
        """How many heads it has."""
        return self.result.num_heads if self.result else 1


@dataclasses.dataclass(frozen=True)
class SideBySide:
    """All networks run side by side: one head each."""

    apply_fn: ApplyFn

    def __call__(self, models: Sequence[Params], x: Array) -> Array:
        """Their outputs `[networks, N, ...]`."""
        return jnp.stack([self.apply_fn(params, x) for params in models])


def merge_networks(
    models: Sequence[Params],
    spec: PermSpec | None,
    batch: Any,
    *,
    method: Method,
    keys: Key[Array, " repeats"],
    apply_fn: ApplyFn,
    **options: Any,
) -> list[Network]:
    """Merge networks once for every key, and take the results apart by variant.

    Args:
        models: parameters of the networks, A first.
        spec: their permutation spec, or None for methods that need none.
        batch: unlabelled inputs, as in `autofusion_jax.merge_repeats`.
        method: how to merge.
        keys: random keys `[repeats]`; the first alone where the method uses none.
        apply_fn: the networks' function.
        options: `labels`, `correction`, `align`, `base` and `progress` of `autofusion_jax.merge_repeats`.

    Returns:
        For each repeat one network, or one for each variant; seconds are shared evenly by the repeats.
    """
    keys = keys if method.uses_key else keys[:1]
    results = merge_repeats(models, spec, batch, method=method, keys=keys, **options)
    return [
        Network(params, result.apply_fn or apply_fn, variant, repeat, result.num_learned, result.seconds,
                result, storable=result.apply_fn in (None, apply_fn))
        for repeat, result in enumerate(results)
        for variant, params in (result.variants or {None: result.params}).items()
    ]  # fmt: skip
