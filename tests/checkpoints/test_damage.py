"""Damaged JSON of every kind that the library reads: taken whole, or refused in one line with the place."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

import autofusion_jax as af
from autofusion_jax.checkpoints.convert.formats import FORMATS
from autofusion_jax.checkpoints.convert.lora import merge_lora
from autofusion_jax.checkpoints.orbax_io import MANIFEST, META, SPEC, sha256
from autofusion_jax.checkpoints.safetensors_io import INDEX, open_safetensors
from tests.checkpoints.mutations import damaged_texts, mutants, refusal
from tests.conftest import ORACLES, params_for

INTEROP = ORACLES / "interop"
FAMILIES = ["clip", "clip_vision_model", "gpt2", "resnet", "t5", "vit"]
ADAPTED = ["clip", "gpt2", "t5", "vit"]


META_DATA = {"a": [1, 2.5], "b": {"c": None}}


def counted(texts, read, *names):
    """How many of some damaged files are refused, and how many are taken."""
    refused = [refusal(lambda text=text: read(text), *names) is not None for text in texts]
    print(f"{len(refused)} tried, {sum(refused)} refused in one line, {len(refused) - sum(refused)} taken")
    return sum(refused), len(refused)


def read_spec(text):
    """Read a spec; what is taken can be hashed, printed and written."""
    spec = af.PermSpec.from_json(text.decode(errors="surrogateescape"))
    assert hash(spec) == hash(spec) and str(spec) and repr(spec) and spec._repr_html_()
    assert af.PermSpec.from_json(spec.to_json()) == spec
    assert all(site.axis >= 0 for site in spec.sites)


@pytest.mark.parametrize("num", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_specs(model, num):
    text = model.perm_spec.to_json()
    refused, tried = counted(
        [*damaged_texts(text), *mutants(text, num)], read_spec, "PermSpec.from_json: text"
    )
    assert refused > tried / 2


def sealed(folder, name, raw):
    """Write a file of a checkpoint, with the manifest as if it had been so."""
    (folder / name).write_bytes(raw)
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {name: sha256(folder / name)}))


@pytest.mark.parametrize("num", [30, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [MANIFEST, SPEC, META])
def test_checkpoints(tmp_path, mlp, name, num):
    folder = af.save(
        tmp_path / "c", params_for(mlp, 0), spec=mlp.perm_spec, meta={"a": [1, 2.5], "b": {"c": None}}
    )
    whole = (folder / MANIFEST).read_bytes()

    def read(raw):
        (folder / MANIFEST).write_bytes(whole)
        (folder / name).write_bytes(raw) if name == MANIFEST else sealed(folder, name, raw)
        af.load(folder)

    text = (folder / name).read_text()
    refused, tried = counted([*damaged_texts(text), *mutants(text, num)], read, str(folder))
    assert refused == tried if name == MANIFEST else refused > 0


def sharded(folder):
    tensors = {"a": np.ones(2, np.float32), "b": np.zeros(3, np.float32), "c.d": np.ones((2, 2), np.float32)}
    shards = {"1.safetensors": ["a", "b"], "2.safetensors": ["c.d"]}
    for shard, names in shards.items():
        save_file({name: tensors[name] for name in names}, folder / shard)
    weight_map = {name: shard for shard, names in shards.items() for name in names}
    return json.dumps({"metadata": {"total_size": 36}, "weight_map": weight_map})


@pytest.mark.parametrize("num", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_indices(tmp_path, num):
    text = sharded(tmp_path)

    def read(raw):
        (tmp_path / INDEX).write_bytes(raw)
        open_safetensors(tmp_path).verify()

    refused, tried = counted([*damaged_texts(text), *mutants(text, num)], read, str(tmp_path))
    assert refused > tried / 2


@pytest.mark.parametrize("num", [15, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FAMILIES)
def test_configs(tmp_path, name, num):
    folder = shutil.copytree(INTEROP / name, tmp_path / name, ignore=shutil.ignore_patterns("lora", "*.npz"))
    text = (folder / "config.json").read_text()

    def read(raw):
        (folder / "config.json").write_bytes(raw)
        af.load_pretrained(folder)

    counted([*damaged_texts(text), *mutants(text, num)], read, str(folder))


SIZES = {
    "clip": ["vision_config.image_size", "text_config.vocab_size", "text_config.num_hidden_layers"],
    "clip_vision_model": ["num_hidden_layers", "intermediate_size", "patch_size"],
    "gpt2": ["n_layer", "n_embd", "n_head", "n_positions", "vocab_size", "n_inner"],
    "resnet": ["pretrained_cfg.input_size"],
    "t5": ["num_layers", "num_decoder_layers", "d_model", "d_kv", "d_ff", "num_heads"],
    "vit": ["num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "image_size"],
}  # fmt: skip


def never(*args, **options):
    pytest.fail("must not be built")


@pytest.mark.parametrize("name", FAMILIES)
def test_sizes_are_held_against_the_tensors_before_anything_is_built(tmp_path, name, monkeypatch):
    monkeypatch.setattr("autofusion_jax.models.registry.build_model", never)
    folder = shutil.copytree(INTEROP / name, tmp_path / name, ignore=shutil.ignore_patterns("lora", "*.npz"))
    whole = json.loads((folder / "config.json").read_text())
    for field in SIZES[name]:
        *outer, last = field.split(".")
        for size in (3, 2000, 10**9, 2**31, 2**63, 10**100, 0, -1, 2.0, True, "2"):
            config = json.loads(json.dumps(whole))
            part = config[outer[0]] if outer else config
            part[last] = [3, size, 10**9] if last == "input_size" else size
            (folder / "config.json").write_text(json.dumps(config))
            said = refusal(lambda: af.load_pretrained(folder), str(folder / "config.json"))
            assert said is not None and field in said, (field, size)


@pytest.mark.parametrize("num", [20, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ADAPTED)
def test_adapters(tmp_path, name, num):
    folder = shutil.copytree(INTEROP / name / "lora", tmp_path / "lora")
    text = (folder / "adapter_config.json").read_text()

    state = open_safetensors(INTEROP / name).leaves

    def add(raw):
        (folder / "adapter_config.json").write_bytes(raw)
        merge_lora(state, folder, modules=FORMATS[name].modules)

    refused, tried = counted(
        [*damaged_texts(text), *mutants(text, num)], add, "adapter_config.json", "of the adapter"
    )
    assert 0 < refused < tried


@pytest.mark.parametrize(
    "pattern", ["(.|.)+X", "(a+)+$", ".*fc1", "[ab]", "a|b", "(", "\\d", "x" * 2000, "fc1\n", ""]
)
def test_expressions_in_an_adapter_are_not_run(tmp_path, pattern):
    folder = shutil.copytree(INTEROP / "vit/lora", tmp_path / "lora")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"alpha_pattern": {pattern: 4}}))
    said = refusal(
        lambda: af.load_pretrained(INTEROP / "vit", adapter=folder), "adapter_config.json: alpha_pattern"
    )
    assert "is another regular expression" in said
