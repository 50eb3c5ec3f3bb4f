import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import autofusion_jax as af
from autofusion_jax.merging.zipping.greedy import (
    VARIANTS,
    greedy_zip,
    merge_matrices,
    optimal_zip,
    permute_clusters,
    permute_zip,
    zip_clusters,
)
from tests.conftest import oracle


def load(num_models):
    stored = oracle(f"match_n16_N{num_models}.npz")
    return stored, jnp.asarray(stored["correlation"])


def random_similarity(rows, seed, *, levels=None):
    """Symmetric, of both signs; of a few levels only, so that there are many ties."""
    values = np.random.default_rng(seed).standard_normal((rows, rows))
    values = values + values.T
    if levels:
        values = np.round(values * levels) / levels
    return values.astype(np.float32)


def naive_zip(similarity, num_models, a, b):
    """The clusters of ZipIt's greedy matching, by a search of the whole matrix for every merge."""
    values = np.array(similarity, np.float32)
    rows = len(values)
    n = rows // num_models
    origin = np.arange(rows) // n
    budget = [int(n * (num_models - 1) // num_models * b + 1e-4)] * num_models
    clusters = {unit: [unit] for unit in range(rows)}
    np.fill_diagonal(values, -np.inf)
    while len(clusters) > n:
        row, column = sorted(np.unravel_index(np.argmax(values), values.shape))
        if values[row, column] == -np.inf:
            clusters.pop(min(clusters))
            continue
        clusters[row] += clusters.pop(column)
        merged = np.minimum(values[row], values[column]) * np.float32(a)
        values[row] = values[:, row] = merged
        values[column] = values[:, column] = -np.inf
        if origin[row] == origin[column]:
            model = origin[row]
            budget[model] -= 1
            if budget[model] <= 0:
                alive = np.array([u for u in clusters if origin[u] == model])
                values[np.ix_(alive, alive)] = -np.inf
    labels = np.full(rows, -1)
    for number, units in enumerate(clusters[first] for first in sorted(clusters)):
        labels[units] = number
    return labels


def assert_partition(merge_matrix, unmerge_matrix):
    np.testing.assert_allclose(merge_matrix.sum(-1), 1, rtol=1e-6)
    assert set(np.unique(unmerge_matrix)) <= {0, 1}
    np.testing.assert_array_equal(unmerge_matrix.sum(-1), 1)
    np.testing.assert_array_equal(np.swapaxes(merge_matrix > 0, -1, -2), unmerge_matrix > 0)


@pytest.mark.parametrize("pair", range(6))
@pytest.mark.parametrize("num_models", [2, 3])
def test_greedy_zip_is_that_of_the_references(num_models, pair):
    stored, similarity = load(num_models)
    a, b = map(float, stored["ab"][pair])
    merge_matrix, unmerge_matrix = af.greedy_zip(similarity, num_models, a=a, b=b)
    np.testing.assert_array_equal(unmerge_matrix, stored[f"zipit_unmerge_{pair}"])
    # Theirs divides by the size of the cluster + 1e-5.
    np.testing.assert_allclose(merge_matrix, stored[f"zipit_merge_{pair}"], rtol=2e-5)
    assert stored[f"mudsc_equals_zipit_{pair}"]
    np.testing.assert_array_equal(unmerge_matrix, stored[f"mudsc_zip_unmerge_{pair}"])
    value = zip_clusters(similarity, num_models, a=a, b=b).value
    np.testing.assert_allclose(value, stored[f"mudsc_zip_value_{pair}"], rtol=1e-6)


@pytest.mark.parametrize("num_models", [2, 3])
@pytest.mark.parametrize("variant", ["permute", "identity"])
def test_variants_are_those_of_the_reference(variant, num_models):
    stored, similarity = load(num_models)
    merge_matrix, unmerge_matrix = VARIANTS[variant](similarity, num_models)
    np.testing.assert_array_equal(unmerge_matrix, stored[f"{variant}_unmerge"])
    np.testing.assert_allclose(merge_matrix, stored[f"{variant}_merge"], rtol=2e-5)


@pytest.mark.parametrize("num_models", [2, 3])
def test_permute_is_that_of_mudsc(num_models):
    stored, similarity = load(num_models)
    _, unmerge_matrix = permute_zip(similarity, num_models)
    np.testing.assert_array_equal(unmerge_matrix, stored["mudsc_permute_unmerge"])
    value = permute_clusters(similarity, num_models).value
    np.testing.assert_allclose(value, stored["mudsc_permute_value"], rtol=1e-6)


def test_optimal_is_that_of_the_reference():
    """Its columns are in no order."""
    stored, similarity = load(2)
    order = np.argsort(np.argmax(stored["optimal_unmerge"], 0))
    merge_matrix, unmerge_matrix = optimal_zip(similarity, 2)
    np.testing.assert_array_equal(unmerge_matrix, stored["optimal_unmerge"][:, order])
    np.testing.assert_allclose(merge_matrix, stored["optimal_merge"][order], rtol=2e-5)


def best_pairing(similarity, units):
    if not units:
        return 0.0
    first, *others = units
    return max(similarity[first, u] + best_pairing(similarity, [v for v in others if v != u]) for u in others)


def test_optimal_is_the_best_of_all_pairings():
    similarity = np.stack([random_similarity(8, seed) for seed in range(3)])
    merge_matrix, unmerge_matrix = jax.jit(optimal_zip, static_argnums=1)(jnp.asarray(similarity), 2)
    assert_partition(merge_matrix, unmerge_matrix)
    for matrix, unmerge in zip(similarity, np.asarray(unmerge_matrix)):
        total = sum(matrix[tuple(np.flatnonzero(column))] for column in unmerge.T)
        assert total == pytest.approx(best_pairing(matrix, list(range(8))), rel=1e-6)


SIZES = st.sampled_from([(2, 10), (4, 5)])
FACTORS = st.sampled_from([0.3, 1.0, 1e-4])
SHARES = st.sampled_from([0.0, 0.125, 0.5, 1.0])


@settings(max_examples=60, deadline=None)
@given(SIZES, FACTORS, SHARES, st.integers(0, 10**6), st.sampled_from([None, 1, 4]))
def test_greedy_zip_equals_a_search_of_the_whole_matrix(size, a, b, seed, levels):
    num_models, n = size
    similarity = random_similarity(num_models * n, seed, levels=levels)
    labels = zip_clusters(jnp.asarray(similarity), num_models, a=a, b=b).labels
    np.testing.assert_array_equal(labels, naive_zip(similarity, num_models, a, b))


@pytest.mark.parametrize("value", [1.0, 0.0, -1.0])
def test_equal_similarities_go_by_row_and_column(value):
    similarity = np.full((20, 20), value, np.float32)
    for a, b in [(0.3, 0.125), (1.0, 1.0)]:
        labels = zip_clusters(jnp.asarray(similarity), 2, a=a, b=b).labels
        np.testing.assert_array_equal(labels, naive_zip(similarity, 2, a, b))


def test_a_wide_layer_equals_a_search_of_the_whole_matrix():
    features = np.maximum(np.random.default_rng(0).standard_normal((400, 120)), 0)
    similarity = np.corrcoef(features @ np.random.default_rng(1).standard_normal((120, 120)), rowvar=False)
    similarity = similarity.astype(np.float32)
    similarity = np.maximum(similarity, similarity.T)
    labels = zip_clusters(jnp.asarray(similarity), 2, a=0.5, b=0.5).labels
    np.testing.assert_array_equal(labels, naive_zip(similarity, 2, 0.5, 0.5))


@settings(max_examples=30, deadline=None)
@given(SIZES, FACTORS, SHARES, st.integers(0, 10**6))
def test_every_unit_is_in_one_cluster(size, a, b, seed):
    """With two models always; with more where the budget is lifted once it is spent."""
    num_models, n = size
    similarity = jnp.asarray(random_similarity(num_models * n, seed))
    merged = greedy_zip(similarity, num_models, a=a, b=b, lift_budget=num_models > 2)
    assert_partition(*merged)
    first = np.argmax(np.asarray(merged[1]), axis=0)
    assert (np.diff(first) > 0).all()
    assert_partition(*permute_zip(similarity, num_models))


def test_a_spent_budget_drops_units_as_published_unless_lifted():
    stored, similarity = load(3)
    a, b = map(float, stored["ab"][0])
    dropped = greedy_zip(similarity, 3, a=a, b=b)[1].sum(-1) == 0
    assert np.flatnonzero(dropped).tolist() == [0, 23]
    lifted = greedy_zip(similarity, 3, a=a, b=b, lift_budget=True)
    assert_partition(*lifted)
    value = zip_clusters(similarity, 3, a=a, b=b, lift_budget=True).value
    assert jnp.isfinite(value)


def test_the_budget_limits_merges_within_a_model():
    """Units of a model are like each other, so that without a budget only they merge."""
    same = np.kron(np.eye(2), np.ones((10, 10))).astype(np.float32)
    similarity = jnp.asarray(0.1 + 0.8 * same + 0.01 * random_similarity(20, 0))
    for b, within in [(0.0, 1), (0.5, 2), (1.0, 5)]:
        _, unmerge = greedy_zip(similarity, 2, a=1.0, b=b)
        sizes = np.asarray(unmerge).reshape(2, 10, 10).sum(1)  # [models, merged]
        assert (np.maximum(sizes - 1, 0).sum(1) == within).all()


def test_zipping_copies_pairs_each_unit_with_itself():
    block = random_similarity(10, 3) * 0.1
    np.fill_diagonal(block, 1)
    merge_matrix, _ = greedy_zip(jnp.asarray(np.tile(block, (2, 2))), 2)
    np.testing.assert_array_equal(merge_matrix, np.tile(np.eye(10) / 2, (1, 2)))


def test_jit_vmap_and_leading_axes_give_the_same():
    similarity = jnp.stack([jnp.asarray(random_similarity(20, seed)) for seed in range(4)])
    one_by_one = [greedy_zip(s, 4, a=0.5, b=0.25) for s in similarity]
    expected = [np.stack(parts) for parts in zip(*one_by_one)]

    def zipped(s):
        return greedy_zip(s, 4, a=0.5, b=0.25)

    for got in (jax.jit(jax.vmap(zipped))(similarity), zipped(similarity.reshape(2, 2, 20, 20))):
        for have, want in zip(got, expected):
            np.testing.assert_array_equal(jnp.reshape(have, want.shape), want)


def test_nan_under_jit_ends_the_loop():
    """Where the values are traced they cannot be refused; its unit stays by itself."""
    similarity = jnp.asarray(random_similarity(12, 0)).at[3].set(jnp.nan).at[:, 3].set(jnp.nan)
    _, unmerge_matrix = jax.jit(lambda s: greedy_zip(s, 3))(similarity)
    assert jnp.isfinite(unmerge_matrix).all()
    assert unmerge_matrix[:, unmerge_matrix[3].argmax()].sum() == 1


def test_permute_takes_leading_axes_and_jit():
    similarity = jnp.stack([jnp.asarray(random_similarity(12, seed)) for seed in range(3)])
    expected = [permute_clusters(s, 3) for s in similarity]
    batched = jax.jit(permute_clusters, static_argnums=1)(similarity, 3)
    np.testing.assert_array_equal(batched.labels, np.stack([c.labels for c in expected]))
    np.testing.assert_allclose(batched.value, np.stack([c.value for c in expected]), rtol=1e-6)


def test_merge_matrices_average_clusters():
    merge_matrix, unmerge_matrix = merge_matrices(jnp.array([0, 0, 0, 1]), 2)
    np.testing.assert_allclose(merge_matrix, [[1 / 3, 1 / 3, 1 / 3, 0], [0, 0, 0, 1]])
    np.testing.assert_array_equal(unmerge_matrix, [[1, 0], [1, 0], [1, 0], [0, 1]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": 0.0}, r"greedy_zip: a must be a number in \(0, 1\]"),
        ({"b": 1.5}, r"greedy_zip: b must be a number in \[0, 1\]"),
        ({"num_models": 1}, "greedy_zip: num_models must be >= 2"),
        ({"num_models": 3}, r"greedy_zip: similarity must be \[..., N n, N n\] with N = 3"),
        ({"similarity": jnp.full((4, 4), jnp.nan)}, "greedy_zip: similarity must be finite"),
    ],
)
def test_bad_input_is_refused(change, message):
    options = {"similarity": jnp.eye(4), "num_models": 2, **change}
    with pytest.raises(ValueError, match=message):
        greedy_zip(**options)


def test_optimal_is_for_two_models():
    with pytest.raises(ValueError, match="optimal_zip: num_models must be 2; got 3"):
        optimal_zip(jnp.eye(6), 3)
