import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autofusion_jax.merging.zipping.greedy import merge_matrices, permute_clusters, zip_clusters
from autofusion_jax.merging.zipping.nested_groups import group_align, group_zip, match_blocks
from autofusion_jax.transport.assignment import solve_assignment
from tests.conftest import oracle

GROUPS = 4


@pytest.fixture(scope="module")
def stored():
    return oracle("group_g4x8_N2.npz")


@pytest.fixture(scope="module")
def similarity(stored):
    return jnp.asarray(stored["correlation"])


def match_outer(values):
    """Assign the groups of every model to model 0's; the first row is the identity."""
    perms = solve_assignment(values)
    first = jnp.broadcast_to(jnp.arange(perms.shape[-1]), (*perms.shape[:-2], 1, perms.shape[-1]))
    return jnp.concatenate([first, perms], -2)


@pytest.fixture(scope="module")
def outer_perms(similarity):
    return match_outer(match_blocks(similarity, 2, GROUPS))


def dense(labels, outer_perms):
    """The matrices of a nested element as one pair of all units: outer permutation, then inner."""
    num_models, num_groups = outer_perms.shape
    merge, unmerge = (np.asarray(m) for m in merge_matrices(labels, num_models))
    k = merge.shape[1]
    rows = np.zeros((num_models, num_groups, k, num_groups, k))
    averages = np.zeros_like(rows)
    for model, perm in enumerate(np.asarray(outer_perms)):
        for place, group in enumerate(perm):
            units = slice(model * k, (model + 1) * k)
            rows[model, group, :, place] = unmerge[place, units]
            averages[model, group, :, place] = merge[place, :, units].T
    shape = (num_models * num_groups * k, num_groups * k)
    return averages.reshape(shape), rows.reshape(shape)


def test_group_align_is_that_of_the_reference(stored, similarity, outer_perms):
    aligned = group_align(similarity, 2, outer_perms)
    merge, unmerge = dense(aligned.labels, outer_perms)
    np.testing.assert_array_equal(unmerge, stored["group_align_unmerge"])
    np.testing.assert_allclose(merge, stored["group_align_merge"], rtol=2e-5)
    np.testing.assert_allclose(aligned.value, stored["group_align_value"], rtol=1e-6)


@pytest.mark.parametrize("pair", range(6))
def test_group_zip_is_that_of_the_reference(stored, similarity, outer_perms, pair):
    a, b = map(float, stored["ab"][pair])
    zipped = group_zip(similarity, 2, outer_perms, a=a, b=b)
    merge, unmerge = dense(zipped.labels, outer_perms)
    np.testing.assert_array_equal(unmerge, stored[f"group_zip_unmerge_{pair}"])
    np.testing.assert_allclose(merge, stored[f"group_zip_merge_{pair}"], rtol=2e-5)
    np.testing.assert_allclose(zipped.value, stored[f"group_zip_value_{pair}"], rtol=1e-6)


