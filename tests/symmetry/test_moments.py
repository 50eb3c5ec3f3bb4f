import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autofusion_jax.symmetry.moments import Moments, batch_moments, combine, stream_moments

batch_moments, combine = jax.jit(batch_moments, static_argnums=1), jax.jit(combine)  # a program, not ten

SHAPES = {  # values [models, *samples, *outer, n], number of outer axes
    "one model": ((1, 40, 6), 0),
    "two models": ((2, 40, 6), 0),
    "three models, pixels": ((3, 10, 2, 4, 5), 0),
    "heads": ((2, 30, 3, 4), 1),
    "tokens, two outer axes": ((3, 8, 5, 2, 3, 4), 2),
    "one sample": ((2, 1, 3), 0),
}


@pytest.fixture(params=SHAPES)
def case(request) -> tuple[np.ndarray, int]:
    shape, num_outer = SHAPES[request.param]
    return draw(shape), num_outer


def draw(shape: tuple[int, ...], *, mean: float = 0.0, seed: int = 0) -> np.ndarray:
    """Correlated units of spread about 1, with different means."""
    rng = np.random.default_rng(seed)
    n = shape[-1]
    mixed = rng.standard_normal(shape) @ (np.eye(n) + 0.4 * rng.standard_normal((n, n)))
    return (mixed + mean * rng.uniform(0.5, 2, n)).astype(np.float32)


