"""Diagnostics of a merge in words: what each number says, and from where on it is good or bad."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

BALANCED, UNBALANCED = 1e-2, 1.0
"""Row sums of a soft permutation: within the first they are those of a doubly stochastic matrix; above the
second a row is counted twice or more."""


def _numbers(value: Any) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(leaf, float)) for leaf in jax.tree.leaves(value)] or [[]])


def _marginal_error(value: Any) -> str:
    worst = _numbers(value).max(initial=0.0)
    if worst < BALANCED:
        return "good: soft permutations are doubly stochastic"
    if worst < UNBALANCED:
        return (
            "usual after training: rows of soft permutations do not sum to 1; judge soft and hard by accuracy"
        )
    return "bad: a unit of B counts twice or more; lower learning_rate / tau, or raise num_iters"


def _converged(value: Any) -> str:
    return "good" if value else "stopped before nothing changed: raise the number of sweeps or iterations"


def _balanced(value: Any) -> str:
    return "good: all marginal errors below 0.01" if value else "a marginal error is 0.01 or more, see there"


def _kept(value: Any) -> str:
    if value >= 0.5:
        return "good: most inputs have a label that is sure enough"
    return "few labels are sure enough to learn from" + ("; lower zeta" if value < 0.1 else "")


def _agreement(value: Any) -> str:
    last = float(np.asarray(list(value.values())[-1] if isinstance(value, Mapping) else value))
    if last >= 0.95:
        return "good: answers as its teacher does on the inputs"
    return (
        "bad: does not fit its teacher on the inputs"
        if last < 0.8
        else "fair; the rest is what merging costs"
    )


def _residuals(value: Any) -> str:
    before, after = (sum(pair[i] for pair in value.values()) for i in (0, 1)) if value else (0.0, 0.0)
    left = float(after) / float(before) if before else 0.0
    words = "good" if left < 0.3 else "fair" if left < 0.7 else "bad: the units kept cannot say what is lost"
    return f"{words}: {100 * left:.0f} % of what the layers lacked is left after least squares"


def _objectives(value: Any) -> str:
    found = _numbers(value)
    spread = float(np.ptp(found) / max(abs(found.max()), 1e-30)) if found.size else 0.0
    if found.size < 2:
        return "one run: a local optimum; num_restarts=5 shows by how much runs differ"
    return (
        "good: all runs agree"
        if spread < 1e-3
        else f"runs differ by {100 * spread:.1f} %: more may find more"
    )


def _best_epoch(value: Any) -> str:
    return "nothing better than weight matching was found" if value == 0 else "good: training found more"


def _ratio(value: Any) -> str:
    return "1: the average of the networks; 0: the base, where task vectors share no direction"


def _norms(value: Any) -> str:
    found = _numbers(value)
    uneven = found.size and found.max() > 10 * max(float(found.min()), 1e-30)
    return (
        "bad: one network outweighs the others; normalize=True evens them out"
        if uneven
        else "good: comparable"
    )


READINGS: dict[str, Callable[[Any], str] | str] = {
    "agreement": _agreement,
    "alpha": "share of the weights' similarity beside that of activations",
    "assignments": "assignments solved",
    "averaged": "leaves that were averaged, no least squares being known for them",
    "best_epoch": _best_epoch,
    "coefficients": "learned factors of the task vectors; near their start where nothing was learned",
    "converged": _converged,
    "correction": "what was corrected after the merge",
    "doubly_stochastic": _balanced,
    "fitted": "leaves fitted by least squares",
    "head": "what the head was fitted to",
    "iterations": "steps taken",
    "kept": _kept,
    "layers": "which layers of the networks stand where",
    "marginal_error": _marginal_error,
    "mask": "share of every entry of the task vectors; 0.5 where nothing was learned",
    "mixing": "weights of each network in every unit",
    "norms": _norms,
    "num_active": "parameters used for one input",
    "num_params": "parameters of the merged network",
    "objective": "agreement of the weights; to be compared between runs on the same networks only",
    "objectives": _objectives,
    "ratio": _ratio,
    "residuals": _residuals,
    "scores": "accuracy or confidence on the inputs for each value tried",
    "selected": "leaves whose units were selected, not fitted",
    "sources": "network that each module comes from",
    "start_loss": "loss before training",
    "steps": "diagnostics of each merge of a sequence",
    "sweeps": "passes over all groups",
    "teacher": "who labelled the inputs",
    "units": "units kept of each network",
}
"""What a diagnostic says: words, or a function of its value that judges it."""


def reading(name: str, value: Any) -> str:
    """What a diagnostic says of a merge, and whether that is good or bad.

    Args:
        name: a key of `MergeResult.diagnostics`.
        value: its value.

    Example:
        >>> reading("marginal_error", {"dense_0": 0.001})
        'good: soft permutations are doubly stochastic'
    """
    found = READINGS.get(name, "")
    return found if isinstance(found, str) else found(value)


def short(value: Any) -> str:
    """A diagnostic's value in a few characters: numbers by their range, names by how many there are."""
    if isinstance(value, str | bool | np.bool_ | int):
        return str(value)
    leaves = jax.tree.leaves(value)
    if leaves and all(isinstance(leaf, str) for leaf in leaves):
        return leaves[0] if len(leaves) == 1 else f"{len(leaves)} leaves"
    if isinstance(value, Sequence) and value and isinstance(value[0], Mapping):
        return f"{len(value)} merges"
    numbers = _numbers(value)
    if numbers.size == 0:
        return "none"
    low, high = numbers.min(), numbers.max()
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