def planted(num_models, num_groups, k, seed):
    """Similarities of models that are one model with groups and units in another order."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((num_groups, k, 64)).astype(np.float32)
    models, outer = [features], [np.arange(num_groups)]
    for _ in range(num_models - 1):
        order = rng.permutation(num_groups)  # the model's group order[h] is the first one's h
        outer.append(order)
        shuffled = np.empty_like(features)
        for place, group in enumerate(order):
            shuffled[group] = features[place, rng.permutation(k)]
        models.append(shuffled)
    flat = np.stack(models).reshape(-1, 64)
    return jnp.asarray(np.corrcoef(flat), jnp.float32), np.stack(outer)


@pytest.mark.parametrize("num_models", [2, 3])
@pytest.mark.slow
def test_planted_groups_and_units_are_found(num_models):
    similarity, outer = planted(num_models, 3, 5, seed=0)
    values = match_blocks(similarity, num_models, 3)
    assert values.shape == (num_models - 1, 3, 3)
    found = match_outer(values)
    np.testing.assert_array_equal(found, outer)
    for matched in (group_align(similarity, num_models, found), group_zip(similarity, num_models, found)):
        sizes = merge_matrices(matched.labels, num_models)[1].reshape(3, num_models, 5, 5).sum(2)
        np.testing.assert_array_equal(sizes, 1)  # one unit of each model in every merged unit
    np.testing.assert_allclose(group_align(similarity, num_models, found).value, 1, rtol=1e-5)


def test_values_are_means_under_the_best_inner_assignment(similarity):
    values = match_blocks(similarity, 2, GROUPS)
    for first, second in [(0, 0), (1, 3), (2, 1)]:
        rows = jnp.concatenate([first * 8 + jnp.arange(8), 32 + second * 8 + jnp.arange(8)])
        alone = permute_clusters(similarity[rows][:, rows], 2)
        np.testing.assert_allclose(values[0, first, second], alone.value, rtol=1e-6)


def test_inner_groups_share_the_outer_permutation_of_their_sum():
    weak, _ = planted(2, 3, 4, seed=1)
    strong, outer = planted(2, 3, 4, seed=2)
    values = match_blocks(0.01 * weak, 2, 3) + match_blocks(strong, 2, 3)
    np.testing.assert_array_equal(match_outer(values), outer)


@pytest.mark.slow
def test_one_group_is_the_plain_matching(similarity):
    """But that a group has a budget of its own, which binds where `b` is more than 1."""
    whole = match_outer(match_blocks(similarity, 2, 1))
    np.testing.assert_array_equal(whole, [[0], [0]])
    aligned, plain = group_align(similarity, 2, whole), permute_clusters(similarity, 2)
    np.testing.assert_array_equal(aligned.labels[0], plain.labels)
    zipped, plain = group_zip(similarity, 2, whole, a=0.5, b=0.5), zip_clusters(similarity, 2, a=0.5, b=0.5)
    np.testing.assert_array_equal(zipped.labels[0], plain.labels)
    np.testing.assert_allclose(zipped.value, plain.value, rtol=1e-6)


def test_the_budget_is_shared_by_all_groups(similarity, outer_perms):
    """b = 0 allows each model one merge within itself, in whichever group comes first."""
    labels = np.asarray(group_zip(similarity, 2, outer_perms, a=0.3, b=0.0).labels)
    within = np.zeros((2, GROUPS), int)
    for group, row in enumerate(labels):
        for model, units in enumerate(row.reshape(2, 8)):
            within[model, group] = 8 - len(np.unique(units))
    assert (within.sum(1) <= 1).all()
    assert within.sum() > 0


@pytest.mark.slow
def test_stacks_and_jit_give_the_same():
    rng = np.random.default_rng(0)
    noise = [0.2 * rng.standard_normal((24, 24)).astype(np.float32) for _ in range(2)]
    cases = [planted(3, 2, 4, seed)[0] + n + n.T for seed, n in enumerate(noise)]

    def run(similarity):
        outer = match_outer(match_blocks(similarity, 3, 2))
        return outer, group_align(similarity, 3, outer), group_zip(similarity, 3, outer, lift_budget=True)

    expected = jax.tree.map(lambda *parts: np.stack(parts), *[run(c) for c in cases])
    got = jax.jit(run)(jnp.stack(cases))
    jax.tree.map(lambda have, want: np.testing.assert_allclose(have, want, rtol=1e-6), got, expected)


def test_bad_input_is_refused():
    similarity = jnp.eye(12)
    with pytest.raises(ValueError, match=r"match_blocks: num_groups must be a divisor of 6.*got 4"):
        match_blocks(similarity, 2, 4)
    with pytest.raises(ValueError, match=r"group_align: outer_perms must be \[2, g\]"):
        group_align(similarity, 2, jnp.zeros((3, 2), jnp.int32))
