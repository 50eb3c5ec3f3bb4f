"""Tables of rules, where no format of transformers shows it."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from autofusion_jax.checkpoints.convert.rules import Rule, to_leaves


class InMemory(NamedTuple):
    values: np.ndarray

    @property
    def dtype(self):
        return self.values.dtype

    @property
    def shape(self):
        return self.values.shape

    def read(self):
        return self.values


def state(**tensors):
    return {name: InMemory(np.asarray(value)) for name, value in tensors.items()}


def test_copies_may_be_missing_but_not_differ():
    rules, shapes = [Rule(("embed",), "shared", "v d -> d v", copies=("head",))], {"embed": (3, 2)}
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    for tensors in ({"shared": values}, {"shared": values, "head": values.copy()}):
        np.testing.assert_array_equal(
            to_leaves(Path("f"), rules, shapes, state(**tensors))["embed"], values.T
        )
    with pytest.raises(ValueError, match="must be a copy of 'shared'; got other numbers"):
        to_leaves(Path("f"), rules, shapes, state(shared=values, head=values + 1))
    with pytest.raises(ValueError, match=r"head'\] must be a tensor of shape \[2, 3\]; got \[3, 2\]"):
        to_leaves(Path("f"), rules, shapes, state(shared=values, head=values.T))


def test_leaves_side_by_side():
    rule = Rule(("q", "k"), "fused", "i h d -> i (h d)", axis=1)
    leaves = {"q": np.arange(12).reshape(2, 3, 2), "k": np.arange(12, 24).reshape(2, 3, 2)}
    fused = rule.to_theirs(leaves)
    expected = [[0, 1, 2, 3, 4, 5, 12, 13, 14, 15, 16, 17], [6, 7, 8, 9, 10, 11, 18, 19, 20, 21, 22, 23]]
    np.testing.assert_array_equal(fused, expected)
    got = rule.to_ours(fused, {name: leaf.shape for name, leaf in leaves.items()})
    for name, leaf in leaves.items():
        np.testing.assert_array_equal(got[name], leaf)
