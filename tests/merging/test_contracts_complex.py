"""Contracts of every method on networks with complex weights, and with complex activations of real ones."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.regression.least_squares import ridge_regression, samples_of
from autofusion_jax.symmetry.moments import batch_moments
from tests.merging.test_contracts import ALIGNED, BUILT, LEARNED, METHODS, NEED_BASE, OF_BLOCKS, slow_but
from tests.merging.test_contracts_few_inputs import RESTORES


def gate(value):
    """A nonlinearity of complex units that turns no phase."""
    return value * jax.nn.sigmoid(jnp.abs(value))


def dense(params, x):
    """Complex kernels and biases."""
    hidden = gate(x @ params["up"]["kernel"] + params["up"]["bias"])
    hidden = gate(hidden @ params["across"]["kernel"])
    return (hidden @ params["down"]["kernel"]).real


def recurrence(params, x):
    """A linear recurrence with complex eigenvalues, over the five numbers of an input one by one."""
    layer = params["recurrence"]
    decay = 0.9 * layer["decay"] / (1 + jnp.abs(layer["decay"]))

    def step(state, value):
        state = decay * state + value[:, None] * layer["kernel"]
        return state, None

    last, _ = jax.lax.scan(step, jnp.zeros((len(x), 6), jnp.complex64), x.T)
    return jax.nn.gelu((last @ params["mixer"]["kernel"]).real) @ params["down"]["kernel"].real


def fourier(params, x):
    """Real weights, complex numbers between them: a filter of the units' spectra over places."""
    hidden = x[:, :, None] * params["up"]["kernel"] + params["up"]["bias"]  # [batch, places, units]
    spectrum = gate(jnp.fft.rfft(hidden, axis=1))
    mixed = spectrum @ params["across"]["kernel"]
    return jax.nn.relu(jnp.fft.irfft(mixed, n=5, axis=1)).mean(1) @ params["down"]["kernel"]


def draw(shapes, seed, *, real):
    leaves, tree = jax.tree.flatten(shapes, is_leaf=lambda shape: isinstance(shape, tuple))
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    dtype = jnp.float32 if real else jnp.complex64
    return tree.unflatten([jax.random.normal(key, shape, dtype) for key, shape in zip(keys, leaves)])


SHAPES = {
    dense: {
        "up": {"kernel": (5, 6), "bias": (6,)},
        "across": {"kernel": (6, 7)},
        "down": {"kernel": (7, 3)},
    },
    recurrence: {
        "recurrence": {"decay": (6,), "kernel": (6,)},
        "mixer": {"kernel": (6, 7)},
        "down": {"kernel": (7, 3)},
    },
    fourier: {
        "up": {"kernel": (5, 6), "bias": (6,)},
        "across": {"kernel": (6, 7)},
        "down": {"kernel": (7, 3)},
    },
}
NETWORKS = [dense, *(pytest.param(network, marks=pytest.mark.slow) for network in (recurrence, fourier))]


def networks(apply_fn):
    """Two independent networks, their spec and inputs."""
    models = [draw(SHAPES[apply_fn], seed, real=apply_fn is fourier) for seed in (0, 1)]
    x = jax.random.normal(jax.random.key(9), (24, 5))
    return models, af.infer_perm_spec(apply_fn, models[0], x), x


def options_of(name, models):
    base = {"base": jax.tree.map(lambda leaf: 0.5 * leaf, models[0])} if name in NEED_BASE else {}
    return {**METHODS[name], **base}


@pytest.mark.parametrize("apply_fn", NETWORKS)
@pytest.mark.parametrize("name", slow_but({"weight_matching", "activation_matching", "c2m3"}, RESTORES))
def test_a_permuted_copy_is_restored(name, apply_fn):
    (params, _), spec, x = networks(apply_fn)
    copy = af.apply_perm(spec, params, af.random_perms(spec, jax.random.key(7)))
    options = ALIGNED if name in LEARNED else options_of(name, [params, copy])
    result = af.merge(params, copy, spec, x, method=name, **options)
    merged = result.variants.get("hard", result.params)
    fresh = jax.random.normal(jax.random.key(10), (32, 5))
    np.testing.assert_allclose(apply_fn(merged, fresh), apply_fn(params, fresh), rtol=1e-3, atol=2e-3)
    chex.assert_trees_all_equal_shapes_and_dtypes(merged, params)


@pytest.mark.slow
@pytest.mark.parametrize("apply_fn", SHAPES)
@pytest.mark.parametrize("name", sorted(set(METHODS) - OF_BLOCKS))
@pytest.mark.filterwarnings("ignore:.*zeta=")
def test_every_method_takes_it_or_says_why_not(name, apply_fn):
    models, spec, x = networks(apply_fn)
    said, result = "", None
    try:
        result = af.merge_many(models, spec, x, method=name, **options_of(name, models))
    except ValueError as error:
        said = str(error)
    if result is None:
        assert said.startswith(f"{name}:") or any(repr(leaf.path) in said for leaf in spec.leaves), said
        return
    chex.assert_tree_all_finite(result.params)
    chex.assert_tree_all_finite(result.apply_fn(result.params, x))
    if not BUILT[name].changes_program:
        chex.assert_trees_all_equal_shapes_and_dtypes(result.params, models[0])


@pytest.mark.slow
@pytest.mark.parametrize("apply_fn", [dense, fourier])
def test_repair_of_complex_units(apply_fn):
    models, spec, x = networks(apply_fn)
    result = af.merge(*models, spec, x, method="weight_matching", correction="repair")
    chex.assert_tree_all_finite(result.params)
    chex.assert_trees_all_equal_shapes_and_dtypes(result.params, models[0])
    assert result.diagnostics["correction"]["corrected"] >= 1


def test_least_squares_over_complex_and_over_real_weights():
    """The minima of the textbook: pleas' fit of one layer against numpy's least squares."""
    key = jax.random.key(0)
    read, wanted = (
        jax.random.normal(k, (40, size), jnp.complex64) for k, size in zip(jax.random.split(key), (4, 3))
    )
    moments = batch_moments(samples_of(read[:, None], wanted[:, None]), 1)
    z, y = np.asarray(read, np.complex128), np.asarray(wanted, np.complex128)
    for real, left, right in (
        (False, z, y),
        (True, np.concatenate([z.real, z.imag]), np.concatenate([y.real, y.imag])),
    ):
        fit = ridge_regression(moments, 4, centred=False, ridge=1e-9, real=real)
        np.testing.assert_allclose(fit.kernel[0], np.linalg.lstsq(left, right)[0], atol=1e-4)
        np.testing.assert_allclose(fit.after, np.mean(np.abs(z @ fit.kernel[0] - y) ** 2), rtol=1e-3)
