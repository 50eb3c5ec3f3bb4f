import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.evaluation.similarity import (
    l1_complexity,
    linear_cka,
    network_similarity,
    output_sites,
    unit_correlation,
)
from autofusion_jax.symmetry.moments import batch_moments
from tests.conftest import inputs_for, params_for


def gram_cka(a, b):
    """CKA by Gram matrices of the samples and HSIC, in float64."""
    n = len(a)
    centre = np.eye(n) - 1 / n
    left, right = (
        centre @ (v @ v.T) @ centre for v in (np.asarray(a, np.float64), np.asarray(b, np.float64))
    )
    return np.sum(left * right) / np.sqrt(np.sum(left * left) * np.sum(right * right))


def rows(values):
    return np.asarray(values, np.float64).reshape(-1, values.shape[-1])


def test_cka_is_that_of_gram_matrices():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((60, 7)) + 5
    b = a @ rng.standard_normal((7, 7)) + rng.standard_normal((60, 7))
    moments = batch_moments(jnp.asarray(np.stack([a, b]), jnp.float32), 0)
    assert linear_cka(moments) == pytest.approx(gram_cka(a, b), rel=1e-4)
    columns = [np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(7)]
    assert unit_correlation(moments) == pytest.approx(np.mean(columns), abs=1e-5)


def test_units_that_never_vary_are_left_out():
    a = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    b = a.copy()
    b[:, 1] = 2.0
    assert unit_correlation(batch_moments(jnp.stack([a, b]), 0)) == pytest.approx(1, abs=1e-5)
    dead = batch_moments(jnp.stack([a, np.ones_like(a)]), 0)
    assert np.isnan(unit_correlation(dead)) and np.isnan(linear_cka(dead))


def test_nested_groups_are_means_over_their_outer_indices():
    values = np.random.default_rng(0).standard_normal((2, 50, 3, 4)).astype(np.float32)  # 3 heads of 4
    expected = np.mean([gram_cka(values[0, :, h], values[1, :, h]) for h in range(3)])
    assert linear_cka(batch_moments(jnp.asarray(values), 1)) == pytest.approx(expected, rel=1e-4)


def test_networks_streamed_against_all_at_once(model):
    """Every place of a feature map is a sample; batches of unequal size."""
    a, b, spec, x = params_for(model, 0), params_for(model, 1), model.perm_spec, inputs_for(model, 30)
    found = network_similarity(spec, [b, b, a], [x[:20], x[20:]], pairs=[(2, 1), (0, 1)])
    assert sorted(found) == sorted(site.name for site in spec.sites)
    captured = [af.capture_sites(spec, params, x) for params in (a, b)]
    for name, (similarity, same) in found.items():
        assert same.cka == pytest.approx(1, abs=1e-4) == same.unit_correlation
        left, right = (rows(values[name]) for values in captured)
        assert similarity.cka == pytest.approx(gram_cka(left, right), rel=1e-3)
        alive = (left.std(0) > 0) & (right.std(0) > 0)
        pairs = [np.corrcoef(left[:, i], right[:, i])[0, 1] for i in np.flatnonzero(alive)]
        assert similarity.unit_correlation == pytest.approx(np.mean(pairs), abs=1e-4)


def test_an_alignment_changes_the_units_and_not_cka(model):
    a, spec, x = params_for(model, 0), model.perm_spec, inputs_for(model, 30)
    perms = af.random_perms(spec, jax.random.key(1))
    moved = af.apply_perm(spec, a, perms)
    back = af.apply_perm(spec, moved, af.invert(spec, perms))
    sites = tuple(output_sites(spec).values())
    found = network_similarity(spec, [a, moved, back], [x], pairs=[(0, 1), (0, 2)], sites=sites)
    assert list(output_sites(spec)) == list(spec.groups)
    for before, after in found.values():
        assert before.cka == pytest.approx(1, abs=1e-4) == after.cka
        assert before.unit_correlation < 0.9 < 0.999 < after.unit_correlation


def test_l1_complexity_counts_what_moves():
    assert l1_complexity(jnp.arange(5)) == 0
    assert l1_complexity(jnp.array([1, 2, 0, 3])) == 6
    assert l1_complexity(jnp.array([[1, 0], [0, 1]])) == 4  # nested: one permutation a row
    soft = np.random.default_rng(0).random((3, 3)).astype(np.float32)
    brute = sum(abs(float(soft[i, j]) - (i == j)) for i in range(3) for j in range(3))
    assert l1_complexity(jnp.asarray(soft)) == pytest.approx(brute)
    assert l1_complexity(jnp.eye(4)[jnp.array([3, 1, 2, 0])]) == l1_complexity(jnp.array([3, 1, 2, 0])) == 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear_cka(batch_moments(jnp.ones((1, 4, 2)), 0)), r"second must be in \[0, 1\); got"),
        (lambda: unit_correlation(batch_moments(jnp.ones((2, 4, 2)), 0), 0, 2), r"in \[0, 2\); got \(0, 2\)"),
        (lambda: l1_complexity(jnp.ones((2, 3))), r"perm must be integers .* got float32\[2, 3\]"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
