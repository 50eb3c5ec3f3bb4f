"""The log-domain Sinkhorn operator (AutoFusion, Eq. 12-13; Mena et al., ICLR 2018)."""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp
from jaxtyping import Float

from autofusion_jax.arguments import Count, Positive, checked
from autofusion_jax.validation import require

CG_ITERATIONS = 50
ROUNDS = 4
"""Rounds of Sinkhorn between two kernels."""


@checked
def log_sinkhorn(
    log_alpha: Float[Array, "..."],
    *,
    tau: Positive | Float[Array, ""],
    num_iters: Count,
    implicit: bool = False,
) -> Float[Array, "..."]:
    r"""Normalise rows, then columns, `num_iters` times, in the log domain.

    Computes `log S^(t)` with `S^(0) = exp(X / tau)`, `S^(t+1) = T_c(T_r(S^(t)))` (Eq. 13), which
    converges to `S_tau(X) = argmax_P <P, X> + tau h(P)` over doubly stochastic P (Eq. 12). What is
    iterated are the potentials `f, g [n]` of `log S = X / tau + f + g`, and the backward pass is
    rematerialised, so memory is that of a few matrices whatever `num_iters` is.

    Columns sum to one exactly; rows only as far as the iterations have converged: see
    `marginal_error`.

    Args:
        log_alpha: scores X `[..., n, n]`.
        tau: temperature, > 0.
        num_iters: number t of iterations, >= 1.
        implicit: differentiate the fixed point instead of the iterations. Correct only where
            they have converged; the default is exact for the iterations at every temperature.

    Returns:
        The logarithm of a column-stochastic, nearly doubly stochastic matrix, `[..., n, n]`.

    Raises:
        ValueError: tau is not > 0, num_iters is not >= 1, or `log_alpha` is not square.

    References:
        Mena, Belanger, Linderman, Snoek: Learning latent permutations with Gumbel-Sinkhorn
        networks, ICLR 2018. Eisenberger et al.: A unified framework for implicit Sinkhorn
        differentiation, CVPR 2022 (the implicit option).

    Example:
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> print(jnp.exp(log_sinkhorn(x, tau=0.1, num_iters=20)).round(3))
        [[1. 0.]
         [0. 1.]]
    """
    require(
        log_alpha.ndim >= 2 and log_alpha.shape[-1] == log_alpha.shape[-2],
        *("log_sinkhorn", "log_alpha", "of shape [..., n, n]", log_alpha.shape),
    )
    # entries of size 1 are 100 at tau = 0.01, and exp overflows in float32 above 88: hence the log domain
    scores = log_alpha / tau
    return _implicit(scores, num_iters) if implicit else _iterate(scores, num_iters)


def _iterate(scores: Float[Array, "*batch n n"], num_iters: int) -> Float[Array, "*batch n n"]:
    """One round in the log domain, the others as products of a kernel with vectors.

    After a round in the log domain the kernel `exp(X + f + g)` has entries in [0, 1], columns that sum to
    one, and rows that sum to 1/n^2 at least. A further round multiplies no potential by more than n^2,
    so within ROUNDS rounds nothing overflows, and what underflows stays negligible; then the factors
    go into the potentials and the kernel is made anew.
    """
    # round 1 of `num_iters`, in the log domain: it brings scores of any size down to a kernel in [0, 1]
    f = -logsumexp(scores, axis=-1)
    g = -logsumexp(scores + f[..., :, None], axis=-2)
    f, g = _further_rounds(scores, (f, g), num_iters - 1)
    return scores + f[..., :, None] + g[..., None, :]


