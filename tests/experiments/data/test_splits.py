import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import splits
from data.dataset import join
from data.registry import load_dataset
from data.splits import (
    generator,
    head_classes,
    head_labels,
    hold_out,
    keep,
    of_classes,
    sample,
    sample_unevenly,
    split_classes,
    task_labels,
    task_sizes,
)


@given(st.integers(0, 10_000))
def test_classes_are_split_in_halves(seed):
    a, b = split_classes(10, seed)
    assert len(a) == len(b) == 5 and sorted(a + b) == list(range(10))
    assert split_classes(10, seed) == (a, b)


@given(st.integers(0, 1000), st.sampled_from([(2, 8), (3, 7), (3, 3, 4), (1,) * 10]))
def test_classes_are_split_by_sizes(seed, sizes):
    tasks = split_classes(10, seed, sizes)
    assert tuple(map(len, tasks)) == sizes and sorted(sum(tasks, ())) == list(range(10))
    assert all(list(task) == sorted(task) for task in tasks)


def test_halves_are_sizes_too():
    assert split_classes(10, 3) == split_classes(10, 3, (5, 5)) and task_sizes(7) == (3, 4)


@pytest.mark.parametrize("sizes", [(10,), (5, 4), (0, 10), (5, 5, 5), (-1, 11)])
def test_wrong_sizes(sizes):
    with pytest.raises(ValueError, match=r"sizes must be two or more, each >= 1, with sum 10; got"):
        task_sizes(10, sizes)


def test_shared_labels_by_hand():
    """Tasks {3, 5} and {0, 7, 8}: classes are called by their place in the task."""
    tasks, labels = ((3, 5), (0, 7, 8)), np.array([5, 8, 3, 0, 7])
    rows = task_labels(labels, tasks, "shared")
    assert rows.tolist() == [[1, -1, 0, -1, -1], [-1, 2, -1, 0, 1]]
    assert head_labels(rows).tolist() == [1, 2, 0, 0, 1]
    assert head_classes(tasks, "shared") == ((0, 1), (0, 1, 2)) and head_classes(tasks, "disjoint") == tasks
    assert task_labels(labels, tasks, "disjoint") is labels and head_labels(labels) is labels
    with pytest.raises(ValueError, match="unknown protocol 'share'. Did you mean 'shared'"):
        task_labels(labels, tasks, "share")


def test_uneven_samples():
    first, second = np.arange(100), np.arange(100, 300)
    drawn = sample_unevenly(first, second, 70, seed=1, ratio=5.0)
    assert len(set(drawn)) == 70 and (drawn < 100).sum() == 50  # 5 * 100 : 200
    assert (drawn[:35] < 100).any() and (drawn[:35] >= 100).any()  # in random order
    assert (sample_unevenly(first, second, 70, seed=1, ratio=5.0) == drawn).all()
    with pytest.raises(ValueError, match="preferred must be 214 or more for ratio 5; got 100"):
        sample_unevenly(first, second, 300, seed=1, ratio=5.0)


def test_joined_data_sets():
    digits = load_dataset("digits")
    other = dataclasses.replace(digits, name="other", test_labels=digits.test_labels[::-1])
    both = join([digits, other])
    assert both.name == "digits+other" and both.num_classes == 20
    assert both.groups == (tuple(range(10)), tuple(range(10, 20)))
    half = len(digits.test_labels)
    assert (both.test_labels[half:] == 10 + digits.test_labels[::-1]).all()
    assert (both.test_images[:half] == both.test_images[half:]).all()
    with pytest.raises(ValueError, match="two or more, each once"):
        join([digits, digits])
    with pytest.raises(ValueError, match="of one image shape"):
        join([digits, dataclasses.replace(other, train_images=np.zeros((2, 9, 9, 1), np.uint8))])


def test_kept_images():
    kept = keep(np.arange(50, 100), 20, seed=2)
    assert len(set(kept)) == 20 and kept.min() >= 50 and (np.diff(kept) > 0).all()


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
    code = "from data.splits import generator; print(generator('x', 3).integers(1 << 30))"
    folder = Path(splits.__file__).parents[1]
    other = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    assert int(other.stdout) == generator("x", 3).integers(1 << 30)
