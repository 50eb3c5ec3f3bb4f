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
from autofusion_jax.checkpoints.convert.lora import merge_lora
from autofusion_jax.checkpoints.orbax_io import CheckpointError
from autofusion_jax.checkpoints.safetensors_io import INDEX, SINGLE, open_safetensors
from autofusion_jax.models.zero_shot import zero_shot_classifier
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


def check_parity(folder, adapter=None):
    """Our outputs are theirs, and stay so in a random order of all units."""
    loaded = af.load_pretrained(folder, adapter=adapter)
    x, y = recorded(adapter or folder)
    spec, apply = loaded.model.perm_spec, jax.jit(loaded.model.apply)
    assert spec.groups and all("is used in both roles" in note for note in spec.notes)  # tied weights
    reordered = af.apply_perm(spec, loaded.params, af.random_perms(spec, jax.random.key(0)))
    for params in (loaded.params, reordered):
        np.testing.assert_allclose(apply(params, x), y, atol=1e-5, rtol=1e-5)
    return loaded


@pytest.fixture
def vit(tmp_path):
    return shutil.copytree(INTEROP / "vit", tmp_path / "vit")


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.slow
def test_outputs_are_theirs(name):
    check_parity(INTEROP / name)


@pytest.mark.parametrize("name", [name for name in RECORDED if (INTEROP / name / "lora").is_dir()])
def test_with_an_adapter(name):
    base, merged = af.load_pretrained(INTEROP / name), check_parity(INTEROP / name, INTEROP / name / "lora")
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), base.params, merged.params)
    assert 0 < sum(jax.tree.leaves(changed)) < len(jax.tree.leaves(changed))


@pytest.mark.parametrize("name", RECORDED)
def test_against_a_fresh_network(name, tmp_path):
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    from tests.checkpoints.convert import record

    record.record_all(tmp_path, [name], seed=10)
    check_parity(tmp_path / name)
    if name in record.ADAPTERS:
        check_parity(tmp_path / name, tmp_path / name / "lora")
    saved = af.save_pretrained(tmp_path / "saved", af.load_pretrained(tmp_path / name))
    network = record.read_again(saved, name)
    x, y = record.io(tmp_path / name)
    np.testing.assert_array_equal(record.output(network, x), y)


@pytest.mark.parametrize("name", RECORDED)
def test_what_is_saved_is_what_was_loaded(name, tmp_path):
    source, target = INTEROP / name, tmp_path / "new" / name
    assert af.save_pretrained(target, af.load_pretrained(source)) == target
    assert sorted(file.name for file in target.iterdir()) == ["config.json", "config.json.sha256", SINGLE]
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


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_dtype_in_the_config_is_that_of_the_tensors(vit, tmp_path, dtype):
    config = json.loads((vit / "config.json").read_text())
    config |= {"torch_dtype": "bfloat16", "part": {"dtype": "float16", "other": {}}}
    (vit / "config.json").write_text(json.dumps(config))
    loaded = af.load_pretrained(vit)
    cast = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), loaded.params)
    mixed = {"params": cast["params"] | {"head": loaded.params["params"]["head"]}}
    for name, params, said in (("one", cast, dtype), ("two", mixed, "float32")):
        saved = af.save_pretrained(tmp_path / name, loaded._replace(params=params))
        written = json.loads((saved / "config.json").read_text())
        assert written["torch_dtype"] == written["dtype"] == written["part"]["dtype"] == said
        again = af.load_pretrained(saved)
        jax.tree.map(np.testing.assert_array_equal, again.params, params)


