import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.corrections.reset_norm import reset_norm, stored_statistics
from autofusion_jax.merging.method import MergeTask
from autofusion_jax.merging.zipping.combine import zip_models
from autofusion_jax.merging.zipping.group_families import find_families
from autofusion_jax.merging.zipping.mudsc import ALPHAS, match_dual, score
from autofusion_jax.merging.zipping.similarities import Evidence, block_similarities
from tests.conftest import inputs_for, oracle, params_for
from tests.merging.zipping.zipit_resnet import bn_resnet, gn_resnet, group_of, networks
from tests.symmetry.zoo import CASES
from tests.symmetry.zoo.case import randomise


def bias_free_mlp(params, x):
    for layer in ("fc1", "fc2", "fc3"):
        x = jax.nn.relu(x @ params[f"{layer}.weight"].T)
    return x @ params["fc4.weight"].T


SLOW = ["channel_shuffle", "linear_attention", "nested_twice", "resnext", "scan_over_layers"]
ZOO = ["attention_bare", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
FILES = {"e2e_mudsc_mlp_N2": bias_free_mlp, "e2e_mudsc_resnet_gn_N2": gn_resnet}
files = pytest.mark.parametrize(
    "name", ["e2e_mudsc_mlp_N2", pytest.param("e2e_mudsc_resnet_gn_N2", marks=pytest.mark.slow)]
)
ALPHA = {"act": 0.0, "weight": 1.0, "mudsc": 0.5}
VARIANT = {"zip": "zip", "align": "permute"}


@functools.cache
def load(name):
    stored = oracle(f"{name}.npz")
    models, x = networks(stored), jnp.asarray(stored["X"])
    return stored, af.infer_perm_spec(FILES[name], models[0], x, check=False), models, x


def whole(spec, family, matrices, num_models=2):
    """A group's unmerge matrix, or that of a group nested in another, for all channels at once."""
    (inner,), outer = family.inner, family.outer
    if not outer:
        return matrices[inner]
    perms = np.split(np.asarray(matrices[outer[0]]), num_models, -2)  # [G, G]: original, merged
    units = np.split(np.asarray(matrices[inner]), num_models, -2)  # [G, n, n]
    size = spec.groups[outer[0]].size * spec.groups[inner].size
    return np.concatenate([np.einsum("jh,him->jihm", p, u).reshape(size, size) for p, u in zip(perms, units)])


@pytest.mark.parametrize("matching", VARIANT)
@pytest.mark.parametrize("space", ALPHA)
@files
def test_replays_the_reference(name, space, matching):
    """Same matrices after the same visits, as many sweeps, the recorded weights and outputs.

    The published code adds 1e-5 to the number of units in a cluster.
    """
    stored, spec, models, x = load(name)
    families, perms = find_families(spec), json.loads(str(stored["perm_json"]))
    inner = {k: group_of(spec, leaves[0][1]) for k, leaves in perms.items()}
    number = [next(i for i, f in enumerate(families) if group in f.inner) for group in inner.values()]
    case = f"{space}_{matching}"
    activations = {group: Evidence(jnp.asarray(stored[f"act_sims/perm{k}"])) for k, group in inner.items()}
    visits = np.array([[number[i] for i in sweep] for sweep in stored[f"{case}/visits"]], int)
    found = match_dual(
        spec, models, {} if space == "weight" else activations, visits, alpha=ALPHA[space],
        variant=VARIANT[matching], a=float(stored["a"]), b=float(stored["b"]),
    )  # fmt: skip
    assert len(found.values) == len(visits) and found.converged
    for k, i in zip(inner, number):
        got = whole(spec, families[i], found.matching.unmerge)
        np.testing.assert_array_equal(got, stored[f"{case}/perm{k}/unmerge"])
    params = zip_models(spec, models, found.matching.merge, found.matching.unmerge)
    for path, expected in networks(stored, [f"{case}/merged"])[0].items():
        np.testing.assert_allclose(params[path], expected, rtol=2e-5, atol=1e-6)
    outputs = FILES[name](params, x)
    np.testing.assert_allclose(outputs, stored[f"{case}/merged_out"], rtol=1e-4, atol=1e-4)


@files
def test_measures_the_recorded_similarities(name):
    """But for units that never fire, which are alike here; and where the site is behind pooling."""
    stored, spec, models, x = load(name)
    measured = block_similarities(spec, models, x, kind="correlation", position="read")
    perms = json.loads(str(stored["perm_json"]))
    for k in list(perms)[:-1]:
        got = np.asarray(measured[group_of(spec, perms[k][0][1])].alone())
        np.testing.assert_allclose(got, stored[f"act_sims/perm{k}"], atol=5e-6)


@pytest.mark.slow
def test_heads_share_one_permutation():
    """Aligned parents keep their function, which they do not if queries and values part ways."""
    apply_fn, params, x = CASES["attention_bare"].make()
    x = jax.random.normal(jax.random.key(3), (32, *x.shape[1:]))
    spec = af.infer_perm_spec(apply_fn, params, x, check=False)
    other = randomise(params, 1)
    found = af.merge(params, other, spec, x, method="mudsc", matching="align", max_sweeps=3)
    aligned = af.apply_perm(spec, other, found.perms)
    np.testing.assert_allclose(apply_fn(aligned, x), apply_fn(other, x), atol=1e-5)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, params, aligned)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found.params, mean)


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.slow
def test_a_permuted_copy_keeps_the_function(name):
    apply_fn, params, x = CASES[name].make()
    x = jax.random.normal(jax.random.key(3), (32, *x.shape[1:]))
    spec = af.infer_perm_spec(apply_fn, params, x, check=False)
    copy = af.apply_perm(spec, params, af.random_perms(spec, jax.random.key(1)))
    for matching in ("zip", "align"):
        result = af.merge(params, copy, spec, x, method="mudsc", alpha=0.5, matching=matching)
        np.testing.assert_allclose(apply_fn(result.params, x), apply_fn(params, x), atol=2e-5)
        assert result.diagnostics["converged"] and result.history["similarity"].max() > 1 - 1e-5


