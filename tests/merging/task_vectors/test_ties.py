"""TIES against recorded outputs of FusionBench and mergekit, and against the paper's algorithm in float64."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.method import MergeTask
from autofusion_jax.merging.task_vectors.ties import count_signs, elect_and_merge, majority
from tests.merging.fusionbench import expect_oracle, fusionbench_networks

FUSIONBENCH = [(0.7, "0.7", 0.3), (0.2, "20", 0.3), (0.2, "20", 1.0), (0.5, "50", 0.3), (0.5, "50", 1.0)]


def merged(base, models, **options):
    return af.merge_many(models, None, None, base=base, method="ties", **options).params


@pytest.mark.parametrize("merge", ["sum", "mean", "max"])
@pytest.mark.parametrize(("density", "threshold", "scale"), FUSIONBENCH)
def test_fusionbench(density, threshold, scale, merge):
    base, models = fusionbench_networks()
    params = merged(base, models, density=density, scale=scale, merge=merge, variant="fusionbench")
    expect_oracle(f"fb_ties_thr{threshold}_lam{scale}_{merge}", params)


@pytest.mark.parametrize(("merge", "normalize"), [("sum", 0), ("mean", 1)])
@pytest.mark.parametrize("density", [0.2, 0.5])
def test_mergekit(density, merge, normalize):
    base, models = fusionbench_networks()
    params = merged(base, models, density=density, merge=merge, weights=(0.3, 0.4, 0.5), variant="mergekit")
    expect_oracle(f"mk_ties_d{density}_norm{normalize}", params)


def reference(base, models, density, scale):
    """Algorithm 1 of the paper, on one vector, by a full sort."""
    deltas = np.stack(models).astype(np.float64) - base
    for delta in deltas:
        delta[np.argsort(-np.abs(delta))[int(density * delta.size) :]] = 0
    sign = np.sign(deltas.sum(0))
    agree = (np.sign(deltas) == sign) & (deltas != 0)
    return base + scale * (deltas * agree).sum(0) / np.maximum(agree.sum(0), 1)


@pytest.mark.parametrize("size", [4000, 600_000])
@pytest.mark.parametrize("density", [0.001, 0.2, 0.5, 1.0])
def test_paper(density, size):
    rng = np.random.default_rng(0)
    base, *models = rng.standard_normal((5, size)).astype(np.float32)
    trees = [
        {"a": jnp.asarray(v[:1000]).reshape(20, 50), "b": jnp.asarray(v[1000:])} for v in (base, *models)
    ]
    params = merged(trees[0], trees[1:], density=density, scale=0.7)
    got = np.concatenate([params["a"].ravel(), params["b"]])
    np.testing.assert_allclose(got, reference(base, models, density, 0.7), atol=1e-6)


def test_a_sum_of_zero():
    """Entry 0 is disputed: the paper leaves it, FusionBench follows the majority, mergekit takes plus."""
    base = {"w": jnp.zeros(4)}
    models = [{"w": jnp.array([2.0, -1.0, -1.0, 1.0])}, {"w": jnp.array([-2.0, -1.0, -1.0, 1.0])}]
    options = {"density": 1.0, "merge": "sum"}
    assert merged(base, models, **options)["w"].tolist() == [0, -2, -2, 2]
    assert merged(base, models, **options, variant="fusionbench")["w"].tolist() == [-2, -2, -2, 2]
    assert merged(base, models, **options, variant="mergekit")["w"].tolist() == [2, -2, -2, 2]


def test_vmap_over_the_scale():
    deltas = jax.random.normal(jax.random.key(0), (3, 4, 5))
    scales = jnp.array([0.3, 1.0])
    many = jax.vmap(lambda scale: elect_and_merge(deltas, jnp.ones(3), scale))(scales)
    for number, scale in enumerate(scales):
        np.testing.assert_allclose(many[number], elect_and_merge(deltas, jnp.ones(3), scale), atol=1e-6)


def test_the_majority_is_that_of_all_leaves():
    """Every entry of `a` is disputed, and most entries of `b` are positive."""
    base = {"a": jnp.zeros(7), "b": jnp.zeros((2, 3))}
    models = [
        {"a": sign * jnp.array([1.0, 2, 3, 4, 5, -6, -7]), "b": sign * jnp.ones((2, 3))} for sign in (1, -1)
    ]
    models = [*models, {"a": jnp.zeros(7), "b": jnp.array([[0.0, 0, 0], [9, 8, 7]])}]
    found = merged(base, models, density=0.9, variant="fusionbench", merge="sum")
    assert found["a"].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert found["b"].tolist() == [[1, 1, 1], [10, 9, 8]]


@pytest.mark.parametrize("variant", ["paper", "fusionbench", "mergekit"])
def test_under_jit(variant):
    base, models = fusionbench_networks()
    method = af.methods.ties(density=0.5, scale=0.3, variant=variant)

    def run(base, models):
        return method.run(MergeTask(tuple(models), base=base), jax.random.key(0)).params

    expected = merged(base, models, density=0.5, scale=0.3, variant=variant)
    chex.assert_trees_all_close(jax.jit(run)(base, models), expected, atol=1e-6)


def test_leaves_that_are_not_floats_are_the_first_network_s():
    base = {"step": jnp.array(7), "w": jnp.zeros(2)}
    models = [{"step": jnp.array(8), "w": jnp.ones(2)}, {"step": jnp.array(9), "w": jnp.ones(2)}]
    for variant in ("paper", "fusionbench", "mergekit"):
        params = merged(base, models, variant=variant)
        assert params["step"] == 8 and params["w"].tolist() == [1, 1]


def test_half_precision_keeps_its_dtype():
    base = {"w": jnp.zeros(4, jnp.bfloat16)}
    models = [{"w": jnp.array([1.0, 2.0, 3.0, 4.0], jnp.bfloat16)}] * 2
    params = merged(base, models, density=0.5)
    assert params["w"].dtype == jnp.bfloat16 and params["w"].tolist() == [0, 0, 3, 4]


def test_base_and_weights_are_asked_for():
    base, models = fusionbench_networks()
    with pytest.raises(ValueError, match="base must be the parameters"):
        af.merge_many(models, None, None, method="ties")
    with pytest.raises(ValueError, match="ties: weights must be 3 numbers"):
        merged(base, models, weights=(1.0, 2.0))


@pytest.mark.parametrize("weights", [(1, -0.5), (1, -0.9), (1, -1), (-1, -1), (3, -1)])
def test_a_mean_is_no_larger_than_what_it_is_of_whatever_the_weights(weights):
    base, models = {"w": jnp.zeros(3)}, [{"w": jnp.array([2.0, 2.0, -1.0])}, {"w": jnp.array([-2.0, 1, 0])}]
    found = merged(base, models, density=1.0, weights=weights)["w"]
    assert np.abs(found).max() <= 2 + 1e-6
    signed = merged(base, models, density=1.0, weights=weights, variant="mergekit")["w"]
    assert abs(signed[0]) == pytest.approx(2 * (abs(weights[0]) + abs(weights[1])) / (abs(sum(weights)) or 1))


@pytest.mark.parametrize("size", [0, 5, 2**16, 3 * 2**16 + 7])
def test_signs_are_counted_in_two_numbers(size):
    values = np.random.default_rng(0).integers(-1, 2, size).astype(np.float32)
    high, low = count_signs(jnp.asarray(values)).tolist()
    assert 256 * high + low == values.sum()


def test_the_majority_of_more_entries_than_32_bits_count():
    for total in (2**35 + 1, -(2**35) - 1, 1, -1, 0, 255, -256):
        parts = np.array([total // 256 - 3, total % 256 + 3 * 256])
        assert majority(parts) == np.sign(total)


def test_equal_changes_are_kept_where_64_bits_are_allowed():
    """The differences of the host are those of the program, in the dtype that is wide for each leaf."""
    with jax.enable_x64(True):
        base = {
            "half": jnp.full(50, 0.1, jnp.float16),
            "w": jnp.full(50, 0.1, jnp.float32),
            "z": jnp.zeros(1),
        }
        params = {
            "half": jnp.full(50, 0.87, jnp.float16),
            "w": jnp.full(50, 0.87, jnp.float32),
            "z": jnp.ones(1),
        }
        assert base["z"].dtype == jnp.float64
        for density, least in ((0.01, 1), (0.4, 51), (1.0, 101)):
            found = merged(base, [params, params], density=density)
            kept = sum(int((found[leaf] != base[leaf]).sum()) for leaf in base)
            assert kept >= least
