import dataclasses

import chex
import jax
import numpy as np
import optax
import pytest

from autofusion_jax.checkpoints.orbax_io import ARRAYS, MANIFEST, CheckpointError, load, save
from tests.conftest import params_for


def test_round_trip(tmp_path, model):
    params, spec = params_for(model, 0), model.perm_spec
    save(tmp_path / "a" / "b", params, spec=spec, meta={"seed": 3, "coefficients": np.arange(2)})
    stored = load(tmp_path / "a" / "b")
    chex.assert_trees_all_equal(stored.params, params)
    assert dataclasses.replace(stored.spec, apply_fn=model.apply) == spec
    assert stored.meta == {"seed": 3, "coefficients": [0, 1]}


def test_optimizer_state_needs_its_structure(tmp_path, mlp):
    params = params_for(mlp, 0)
    state = optax.adam(1e-3).init(params)
    save(tmp_path / "s", (params, state))
    stored = load(tmp_path / "s", like=(params, state)).params
    assert jax.tree.structure(stored) == jax.tree.structure((params, state))


def test_replacing_leaves_nothing_behind(tmp_path):
    for value in (1.0, 2.0):
        save(tmp_path / "c", {"w": np.full(3, value)})
    assert load(tmp_path / "c").params["w"].tolist() == [2.0] * 3
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_a_failed_save_keeps_the_old_one(tmp_path):
    save(tmp_path / "c", {"w": np.ones(3)})
    with pytest.raises(TypeError):
        save(tmp_path / "c", {"w": np.zeros(3)}, meta={"bad": object()})
    assert load(tmp_path / "c").params["w"].tolist() == [1.0] * 3
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "add", "manifest"])
def test_corruption_is_named(tmp_path, damage):
    path = save(tmp_path / "c", {"w": np.arange(1000.0)}, meta={"x": 1})
    victim = max((p for p in (path / ARRAYS).rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    raw = victim.read_bytes()
    if damage == "flip":
        victim.write_bytes(raw[:50] + bytes([raw[50] ^ 1]) + raw[51:])
    elif damage == "truncate":
        victim.write_bytes(raw[:-5])
    elif damage == "remove":
        victim.unlink()
    elif damage == "add":
        (path / "stranger").write_text("x")
    else:
        (path / MANIFEST).write_text("{")
    with pytest.raises(CheckpointError, match="(corrupt: remove|must be JSON)"):
        load(path)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="must be a checkpoint folder"):
        load(tmp_path / "none")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"a/b": np.ones(2), "a": {"b": np.zeros(2)}}, "one leaf at each path; got 2 at 'a/b'"),
        ({"key": jax.random.key(0)}, r"save: params\['key'\] must be an array of numbers; .*key_data"),
        ({"act": "relu"}, r"save: params\['act'\] must be an array of numbers; got a str"),
    ],
)
def test_what_a_checkpoint_cannot_hold(tmp_path, params, message):
    with pytest.raises(ValueError, match=message):
        save(tmp_path / "net", params)
    assert not any(tmp_path.iterdir())
