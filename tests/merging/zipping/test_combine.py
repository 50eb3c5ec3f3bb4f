import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.zipping.combine import split_by_model, zip_models
from autofusion_jax.symmetry.transform import soften
from tests.conftest import oracle
from tests.merging.zipping.zipit_resnet import GROUP_OF_NODE, bn_resnet, group_of, networks
from tests.symmetry.zoo import CASES

NESTED = [
    "attention_bare",  # heads with query-key and value units
    pytest.param("channel_shuffle", marks=pytest.mark.slow),  # a group nested in two
    pytest.param("nested_twice", marks=pytest.mark.slow),  # groups in groups
    pytest.param("scan_over_layers", marks=pytest.mark.slow),  # groups nested in a stack
    pytest.param("t5_encoder", marks=pytest.mark.slow),  # a leaf that produces heads without units
]


def planted(spec, params, key):
    """A permuted copy, and the matrices that zip the two back together."""
    perms = af.random_perms(spec, key)
    copy = af.apply_perm(spec, params, af.invert(spec, perms))
    outer = {name for group in spec.groups.values() for name in group.nested_in}
    blocks = soften(spec, af.identity_perms(spec)), soften(spec, perms)
    merge = {g: jnp.concatenate([b[g] for b in blocks], -1) / (1 if g in outer else 2) for g in spec.groups}
    unmerge = {g: jnp.concatenate([jnp.swapaxes(b[g], -1, -2) for b in blocks], -2) for g in spec.groups}
    return copy, merge, unmerge


@pytest.mark.parametrize("name", NESTED)
def test_a_permuted_copy_zips_back(name):
    apply_fn, params, x = CASES[name].make()
    spec = af.infer_perm_spec(apply_fn, params, x, check=False)
    copy, merge, unmerge = planted(spec, params, jax.random.key(1))
    zipped = zip_models(spec, [params, copy], merge, unmerge)
    for got, expected in zip(jax.tree.leaves(zipped), jax.tree.leaves(params)):
        np.testing.assert_allclose(got, expected, atol=2e-6)
    np.testing.assert_allclose(apply_fn(zipped, x), apply_fn(params, x), atol=1e-5)


@pytest.mark.parametrize("name", ["e2e_zipit_resnet_full_a0.5_b1", "e2e_zipit_resnet_permute"])
def test_recorded_matrices_give_the_recorded_network(name):
    """To the 1e-5 that the published code adds to the number of units in a cluster."""
    stored = oracle(f"{name}.npz")
    models = networks(stored)
    spec = af.infer_perm_spec(bn_resnet, models[0], jnp.asarray(stored["X_eval"]), check=False)
    groups = {node: group_of(spec, f"{leaf}.weight") for node, leaf in GROUP_OF_NODE.items()}
    merge = {g: jnp.asarray(stored[f"node{n}/merge"]) / 2 for n, g in groups.items()}
    unmerge = {g: jnp.asarray(stored[f"node{n}/unmerge"]) for n, g in groups.items()}
    zipped = zip_models(spec, models, merge, unmerge)
    for path, expected in networks(stored, ["merged"])[0].items():
        np.testing.assert_allclose(zipped[path], expected, rtol=2e-5, atol=1e-6)
        assert zipped[path].dtype == models[0][path].dtype


def test_places_without_a_part_are_zero():
    """A unit of A alone in one group and one of B alone in another have no weight between them."""
    models = [{"w": jnp.full((2, 2), k), "count": jnp.array(int(k))} for k in (1.0, 3.0)]
    spec = af.PermSpec.from_table({"w": (af.out_axis("i"), af.out_axis("j")), "count": ()}, models[0])
    merge = {"i": jnp.array([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])}
    merge["j"] = jnp.array([[0.5, 0.5, 0, 0], [0, 0.0, 0.5, 0.5]])
    zipped = zip_models(spec, models, merge, {g: (m > 0).T.astype(float) for g, m in merge.items()})
    assert zipped["w"].tolist() == [[1, 0], [0, 3]]
    assert zipped["count"] == 0 + models[0]["count"]


def test_split_by_model():
    merge = {"g": jnp.arange(12.0).reshape(2, 6)}
    merges, unmerges = split_by_model(3, merge, {"g": merge["g"].T})
    assert [m["g"].tolist() for m in merges] == [[[0, 1], [6, 7]], [[2, 3], [8, 9]], [[4, 5], [10, 11]]]
    assert all((u["g"] == m["g"].T).all() for m, u in zip(merges, unmerges))
