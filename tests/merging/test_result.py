"""A result as a pytree, as text, and on disk; methods and formulas as documented, typed names."""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.merging.registry import METHODS
from tests.conftest import inputs_for, params_for


def merged(mlp, method, **options):
    models = [params_for(mlp, 0), params_for(mlp, 1)]
    return af.merge(*models, mlp.perm_spec, inputs_for(mlp), method=method, **options)


@pytest.fixture(scope="module")
def distilled():
    from tests.conftest import MODELS

    return merged(MODELS["mlp"], "prune_concat_distill", epochs=1, batch_size=8)


def test_a_result_goes_through_jit_vmap_and_tree_map(mlp, distilled):
    """Words among the diagnostics are static, numbers are leaves."""
    assert distilled.diagnostics["teacher"] == "em"
    again = jax.jit(lambda result: result)(distilled)
    chex.assert_trees_all_equal(again.params, distilled.params)
    assert dict(again.diagnostics)["teacher"] == "em" and again.recipe == distilled.recipe
    matched = merged(mlp, "weight_matching")
    doubled = jax.tree.map(lambda *leaves: jnp.stack(leaves), matched, matched)
    outputs = jax.vmap(lambda result: mlp.apply(result.params, inputs_for(mlp)))(doubled)
    np.testing.assert_allclose(outputs[1], mlp.apply(matched.params, inputs_for(mlp)), atol=1e-5)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(matched)]
    assert ".params['params']['dense_0']['bias']" in paths


def test_text_is_short_and_says_how_far_to_trust(distilled, capsys):
    assert len(repr(distilled)) < 2000 and repr(distilled).count("\n") < 20
    distilled.summary()
    said = capsys.readouterr().out
    for words in ("prune_concat_distill", "networks", "numbers learned", "seconds", "agreement", "good"):
        assert words in said
    assert "<table>" in distilled._repr_html_() and "teacher" in distilled._repr_html_()
    assert float(distilled.seconds) > 0


def test_the_recipe_names_what_was_done(mlp):
    result = merged(mlp, "average", align="weight_matching", correction="repair")
    assert dict(result.recipe) == {
        "method": "average", "networks": "2", "inputs": "24", "align": "weight_matching",
        "correction": "repair",
    }  # fmt: skip
    assert dict(merged(mlp, "interpolation", gamma=0.25).recipe)["gamma"] == "0.25"


def test_a_saved_result_is_a_checkpoint_with_its_spec(mlp, tmp_path):
    result = merged(mlp, "average")
    stored = af.load(result.save(tmp_path / "merged"))
    chex.assert_trees_all_equal(stored.params, result.params)
    assert stored.meta["recipe"]["method"] == "average"
    assert stored.spec is not None and stored.spec.groups == mlp.perm_spec.groups
    assert merged(mlp, "max_model").perm_spec is None


def test_specs_are_short_in_a_cell(mlp):
    assert repr(mlp.perm_spec).startswith("PermSpec(2 groups {dense_0: 12, dense_1: 10}, 6 leaves")
    assert "dense_1" in mlp.perm_spec._repr_html_()


def test_every_method_has_typed_documented_options():
    for name, factory in METHODS.items():
        assert inspect.getdoc(factory) and getattr(af.methods, name) is factory
        for option in inspect.signature(factory).parameters.values():
            assert option.kind is option.KEYWORD_ONLY, (name, option)
            assert option.annotation is not option.empty, (name, option)


def test_every_formula_is_documented():
    names = [name for name in vars(af.functional) if not name.startswith("_")]
    assert len(names) >= 25
    for name in names:
        assert inspect.getdoc(getattr(af.functional, name)), name
