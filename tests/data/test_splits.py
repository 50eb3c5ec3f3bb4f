import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autofusion_jax.data.splits import generator, hold_out, of_classes, sample, split_classes


@given(st.integers(0, 10_000))
def test_classes_are_split_in_halves(seed):
    a, b = split_classes(10, seed)
    assert len(a) == len(b) == 5 and sorted(a + b) == list(range(10))
    assert split_classes(10, seed) == (a, b)


def test_seeds_differ():
    assert len({split_classes(10, seed) for seed in range(20)}) > 10


def test_held_out_images_are_apart():
    train, validation = hold_out(100, 30, seed=1)
    assert sorted([*train, *validation]) == list(range(100)) and len(validation) == 30
    chosen = sample(train, 50, seed=1)
    assert len(set(chosen)) == 50 and set(chosen) <= set(train)
    labels = np.arange(100) % 10
    assert set(labels[of_classes(labels, (2, 3), train)]) == {2, 3}


def test_out_of_range():
    with pytest.raises(ValueError, match=r"num_validation must be in \[0, 10\)"):
        hold_out(10, 10, 0)
    with pytest.raises(ValueError, match=r"num must be in \[1, 10\]"):
        sample(np.arange(10), 11, 0)


def test_the_same_in_every_process():
    code = "from autofusion_jax.data.splits import generator; print(generator('x', 3).integers(1 << 30))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(other.stdout) == generator("x", 3).integers(1 << 30)
