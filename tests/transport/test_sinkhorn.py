import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from autofusion_jax.transport.sinkhorn import log_sinkhorn, marginal_error, row_entropy
from tests.conftest import oracle


def sinkhorn_float64(scores: np.ndarray, tau: float, num_iters: int) -> np.ndarray:
    """Eq. 13 as written, in float64, without the log domain."""
    p = np.exp((scores - scores.max()) / tau)
    for _ in range(num_iters):
        p = p / p.sum(-1, keepdims=True)
        p = p / p.sum(-2, keepdims=True)
    return p


def scores_of(seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, n))


@pytest.mark.parametrize("tau", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("num_iters", [1, 20])
def test_agrees_with_float64(tau, num_iters):
    scores = scores_of(0, 16)
    got = jnp.exp(log_sinkhorn(jnp.asarray(scores, jnp.float32), tau=tau, num_iters=num_iters))
    np.testing.assert_allclose(got, sinkhorn_float64(scores, tau, num_iters), atol=2e-5)


@pytest.mark.parametrize("case", ["a", "b", "c", "d"])
def test_recorded_reference(case):
    """The reference normalises columns first: ours on the transpose."""
    stored = oracle("sinkhorn_rebasin.npz")
    x, g = jnp.asarray(stored[f"{case}:X"]), jnp.asarray(stored[f"{case}:G"])
    tau, num_iters = float(stored[f"{case}:tau"]), int(stored[f"{case}:n_iter"])

    def weighted(x):
        p = jnp.exp(log_sinkhorn(x.T, tau=tau, num_iters=num_iters)).T
        return jnp.sum(p * g), p

    grad, p = jax.grad(weighted, has_aux=True)(x)
    np.testing.assert_allclose(p, stored[f"{case}:P_unrolled_f64"], atol=1e-5)
    expected = stored[f"{case}:grad_unrolled_f64"]
    np.testing.assert_allclose(grad, expected, atol=2e-5 * np.abs(expected).max() + 1e-6)


def test_implicit_gradient_where_converged():
    x = jnp.asarray(scores_of(1, 12), jnp.float32)
    g = jnp.asarray(scores_of(2, 12), jnp.float32)

    def weighted(x, implicit):
        return jnp.sum(jnp.exp(log_sinkhorn(x, tau=1.0, num_iters=100, implicit=implicit)) * g)

    exact, implicit = jax.grad(weighted)(x, False), jax.grad(weighted)(x, True)
    np.testing.assert_allclose(implicit, exact, atol=1e-5)


def test_gradient_against_finite_differences():
    scores, direction, weight = (scores_of(seed, 6) for seed in (3, 4, 5))
    tau, num_iters, h = 0.5, 7, 1e-6

    def value(s):
        return (sinkhorn_float64(s, tau, num_iters) * weight).sum()

    expected = (value(scores + h * direction) - value(scores - h * direction)) / (2 * h)
    grad = jax.grad(lambda s: jnp.sum(jnp.exp(log_sinkhorn(s, tau=tau, num_iters=num_iters)) * weight))(
        jnp.asarray(scores, jnp.float32)
    )
    np.testing.assert_allclose((np.asarray(grad) * direction).sum(), expected, rtol=1e-3)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from([2, 5, 8]), st.floats(0.5, 3.0))
def test_marginals_are_one_when_converged(seed, n, tau):
    p = jnp.exp(log_sinkhorn(jnp.asarray(scores_of(seed, n), jnp.float32), tau=tau, num_iters=300))
    assert float(marginal_error(p)) < 1e-3


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_small_tau_gives_the_assignment(seed):
    scores = scores_of(seed, 5)
    rows, best = linear_sum_assignment(scores, maximize=True)
    second = max((scores[rows, list(perm)].sum() for perm in _other_perms(5, best)), default=-np.inf)
    if scores[rows, best].sum() - second < 0.05:
        return
    p = jnp.exp(log_sinkhorn(jnp.asarray(scores, jnp.float32), tau=0.005, num_iters=500))
    np.testing.assert_array_equal(np.asarray(p).argmax(-1), best)


def _other_perms(n, best):
    import itertools

    return (perm for perm in itertools.permutations(range(n)) if list(perm) != list(best))


