"""Iso-C, Iso-CTS, TSV-Merge and WUDI against recorded outputs of FusionBench, on the merged task vector."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.mixtures.smile import low_rank_experts
from autofusion_jax.merging.task_vectors.iso_c import add_isotropic
from autofusion_jax.merging.task_vectors.iso_cts import add_common_and_specific
from autofusion_jax.merging.task_vectors.svd import thin_svd
from autofusion_jax.merging.task_vectors.tsv import add_decorrelated
from autofusion_jax.merging.task_vectors.wudi import add_undisturbed
from tests.merging.fusionbench import expect_oracle, fusionbench_networks

METHODS = ["iso_c", "iso_cts", "tsv", "wudi"]


def merged(base, models, method, **options):
    return af.merge_many(models, None, None, base=base, method=method, **options).params


def transposed(params):
    """From `[out, in]` to `[in, out]`, or back."""
    return {leaf: value.T if value.ndim == 2 else value for leaf, value in params.items()}


@pytest.mark.parametrize(
    ("name", "method", "options"),
    [
        ("fb_iso_c_tv", "iso_c", {}),
        ("fb_iso_cts_0.5_tv", "iso_cts", {"common": 0.5}),
        ("fb_tsv_tv", "tsv", {}),
        ("fb_wudi", "wudi", {"num_steps": 20}),
    ],
)
def test_recorded_task_vectors(name, method, options):
    base, models = fusionbench_networks()
    params = transposed(merged(transposed(base), [transposed(m) for m in models], method, **options))
    expect_oracle(name, {leaf: params[leaf] - base[leaf] for leaf in base})


@pytest.mark.parametrize("method", METHODS)
def test_convs_are_matrices_where_asked_for(method):
    """`[height, width, in, out]` as `[height width in, out]`; else they are averaged."""
    keys = jax.random.split(jax.random.key(0), 3)
    base, *models = ({"w": jax.random.normal(key, (2, 3, 4, 5))} for key in keys)
    flat_base, *flat = ({"w": params["w"].reshape(24, 5)} for params in (base, *models))
    expected = merged(flat_base, flat, method, scale=0.7)["w"].reshape(2, 3, 4, 5)
    np.testing.assert_allclose(merged(base, models, method, scale=0.7, convs=True)["w"], expected, atol=1e-5)
    mean = base["w"] + 0.7 * ((models[0]["w"] + models[1]["w"]) / 2 - base["w"])
    np.testing.assert_allclose(merged(base, models, method, scale=0.7)["w"], mean, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(1, 1), (2, 7), (7, 2), (4, 4)])
def test_any_number_of_networks_and_no_change(method, shape):
    """Also matrices of fewer rows or columns than networks, and ones that no network changed."""
    base = {"w": jnp.ones(shape), "same": jnp.ones(shape)}
    models = [{"w": jax.random.normal(jax.random.key(k), shape), "same": base["same"]} for k in range(5)]
    params = merged(base, models, method)
    assert np.isfinite(params["w"]).all() and (params["w"] != base["w"]).any()
    np.testing.assert_allclose(params["same"], base["same"], atol=1e-6)


@pytest.mark.parametrize("common", [0.0, 0.1, 0.5, 1.0])
def test_iso_cts_is_isotropic_whatever_is_common(common):
    base = {"w": jnp.zeros((5, 9))}
    models = [{"w": jax.random.normal(jax.random.key(k), (5, 9))} for k in range(3)]
    sizes = np.linalg.svd(merged(base, models, "iso_cts", common=common)["w"], compute_uv=False)
    np.testing.assert_allclose(sizes, sizes[0], rtol=1e-4)
    if common == 1:
        expected = merged(base, models, "iso_c")["w"]
        np.testing.assert_allclose(merged(base, models, "iso_cts", common=1.0)["w"], expected, atol=1e-5)


def test_tsv_of_networks_that_do_not_interfere_is_their_sum():
    """Each changed other inputs and other outputs, by matrices of rank 2."""
    key_a, key_b = jax.random.split(jax.random.key(0))
    base = {"w": jnp.zeros((4, 4))}
    models = [
        {"w": base["w"].at[:2, :2].set(jax.random.normal(key_a, (2, 2)))},
        {"w": base["w"].at[2:, 2:].set(jax.random.normal(key_b, (2, 2)))},
    ]
    np.testing.assert_allclose(merged(base, models, "tsv")["w"], models[0]["w"] + models[1]["w"], atol=1e-5)


def test_wudi_finds_the_minimum():
    """Against the least-squares solution in float64."""
    deltas = np.random.default_rng(0).standard_normal((3, 6, 4))
    base = {"w": jnp.zeros((6, 4))}
    models = [{"w": jnp.asarray(delta, jnp.float32)} for delta in deltas]
    norms = (deltas**2).sum((1, 2))[:, None, None]
    system = (deltas @ deltas.transpose(0, 2, 1) / norms).sum(0)
    target = (deltas @ deltas.transpose(0, 2, 1) @ deltas / norms).sum(0)
    found = merged(base, models, "wudi", num_steps=3000, learning_rate=1e-2)["w"]
    np.testing.assert_allclose(found, np.linalg.solve(system, target), atol=1e-3)


def test_wudi_of_large_matrices_takes_every_step():
    """Against Adam in float64: gradients of large matrices are small, but no rounding errors."""
    deltas = 2e-3 * np.random.default_rng(0).standard_normal((2, 256, 256)).astype(np.float32)
    base, models = {"w": jnp.zeros((256, 256))}, [{"w": jnp.asarray(delta)} for delta in deltas]
    got = np.float64(merged(base, models, "wudi", num_steps=50)["w"])
    deltas = deltas.astype(np.float64)
    spans = [delta @ delta.T / (delta**2).sum() for delta in deltas]
    want, (mean, square) = deltas.sum(0), np.zeros((2, 256, 256))
    for step in range(1, 51):
        gradient = 2 * sum(span @ (want - delta) for span, delta in zip(spans, deltas))
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        want = want - 1e-5 * mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    way = np.linalg.norm(want - deltas.sum(0))
    assert np.linalg.norm(got - want) < 1e-3 * way


@pytest.mark.parametrize(
    "fn",
    [
        add_isotropic,
        add_common_and_specific,
        add_decorrelated,
        lambda base, models, scale: add_undisturbed(base, models, scale, 1e-5),
    ],
)
@pytest.mark.slow
def test_vmap_over_the_scale(fn):
    base, models = fusionbench_networks()
    scales = jnp.array([0.3, 1.0])
    many = jax.vmap(lambda scale: fn(base, models, scale))(scales)
    for leaf, value in fn(base, models, scales[1]).items():
        np.testing.assert_allclose(many[leaf][1], value, atol=2e-5)


def test_no_svd_is_of_a_batch():
    """A batch is shared out among the threads that run the program, which may all wait for one another."""
    deltas = jnp.asarray(np.random.default_rng(0).normal(size=(3, 1, 5, 4)), jnp.float32)
    for found, expected in zip(thin_svd(deltas), np.linalg.svd(deltas, full_matrices=False)):
        np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-5)
    base, models = {"w": jnp.zeros((5, 4))}, [{"w": delta[0]} for delta in deltas]
    split = functools.partial(low_rank_experts, rank=1, gate_k=1, gate="weight")
    programs = [jax.make_jaxpr(split)(deltas[0], deltas)]
    programs += [jax.make_jaxpr(fn)(base, models, 1.0) for fn in (add_decorrelated, add_common_and_specific)]
    for program in programs:
        made = re.findall(r"(.*) = svd\[", str(program))
        assert made and all(
            shape.count(",") <= 1 for line in made for shape in re.findall(r"\[(.*?)\]", line)
        )


def test_wudi_of_small_changes_stays_small():
    """A step of Adam is 1e-5 long, and 300 of them are longer than all that was changed."""
    rng = np.random.default_rng(0)
    base = {"w": jnp.zeros((6, 4))}
    models = [{"w": jnp.asarray(1e-9 * rng.standard_normal((6, 4)), jnp.float32)} for _ in range(3)]
    found = np.float64(merged(base, models, "wudi")["w"])
    total = sum(np.float64(params["w"]) for params in models)
    assert np.linalg.norm(found) <= np.linalg.norm(total)
    assert (found * total).sum() > 0.5 * np.linalg.norm(found) * np.linalg.norm(total)