def float64_moments(values: np.ndarray, num_outer: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance, one index of the outer axes at a time, in float64."""
    outer = values.shape[values.ndim - 1 - num_outer : -1]
    flat = np.asarray(values, np.float64).reshape(len(values), -1, *outer, values.shape[-1])
    rows = len(values) * values.shape[-1]
    cov = np.empty((*outer, rows, rows))
    for index in np.ndindex(*outer):
        at_index = flat[(slice(None), slice(None), *index)]  # [models, samples, n]
        samples = np.concatenate(list(at_index), axis=-1)
        cov[index] = np.cov(samples, rowvar=False, bias=True)
    return flat.mean(1), cov


def assert_moments(got: Moments, values: np.ndarray, num_outer: int, rtol: float = 1e-5) -> None:
    """The mean to `rtol` of itself or of the spread, the covariance to `rtol` of both spreads."""
    mean, cov = float64_moments(values, num_outer)
    std = np.sqrt(np.diagonal(cov, axis1=-2, axis2=-1))
    np.testing.assert_allclose(got.count, values.size / mean.size, rtol=1e-6)
    np.testing.assert_allclose(got.mean, mean, rtol=rtol, atol=rtol * std.max())
    chex.assert_shape(got.cov, cov.shape)
    assert (np.abs(got.cov - cov) <= rtol * std[..., :, None] * std[..., None, :]).all()


def capture_one(batch):
    return {"site": (jnp.moveaxis(batch, 0, 1), 0)}  # [samples, models, n] to [models, samples, n]


def streamed(values: np.ndarray, sizes: list[int]) -> Moments:
    """`values` `[models, samples, n]` in batches of the given sizes."""
    batches = np.split(np.moveaxis(values, 1, 0), np.cumsum(sizes)[:-1])
    return stream_moments(capture_one, batches)["site"]


def test_batch_agrees_with_float64(case):
    values, num_outer = case
    assert_moments(batch_moments(jnp.asarray(values), num_outer), values, num_outer)


@pytest.mark.parametrize("mean", [0.0, 1e3, 1e4])
@pytest.mark.parametrize("num_batches", [1, 100])
def test_stream_agrees_with_float64_whatever_the_mean(mean, num_batches):
    values = draw((2, 6400, 5), mean=mean)
    got = streamed(values, [6400 // num_batches] * num_batches)
    assert_moments(got, values, 0)
    np.testing.assert_allclose(got.cov, float64_moments(values, 0)[1], rtol=1e-5, atol=1e-6)


def test_combine_agrees_with_float64_at_large_means():
    values = draw((2, 6400, 5), mean=1e3)
    total = batch_moments(jnp.asarray(values[:, :64]), 0)
    for start in range(64, 6400, 64):
        total = combine(total, batch_moments(jnp.asarray(values[:, start : start + 64]), 0))
    assert_moments(total, values, 0)


def test_one_far_batch():
    """Batches about different means: what the pivot of the first does not help."""
    values = draw((2, 300, 4))
    values[:, 100:200] += 1e3
    assert_moments(streamed(values, [100, 100, 100]), values, 0)


@pytest.mark.parametrize("sizes", [[60], [20, 20, 20], [25, 25, 10], [59, 1], [1] * 60])
def test_batch_sizes_do_not_matter(sizes):
    values = draw((3, 60, 4), mean=10.0)
    assert_moments(streamed(values, sizes), values, 0)


def test_stream_of_several_sites_is_traced_once_per_shape():
    weight = jnp.asarray(draw((2, 4, 6), seed=1))
    data = draw((50, 7, 4), seed=2)  # [samples, tokens, n]

    @chex.assert_max_traces(2)
    def capture(weight, batch):
        hidden = jnp.einsum("bti,mij->mbtj", batch["x"], weight)
        return {"hidden": (hidden, 0), "heads": (hidden.reshape(*hidden.shape[:-1], 2, 3), 1)}

    batches = ({"x": data[start : start + 12]} for start in range(0, 50, 12))
    got = stream_moments(jax.tree_util.Partial(capture, weight), batches)
    hidden = np.einsum("bti,mij->mbtj", data, weight)
    assert set(got) == {"hidden", "heads"}
    assert_moments(got["hidden"], hidden, 0, rtol=2e-5)
    assert_moments(got["heads"], hidden.reshape(2, 50, 7, 2, 3), 1, rtol=2e-5)


def test_one_array_under_two_names():
    values = jnp.asarray(draw((10, 3)))
    got = stream_moments(lambda x: {"a": (x[None], 0), "b": (x[None], 0)}, [values, values, values])
    chex.assert_trees_all_equal(got["a"], got["b"])


def test_vmap_and_jit_agree_with_a_loop():
    values = jnp.asarray(draw((4, 2, 20, 3, 5)))
    one_by_one = [batch_moments(v, 1) for v in values]
    mapped = jax.jit(jax.vmap(lambda v: batch_moments(v, 1)))(values)
    chex.assert_trees_all_close(
        mapped, jax.tree.map(lambda *m: jnp.stack(m), *one_by_one), rtol=1e-5, atol=1e-6
    )
    pairs = jax.jit(jax.vmap(combine))(mapped, jax.tree.map(lambda m: m[::-1], mapped))
    expected = [combine(a, b) for a, b in zip(one_by_one, one_by_one[::-1])]
    chex.assert_trees_all_close(pairs, jax.tree.map(lambda *m: jnp.stack(m), *expected), rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.tuples(*[st.sampled_from([1, 2, 30])] * 3), st.floats(-100, 100))
@pytest.mark.slow
def test_combine_is_associative_and_commutative(seed, sizes, mean):
    a, b, c = (
        batch_moments(jnp.asarray(draw((2, size, 3), mean=mean, seed=seed + number)), 0)
        for number, size in enumerate(sizes)
    )
    left = combine(combine(a, b), c)
    for other in (combine(a, combine(b, c)), combine(combine(c, b), a)):
        chex.assert_trees_all_close(left, other, rtol=1e-5, atol=1e-5 * (1 + float(left.std().max()) ** 2))


def test_count_zero_is_neutral():
    moments = batch_moments(jnp.asarray(draw((2, 9, 3), mean=5.0)), 0)
    zero = jax.tree.map(jnp.zeros_like, moments)
    chex.assert_trees_all_equal(combine(moments, zero), moments)
    chex.assert_trees_all_equal(combine(zero, moments), moments)
    chex.assert_trees_all_equal(combine(zero, zero), zero)


def test_methods_by_hand():
    values = jnp.array([[[1.0, 0.0], [3.0, 4.0]], [[5.0, 1.0], [5.0, -1.0]]])
    moments = batch_moments(values, 0)
    np.testing.assert_array_equal(moments.mean, [[2, 2], [5, 0]])
    np.testing.assert_array_equal(moments.std(), [[1, 2], [0, 1]])
    np.testing.assert_array_equal(moments.cross(0, 0), [[1, 2], [2, 4]])
    np.testing.assert_array_equal(moments.cross(0, 1), [[0, -1], [0, -2]])
    np.testing.assert_array_equal(moments.cross(1, 0), moments.cross(0, 1).T)
    correlation = [[1, 1, 0, -1], [1, 1, 0, -1], [0, 0, 0, 0], [-1, -1, 0, 1]]
    np.testing.assert_allclose(moments.correlation(), correlation, atol=1e-6)
    np.testing.assert_array_equal(moments.second_moment()[0], [5, 6, 10, -1])


def test_methods_agree_with_numpy(case):
    values, num_outer = case
    moments = batch_moments(jnp.asarray(values), num_outer)
    outer = values.shape[values.ndim - 1 - num_outer : -1]
    samples = values.reshape(len(values), -1, *outer, values.shape[-1]).astype(np.float64)
    uncentred = np.einsum("as...i,bs...j->...aibj", samples, samples) / samples.shape[1]
    np.testing.assert_allclose(moments.second_moment().ravel(), uncentred.ravel(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(moments.std(), samples.std(1), rtol=1e-5)
    n = values.shape[-1]
    np.testing.assert_array_equal(moments.cross(0, -1 + len(values)), moments.cov[..., :n, -n:])
    if samples.shape[1] > 1:
        diagonal = np.diagonal(moments.correlation(), axis1=-2, axis2=-1)
        np.testing.assert_allclose(diagonal, 1, rtol=1e-6)


@pytest.mark.parametrize("sizes", [[50], [20, 20, 10]])
def test_units_that_never_vary(sizes):
    """0.1 is no float, so that a rounded mean would leave a spurious spread."""
    values = draw((2, 50, 4))
    values[0, :, 1], values[1, :, 2] = 0.1, -1234.567
    moments = streamed(values, sizes)
    dead = np.array([1, 4 + 2])
    assert (np.asarray(moments.cov)[dead] == 0).all()
    correlation = np.asarray(moments.correlation())
    assert (correlation[dead] == 0).all() and (correlation[:, dead] == 0).all()
    alive = np.setdiff1d(np.arange(8), dead)
    units = np.concatenate(list(values), axis=-1)[:, alive]
    np.testing.assert_allclose(correlation[np.ix_(alive, alive)], np.corrcoef(units.T), atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_taken_to_float32(dtype):
    values = jnp.asarray(draw((2, 500, 3), mean=20.0)).astype(dtype)
    moments = batch_moments(values, 0)
    chex.assert_type(list(moments), jnp.float32)
    assert_moments(moments, np.asarray(values, np.float32), 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_bad_values_are_refused(bad):
    values = draw((2, 30, 3))
    values[1, 25, 2] = bad
    message = "stream_moments: values of 'site' must be finite; got 1 of 6 units with NaN, infinite"
    with pytest.raises(ValueError, match=message):
        streamed(values, [10, 10, 10])


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "stream_moments: batches must be at least one batch with one captured value; got none"),
        ([{"a": (4, 2)}, {"b": (4, 2)}], r"capture\(batch\) must be of names \['a'\]; got \['b'\]"),
        ([{"a": (4, 2)}, {"a": (4, 1)}], r"units of 'a' must be of shape \(1, 2\); got \(1, 1\)"),
        ([{"a": (0, 2)}], r"values must be \[models, \*samples, \*outer, n\] .*; got shape \(1, 0, 2\)"),
    ],
)
def test_bad_streams(batches, message):
    arrays = [{name: jnp.ones(shape) for name, shape in batch.items()} for batch in batches]
    with pytest.raises(ValueError, match=message):
        stream_moments(lambda batch: {name: (v[None], 0) for name, v in batch.items()}, arrays)


@pytest.mark.parametrize(
    ("shape", "num_outer", "message"),
    [
        ((2, 3), 0, "values must be"),
        ((2, 5, 3), 1, "with 1 outer axes; got shape"),
        ((2, 5, 3), -1, "num_outer must be >= 0; got -1"),
    ],
)
def test_bad_shapes(shape, num_outer, message):
    with pytest.raises(ValueError, match=message):
        batch_moments(jnp.ones(shape), num_outer)


def test_combine_refuses_other_units():
    first, second = (batch_moments(jnp.ones(shape), 0) for shape in [(2, 5, 3), (3, 5, 2)])
    with pytest.raises(ValueError, match=r"combine: second.mean must be of shape \(2, 3\) as in first"):
        combine(first, second)