def test_batches_and_transforms_agree():
    x = jnp.asarray(np.stack([scores_of(seed, 5) for seed in range(6)]).reshape(2, 3, 5, 5), jnp.float32)

    def run(m):
        return log_sinkhorn(m, tau=0.7, num_iters=9)

    one_by_one = jnp.stack([jnp.stack([run(m) for m in row]) for row in x])
    np.testing.assert_allclose(run(x), one_by_one, atol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.vmap(run)))(x), one_by_one, atol=1e-6)


def test_extreme_scores_stay_finite():
    x = jnp.asarray(1e4 * scores_of(0, 8), jnp.float32)
    value, grad = jax.value_and_grad(lambda x: jnp.exp(log_sinkhorn(x, tau=0.1, num_iters=20))[0, 0])(x)
    assert bool(jnp.isfinite(value)) and bool(jnp.isfinite(grad).all())


def contested(n):
    """Half of the rows want one column by far: their potentials go on moving apart."""
    scores = 3 * scores_of(4, n)
    scores[: n // 2, 0] += 200
    return scores


def graded(n):
    """Scores that fall by 100 from row to row and from column to column."""
    return scores_of(5, n) - 100 * np.abs(np.arange(n)[:, None] - np.arange(n)[::-1])


@pytest.mark.parametrize("make", [contested, graded, lambda n: 300 * scores_of(6, n)])
@pytest.mark.parametrize("num_iters", [1, 2, 5, 20, 100])
def test_scores_that_leave_the_range_of_floats(make, num_iters):
    """Against logsumexp in float64; a plain exponential of these scores underflows."""
    scores = make(64)
    assert np.exp(np.float32(scores - scores.max(-1, keepdims=True))).min() == 0
    log_p = np.array(scores)
    for _ in range(num_iters):
        log_p = log_p - scipy.special.logsumexp(log_p, axis=-1, keepdims=True)
        log_p = log_p - scipy.special.logsumexp(log_p, axis=-2, keepdims=True)
    got, pull_back = jax.vjp(
        lambda x: log_sinkhorn(x, tau=1.0, num_iters=num_iters), jnp.asarray(scores, jnp.float32)
    )
    np.testing.assert_allclose(jnp.exp(got), np.exp(log_p), atol=1e-3)
    np.testing.assert_allclose(got, log_p, atol=1e-3, rtol=1e-5)
    assert bool(jnp.isfinite(pull_back(jnp.asarray(np.exp(log_p), jnp.float32))[0]).all())


def test_row_entropy_at_its_ends():
    np.testing.assert_allclose(row_entropy(jnp.eye(4)), 0.0, atol=1e-6)
    np.testing.assert_allclose(row_entropy(jnp.full((4, 4), 0.25)), np.log(4), rtol=1e-6)


@pytest.mark.parametrize("n", [8, 32])
@pytest.mark.parametrize("tau", [0.05, 0.2, 1.0])
def test_entropic_error_bound(n, tau):
    """The standard bound `<P* - S_tau, X> <= tau n log n`; the paper's Eq. 14 does not hold."""
    scores = scores_of(n, n)
    rows, best = linear_sum_assignment(scores, maximize=True)
    soft = sinkhorn_float64(scores, tau, 5000)
    error = scores[rows, best].sum() - (soft * scores).sum()
    assert -1e-6 <= error <= tau * n * np.log(n)


def test_paper_bound_fails_for_large_tau():
    """Eq. 14/24, `||X||_inf^2 / (2 tau)`, falls as tau grows, while the error rises to its limit."""
    scores = scores_of(0, 16)
    rows, best = linear_sum_assignment(scores, maximize=True)
    errors = [
        scores[rows, best].sum() - (sinkhorn_float64(scores, tau, 2000) * scores).sum() for tau in (1, 10)
    ]
    paper = [np.abs(scores).max() ** 2 / (2 * tau) for tau in (1, 10)]
    assert errors[0] < errors[1]
    assert errors[1] > paper[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": 0.0, "num_iters": 5}, "tau must be a number > 0 or a traced number; got 0.0"),
        ({"tau": 1.0, "num_iters": 0}, "num_iters must be an integer >= 1; got 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        log_sinkhorn(jnp.zeros((3, 3)), **options)