def test_alpha_is_that_of_the_adapter(tmp_path):
    """peft's own where it is left out; the first name that is a module or its end counts."""
    lora = shutil.copytree(INTEROP / "vit/lora", tmp_path / "lora")
    config = json.loads((lora / "adapter_config.json").read_text())

    def change_of(name, **fields):
        kept = {key: value for key, value in (config | fields).items() if value is not None}
        (lora / "adapter_config.json").write_text(json.dumps(kept))
        base, merged = (open_safetensors(INTEROP / "vit").leaves, None)
        merged = merge_lora(base, lora, modules=FORMATS["vit"].modules)
        return np.abs(merged[name].read() - base[name].read()).max()

    first, second = (f"vit.encoder.layer.{i}.intermediate.dense.weight" for i in range(2))
    one = [change_of(name, alpha_pattern=None, lora_alpha=1) for name in (first, second)]
    for pattern, scales in (
        (None, (8, 8)),
        ({"fc1": 2}, (2, 2)),
        ({"layers.0.mlp.fc1": 2, "fc1": 3}, (2, 3)),
        ({"^vit.layers.1.mlp.fc1": 2}, (8, 2)),
        ({r"layers\.1\.mlp\.fc1$": 2}, (8, 2)),
        ({"c1": 2}, (8, 8)),
        ({"^fc1": 2}, (8, 8)),
    ):
        found = [change_of(name, alpha_pattern=pattern, lora_alpha=None) for name in (first, second)]
        np.testing.assert_allclose(found, np.multiply(one, scales), rtol=1e-3)


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


def test_one_file_comes_before_an_index(vit):
    """As transformers looks for them; an index with other tensors in its shards than it lists is refused."""
    old = shutil.copytree(vit, vit.parent / "old")
    tensors = load_file(old / SINGLE)
    save_file({name: 0 * tensor for name, tensor in tensors.items()}, old / SINGLE)
    shard(old)
    for path in old.iterdir():
        shutil.copy(path, vit) if path.suffix in (".json", ".safetensors") else None
    whole = af.load_pretrained(INTEROP / "vit").params
    jax.tree.map(np.testing.assert_array_equal, af.load_pretrained(vit).params, whole)
    index = json.loads((old / INDEX).read_text())
    del index["weight_map"]["classifier.bias"]
    (old / INDEX).write_text(json.dumps(index))
    with pytest.raises(
        CheckpointError, match="must not hold 'classifier.bias', which .*index.json leaves out"
    ):
        af.load_pretrained(old)


def test_shorter_inputs():
    loaded = af.load_pretrained(INTEROP / "gpt2", input_shape=(5,))
    spec, x = loaded.model.perm_spec, recorded(INTEROP / "gpt2")[0][:, :5]
    captured = af.capture_sites(spec, loaded.params, x)
    assert captured and all(np.isfinite(value).all() for value in captured.values())


def test_a_tower_for_images_has_the_names_of_old_and_new_versions(tmp_path):
    """Until version 5 of transformers they began with `vision_model.`; they are written as they were read."""
    old = shutil.copytree(INTEROP / "clip_vision_model", tmp_path / "old")
    tensors = {f"vision_model.{name}": tensor for name, tensor in load_file(old / SINGLE).items()}
    save_file(tensors, old / SINGLE)
    loaded, again = af.load_pretrained(old), af.load_pretrained(INTEROP / "clip_vision_model")
    jax.tree.map(np.testing.assert_array_equal, loaded.params, again.params)
    saved = af.save_pretrained(tmp_path / "saved", loaded)
    assert load_file(saved / SINGLE).keys() == tensors.keys()


@pytest.mark.slow
def test_image_towers_are_merged_as_classifiers_as_readme_says(tmp_path):
    clip, tower = (af.load_pretrained(INTEROP / name) for name in ("clip", "clip_vision_model"))
    prompts = list(jnp.arange(6, dtype=jnp.int32).reshape(3, 1, 2) + 1)
    model, start = zero_shot_classifier(clip.model, clip.params, prompts)
    other = {"params": {**start["params"], "image_tower": tower.params["params"]}}
    images = jnp.asarray(recorded(INTEROP / "clip_vision_model")[0])
    options = {"base": start, "method": "adamerging", "num_steps": 2}
    result = af.merge_many([start, other], model.perm_spec, images, **options)
    merged = {"params": result.params["params"]["image_tower"]}
    af.save_pretrained(tmp_path / "merged", tower._replace(params=merged))
    again = af.load_pretrained(tmp_path / "merged")
    assert again.model.apply(again.params, images).shape == (4, 16)
    jax.tree.map(np.testing.assert_array_equal, again.params, jax.tree.map(np.asarray, merged))
