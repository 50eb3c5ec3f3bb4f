import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

import autofusion_jax as af
from autofusion_jax.merging.matching.incremental import Similarity, Term, inner_product, take_apart
from autofusion_jax.merging.matching.weight_matching import Descent, match_weights
from autofusion_jax.merging.unit_features import unit_vectors
from tests.conftest import inputs_for, oracle, oracle_network, params_for, spec_from_oracle
from tests.symmetry.test_transform import CASES as TRANSFORM_CASES
from tests.symmetry.zoo import CASES
from tests.symmetry.zoo.case import randomise

FILES = [
    "mlp_20_32_32_10_indep",
    "mlp_20_32_32_10_planted",
    "conv_3_8_16_16_indep",
    "resnet20_w8_indep",
]


def load_case(name):
    stored = oracle(f"{name}.npz")
    a, b = oracle_network(stored, "a"), oracle_network(stored, "b")
    spec = spec_from_oracle(json.loads(str(stored["spec_json"])), a)
    order = [
        [list(spec.groups).index(str(stored["perm_names"][i])) for i in sweep]
        for sweep in stored["visit_order"]
    ]
    return stored, spec, a, b, np.array(order)


def weight_similarity(spec, a, b, group):
    """Inner products of two networks' units, over all leaf axes that carry the group."""
    pairs = zip(unit_vectors(spec, a, group), unit_vectors(spec, b, group))
    return sum(jnp.einsum("...ik,...jk->...ij", *pair) for pair in pairs)


@pytest.mark.parametrize("name", FILES)
def test_replays_the_reference(name):
    stored, spec, a, b, order = load_case(name)
    match = match_weights(spec, a, b, order)
    for group in spec.groups:
        np.testing.assert_array_equal(match.perms[group], stored[f"perm:{group}"])
    assert match.sweeps <= int(stored["iterations"])
    permuted = af.apply_perm(spec, b, match.perms)
    for path, leaf in permuted.items():
        np.testing.assert_array_equal(leaf, stored[f"pb:{path}"])
    objective = sum(float(np.sum(np.float64(a[p]) * np.float64(permuted[p]))) for p in a)
    np.testing.assert_allclose(objective, stored["objective_final"], rtol=1e-6)


def test_passing_over_groups_changes_nothing():
    """Against the plain loop: every similarity anew from the permuted network, every group assigned."""
    _, spec, a, b, order = load_case("conv_3_8_16_16_indep")
    match = match_weights(spec, a, b, order)
    perms, names, visits = af.identity_perms(spec), list(spec.groups), 0
    for sweep in order[: match.sweeps]:
        for name in (names[number] for number in sweep):
            similarity = weight_similarity(spec, a, af.apply_perm(spec, b, perms), name)
            step = linear_sum_assignment(np.asarray(similarity), maximize=True)[1]
            perms[name], visits = perms[name][step], visits + 1
    for name in names:
        np.testing.assert_array_equal(match.perms[name], perms[name])
    assert match.assignments < visits


def test_planted_permutations_are_found_from_any_order():
    stored, spec, a, b, _ = load_case("mlp_20_32_32_10_planted")
    for seed in range(3):
        result = af.merge(a, b, spec, None, method="weight_matching", key=jax.random.key(seed))
        for group in spec.groups:
            np.testing.assert_array_equal(result.perms[group], stored[f"true:{group}"])
        assert result.diagnostics["converged"]


def similarity_of(spec, a, b, group):
    pieces = take_apart(spec, a, b)
    places = [(piece, k) for piece in pieces for k, place in enumerate(piece.places) if place.group == group]
    return Similarity([Term(piece, [k]) for piece, k in places])


@pytest.mark.parametrize(("case", "group"), [("vgg", "conv_1"), ("attention", "units"), ("concat", "b")])
def test_similarities_are_kept_up_to_date(case, group):
    spec, a, _ = TRANSFORM_CASES[case]
    b = jax.tree.map(lambda leaf: jnp.roll(leaf, 1).reshape(leaf.shape), a)
    similarity = similarity_of(spec, a, b, group)
    perms = af.identity_perms(spec)
    for seed in range(3):
        elements = {name: np.asarray(perm) for name, perm in perms.items()}
        assert similarity.refresh(elements) == (seed == 0 or case != "concat")  # there b has no neighbours
        assert not similarity.refresh({**elements, group: elements[group][..., ::-1]})
        others = {**perms, group: af.identity_perms(spec)[group]}
        expected = weight_similarity(spec, a, af.apply_perm(spec, b, others), group)
        np.testing.assert_allclose(similarity.value, expected, rtol=1e-4, atol=1e-4)
        new = af.random_perms(spec, jax.random.key(seed))
        perms = {**perms, **dict([*new.items()][: 1 + seed])}  # at first only one of the neighbours moves