# a program of its own where it is called outside of any, as a loop there is compiled anew every time
@functools.partial(jax.jit, static_argnums=2, inline=True)
def _further_rounds(scores: Array, potentials: tuple[Array, Array], length: int) -> tuple[Array, Array]:
    """Normalise rows, then columns, `length` times, with a new kernel every ROUNDS rounds."""
    # rounds between two kernels: n^8 at most, 2^96 for n = 4096, against 2^128 in float32
    whole, rest = divmod(length, ROUNDS)
    # the backward pass keeps the potentials [n] of each step and makes the kernels [n, n] again: memory is
    # O(n^2), not O(num_iters n^2). What is differentiated is still every iteration
    step = jax.checkpoint(functools.partial(_rounds, scores), static_argnums=1)
    potentials, _ = jax.lax.scan(lambda pair, _: (step(pair, ROUNDS), None), potentials, length=whole)
    return step(potentials, rest) if rest else potentials


def _rounds(scores: Array, potentials: tuple[Array, Array], length: int) -> tuple[Array, Array]:
    """Normalise rows, then columns, `length` times, from potentials that normalise the columns."""
    f, g = potentials
    # one exp of n^2 entries for ROUNDS rounds of products, which cost a fraction of a logsumexp
    kernel = jnp.exp(scores + f[..., :, None] + g[..., None, :])
    # in TF32 or bfloat16 sums would be off by 1e-3, and the marginals could not converge further
    product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)

    def one(factors: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        u = 1 / product("...ij,...j->...i", kernel, factors[1])
        return (u, 1 / product("...ij,...i->...j", kernel, u)), None

    # u = v = 1 is the kernel itself; rows first, so that columns sum to one when it ends
    start = jnp.ones_like(g)
    (u, v), _ = jax.lax.scan(one, (start, start), length=length)
    # the factors go into the potentials before they can overflow
    return f + jnp.log(u), g + jnp.log(v)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _implicit(scores: Array, num_iters: int) -> Array:
    return _iterate(scores, num_iters)


def _implicit_forward(scores: Array, num_iters: int) -> tuple[Array, Array]:
    log_p = _iterate(scores, num_iters)
    return log_p, log_p


def _implicit_backward(num_iters: int, log_p: Array, cotangent: Array) -> tuple[Array]:
    """Solve `[diag(P 1), P; P^T, diag(P^T 1)] (u, v) = (row, column sums of the cotangent)`.

    With `log P = X + f + g` and both marginals held, the gradient is `G - P * (u + v)`.
    """
    p = jnp.exp(log_p)
    rows, columns = p.sum(-1), p.sum(-2)

    def operator(uv: tuple[Array, Array]) -> tuple[Array, Array]:
        u, v = uv
        return (
            rows * u + jnp.einsum("...ij,...j->...i", p, v),
            columns * v + jnp.einsum("...ij,...i->...j", p, u),
        )

    # the system is singular along (1, -1), as f + c, g - c is the same matrix; the target is orthogonal to
    # that, so conjugate gradients from zero never leave the complement
    target = (cotangent.sum(-1), cotangent.sum(-2))
    (u, v), _ = jax.scipy.sparse.linalg.cg(operator, target, maxiter=CG_ITERATIONS)
    return (cotangent - p * (u[..., :, None] + v[..., None, :]),)


_implicit.defvjp(_implicit_forward, _implicit_backward)


def marginal_error(soft_perm: Float[Array, "*batch n n"]) -> Float[Array, "*batch"]:
    """The largest distance of a row or column sum from one."""
    rows = jnp.abs(soft_perm.sum(-1) - 1).max(-1)
    return jnp.maximum(rows, jnp.abs(soft_perm.sum(-2) - 1).max(-1))


def row_entropy(soft_perm: Float[Array, "*batch n n"]) -> Float[Array, "*batch"]:
    """The mean entropy of the rows, each normalised, in nats: 0 for a permutation, log n if uniform."""
    # a row that has underflowed to zero counts as entropy 0, not as NaN
    rows = soft_perm / jnp.maximum(soft_perm.sum(-1, keepdims=True), jnp.finfo(soft_perm.dtype).tiny)
    return -jax.scipy.special.xlogy(rows, rows).sum(-1).mean(-1)