@pytest.mark.slow
def test_alpha_is_chosen_on_the_inputs(mlp):
    models, x = [params_for(mlp, seed) for seed in range(2)], inputs_for(mlp)
    result = af.merge_many(models, mlp.perm_spec, x, method="mudsc", alpha="auto", max_sweeps=2)
    scores = result.diagnostics["scores"]
    assert tuple(scores) == ALPHAS and result.num_learned == 1
    chosen = result.diagnostics["alpha"]
    assert scores[chosen] == max(scores.values())
    probs = np.stack([jax.nn.softmax(mlp.apply(params, x)) for params in models])
    teacher = np.take_along_axis(probs, probs.max(-1).argmax(0)[None, :, None], 0)[0]
    merged = np.asarray(jax.nn.log_softmax(mlp.apply(result.params, x)))
    np.testing.assert_allclose(scores[chosen], (teacher * merged).sum(-1).mean(), rtol=1e-5)
    labels = mlp.apply(models[1], x).argmax(-1)
    options = {"alpha": "auto", "max_sweeps": 2}
    labelled = af.merge_many(models, mlp.perm_spec, x, labels=labels, method="mudsc", **options)
    right = float((mlp.apply(labelled.params, x).argmax(-1) == labels).mean())
    assert labelled.diagnostics["scores"][labelled.diagnostics["alpha"]] == pytest.approx(right)


@pytest.mark.slow
def test_stored_statistics_are_no_weights_and_are_measured_again():
    stored = oracle("e2e_zipit_resnet_full_a0.5_b1.npz")
    models, x = networks(stored), jnp.asarray(stored["X"])
    spec = af.infer_perm_spec(bn_resnet, models[0], x, check=False)
    statistics = stored_statistics(spec, models[0], x)
    assert statistics == {path for path in models[0] if path.endswith(("running_mean", "running_var"))}
    assert stored_statistics(spec, models[0], None) == frozenset()
    task = MergeTask(tuple(models), spec, bn_resnet, x)
    reset, _ = reset_norm(spec, models[0], x)
    assert score(task, models[0]) == pytest.approx(score(task, reset), rel=1e-5)


@pytest.mark.slow
def test_weights_alone_need_no_data(mlp):
    models = [params_for(mlp, seed) for seed in range(3)]
    result = af.merge_many(models, mlp.perm_spec, None, method="mudsc", alpha=1.0, matching="align")
    assert result.diagnostics["alpha"] == 1 and result.diagnostics["sweeps"] == len(
        result.history["similarity"]
    )
    for alignment in result.alignments:
        for matrix in alignment.values():
            np.testing.assert_allclose(3 * matrix.sum(-1), 1, atol=1e-6)
    with pytest.raises(ValueError, match="needs inputs"):
        af.merge_many(models, mlp.perm_spec, None, method="mudsc")
