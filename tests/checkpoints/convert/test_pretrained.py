"""Networks of transformers against their recorded outputs (record.py), and back bit for bit."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import autofusion_jax as af
from autofusion_jax.checkpoints.convert.formats import FORMATS
from autofusion_jax.checkpoints.safetensors_io import INDEX, SINGLE
from tests.conftest import ORACLES

INTEROP = ORACLES / "interop"
RECORDED = [*FORMATS, "resnet_basic", "t5_tied"]


def recorded(folder):
    """Inputs as our network takes them, and the output of theirs."""
    with np.load(folder / "io.npz") as stored:
        io = dict(stored)
    x = {}
    if "pixel_values" in io:
        x["images"] = io["pixel_values"].transpose(0, 2, 3, 1)
    if "input_ids" in io:
        parts = [io[name] for name in ("input_ids", "decoder_input_ids") if name in io]
        x["tokens"] = np.concatenate(parts, 1, dtype=np.int32)
    x = jax.tree.map(jnp.asarray, x)
    return (x if len(x) > 1 else next(iter(x.values()))), io["y"]


def check_parity(folder):
    loaded = af.load_pretrained(folder)
    x, y = recorded(folder)
    np.testing.assert_allclose(jax.jit(loaded.model.apply)(loaded.params, x), y, atol=1e-5, rtol=1e-5)


def change(path, tensors):
    """Replace tensors of a file, or take those that are None away."""
    stored = load_file(path) | tensors
    save_file({name: value for name, value in stored.items() if value is not None}, path)


@pytest.fixture
def vit(tmp_path):
    return shutil.copytree(INTEROP / "vit", tmp_path / "vit")


@pytest.mark.parametrize("name", RECORDED)
def test_outputs_are_theirs(name):
    check_parity(INTEROP / name)


@pytest.mark.parametrize("name", FORMATS)
def test_the_inferred_spec_keeps_the_function(name):
    loaded = af.load_pretrained(INTEROP / name)
    spec = loaded.model.perm_spec
    assert not spec.notes
    assert af.check_perm_spec(spec, loaded.params, recorded(INTEROP / name)[0]) < 1e-5


@pytest.mark.parametrize("name", RECORDED)
def test_what_is_saved_is_what_was_loaded(name, tmp_path):
    source, target = INTEROP / name, tmp_path / "new" / name
    assert af.save_pretrained(target, af.load_pretrained(source)) == target
    assert sorted(file.name for file in target.iterdir()) == ["config.json", SINGLE]
    assert (target / "config.json").read_text() == (source / "config.json").read_text()
    old, new = load_file(source / SINGLE), load_file(target / SINGLE)
    assert set(old) == set(new)
    for key in old:
        assert (old[key].dtype, old[key].shape) == (new[key].dtype, new[key].shape)
        assert old[key].tobytes() == new[key].tobytes(), key


def test_half_precision_and_buffers_come_back(tmp_path):
    source = shutil.copytree(INTEROP / "gpt2", tmp_path / "old")
    halves = {name: value.astype(np.float16) for name, value in load_file(source / SINGLE).items()}
    buffers = {
        "transformer.h.0.attn.bias": np.tril(np.ones((1, 1, 8, 8), np.uint8)),
        "transformer.h.1.attn.masked_bias": np.full((), -1e4, np.float32),
    }
    save_file(halves | buffers, source / SINGLE)
    loaded = af.load_pretrained(source)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded.params)} == {np.dtype(np.float16)}
    saved = load_file(af.save_pretrained(tmp_path / "new", loaded) / SINGLE)
    assert set(saved) == set(halves | buffers)
    for name, value in (halves | buffers).items():
        assert saved[name].dtype == value.dtype and saved[name].tobytes() == value.tobytes()


def shard(folder):
    """Take a folder's one file apart into two."""
    tensors = load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    weight_map = {
        name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(tensors)
    }
    for file in set(weight_map.values()):
        save_file({name: tensors[name] for name in tensors if weight_map[name] == file}, folder / file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_shards(vit):
    whole = af.load_pretrained(vit).params
    shard(vit)
    jax.tree.map(np.testing.assert_array_equal, af.load_pretrained(vit).params, whole)