def test_similarity_by_hand(vgg):
    a, b, spec = params_for(vgg, 0), params_for(vgg, 1), vgg.perm_spec
    perms = {**af.random_perms(spec, jax.random.key(0)), "conv_1": af.identity_perms(spec)["conv_1"]}
    similarity = similarity_of(spec, a, b, "conv_1")
    similarity.refresh({name: np.asarray(perm) for name, perm in perms.items()})
    pa, pb = a["params"], af.apply_perm(spec, b, perms)["params"]
    expected = np.einsum("hwia,hwib->ab", pa["conv_1"]["kernel"], pb["conv_1"]["kernel"])
    expected += np.outer(pa["conv_1"]["bias"], pb["conv_1"]["bias"])
    heads = [p["head"]["kernel"].reshape(-1, 6, 3) for p in (pa, pb)]
    expected += np.einsum("pac,pbc->ab", *heads)
    np.testing.assert_allclose(similarity.value, expected, rtol=1e-4, atol=1e-4)


def zoo(name):
    apply_fn, params, x = CASES[name].make()
    return af.infer_perm_spec(apply_fn, params, x, check=False), params


ZOO = [
    "attention_bare",  # heads: matched together with what is nested in them
    "vanilla_rnn",  # one leaf carries the group twice
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            "llama",
            "scan_over_layers",
            "moe_dense",
            "lstm_fused",
        )
    ),
]


@pytest.mark.parametrize("name", ZOO)
def test_planted_permutations_of_structured_groups(name):
    spec, params = zoo(name)
    planted = af.random_perms(spec, jax.random.key(0))
    result = af.merge(params, af.apply_perm(spec, params, planted), spec, None, method="weight_matching")
    for group, perm in af.invert(spec, planted).items():
        np.testing.assert_array_equal(result.perms[group], perm)


@pytest.mark.parametrize("name", ["attention_bare", "vanilla_rnn", "nested_twice"])
def test_no_step_lowers_the_objective(name):
    spec, params = zoo(name)
    pieces = take_apart(spec, params, randomise(params, seed=1))
    descent = Descent(spec, pieces, af.random_perms(spec, jax.random.key(2)))
    before, gains = inner_product(pieces, descent.perms), 0
    for group in 3 * list(spec.groups):
        gained, now = descent.visit(group), inner_product(pieces, descent.perms)
        assert now > before if gained else now == before
        before, gains = now, gains + gained
    assert gains
    permuted = af.apply_perm(
        spec, randomise(params, seed=1), {k: jnp.asarray(v) for k, v in descent.perms.items()}
    )
    direct = sum(
        float(np.vdot(first, second))
        for first, second, leaf in zip(
            *(jax.tree.leaves(tree) for tree in (params, permuted)), jax.tree.leaves(carrying(spec, params))
        )
        if leaf
    )
    np.testing.assert_allclose(before, direct, rtol=1e-4)


def carrying(spec, params):
    """Which leaves carry groups, in the structure of `params`."""
    roles = {leaf.path: any(axis.role for axis in leaf.axes) for leaf in spec.leaves}
    return jax.tree_util.tree_map_with_path(
        lambda path, _: roles[jax.tree_util.keystr(path, simple=True, separator="/")], params
    )


def test_max_sweeps_is_reported_and_a_start_may_need_inputs(mlp):
    a, b = params_for(mlp, 0), params_for(mlp, 1)
    result = af.merge(a, b, mlp.perm_spec, inputs_for(mlp), method="weight_matching", max_sweeps=1)
    assert result.diagnostics["sweeps"] == 1 and not result.diagnostics["converged"]
    assert result.diagnostics["assignments"] == len(mlp.perm_spec.groups)
    with pytest.raises(ValueError, match="needs inputs"):
        af.merge(a, b, mlp.perm_spec, None, method="weight_matching", start="activation")
