import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autofusion_jax.transport.assignment import solve_assignment


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_brute_force(seed, n):
    scores = np.random.default_rng(seed).standard_normal((n, n))
    best = max(itertools.permutations(range(n)), key=lambda p: scores[np.arange(n), list(p)].sum())
    got = np.asarray(solve_assignment(jnp.asarray(scores, jnp.float32)))
    np.testing.assert_allclose(
        scores[np.arange(n), got].sum(), scores[np.arange(n), list(best)].sum(), rtol=1e-5
    )


def test_batch_jit_and_vmap_agree():
    scores = jax.random.normal(jax.random.key(0), (2, 3, 7, 7))
    plain = solve_assignment(scores)
    assert plain.shape == (2, 3, 7)
    np.testing.assert_array_equal(jax.jit(solve_assignment)(scores), plain)
    np.testing.assert_array_equal(jax.vmap(solve_assignment)(scores), plain)
    np.testing.assert_array_equal(np.sort(plain, -1), np.broadcast_to(np.arange(7), (2, 3, 7)))


def test_bad_input():
    with pytest.raises(ValueError, match=r"must be real numbers \[..., n, n\]; got float32\[2, 3\]"):
        solve_assignment(jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="similarity must be finite"):
        solve_assignment(jnp.full((2, 2), jnp.nan))
