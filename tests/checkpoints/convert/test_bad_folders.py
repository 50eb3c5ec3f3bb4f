"""Folders that do not hold what they should: one clear error that names the first thing wrong."""

import json
import pickle
import shutil

import numpy as np
import pytest
from ml_dtypes import float8_e5m2
from safetensors.numpy import load_file, save_file

import autofusion_jax as af
from autofusion_jax.checkpoints.convert.formats import FORMATS
from autofusion_jax.checkpoints.orbax_io import CheckpointError
from autofusion_jax.checkpoints.safetensors_io import INDEX, SINGLE
from tests.conftest import ORACLES

BLOCK = "vit.encoder.layer.1."
CONFIG, LORA = "config.json", "lora/adapter_model.safetensors"


@pytest.fixture
def vit(tmp_path):
    return shutil.copytree(ORACLES / "interop/vit", tmp_path / "vit")


def edit(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def change(file, **tensors):
    """Replace tensors of a file, or take those that are None away."""
    stored = load_file(file) | tensors
    save_file({name: value for name, value in stored.items() if value is not None}, file)


def zeros(*shape):
    return np.zeros(shape, np.float32)


def refused(folder, message, error=ValueError, adapter=None):
    with pytest.raises(error, match=message) as caught:
        af.load_pretrained(folder, adapter=adapter)
    assert str(caught.value).startswith(("load_pretrained: ", "open_safetensors: "))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {BLOCK + "intermediate.dense.weight": None},
            r"intermediate.dense.weight'\] must be a tensor of shape \[24, 16\]; got nothing",
        ),
        (
            {BLOCK + "intermediate.dense.weight": zeros(16, 24)},
            r"intermediate.dense.weight'\] must be a tensor of shape \[24, 16\]; got \[16, 24\]",
        ),
        (
            {"vit.pooler.dense.bias": zeros(5)},
            r"vit\['vit.pooler.dense.bias'\] must be no tensor.* got \[5\]",
        ),
    ],
)
def test_tensors(vit, tensors, message):
    change(vit / SINGLE, **tensors)
    refused(vit, message)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": 32}, "hidden_size of .* must be 16, as 'vit.embeddings.cls_token' says; got 32"),
        ({"hidden_size": "16"}, "hidden_size of .*config.json must be a positive integer; got '16'"),
        (
            {"num_hidden_layers": 1},
            r"num_hidden_layers of .* must be 2, as 'vit.encoder.layer.\*' says; got 1",
        ),
        ({"num_attention_heads": 3}, "num_attention_heads of .* must be .* that divides hidden_size; got 3"),
        ({"image_size": 12}, "image_size of .* must be 8, as 'vit.embeddings.position_embeddings' says"),
        ({"id2label": {"0": "a"}}, "num_labels of .* must be 3, as 'classifier.weight' says; got 1"),
        ({"id2label": 3}, "id2label of .* must be an object with a name for every class; got 3"),
        ({"hidden_act": "gelu_new2"}, "hidden_act of .* must be 'gelu' or 'gelu_new' or .*; got 'gelu_new2'"),
        ({"layer_norm_eps": -1}, "layer_norm_eps of .* must be a number from 0 to 1; got -1"),
        ({"hidden_dropout_prob": 2}, "hidden_dropout_prob of .* must be a number from 0 to 1; got 2"),
        ({"qkv_bias": False}, "qkv_bias of .* must be True; got False"),
        ({"qkv_bias": 1}, "qkv_bias of .* must be True; got 1"),
        ({"architectures": ["ViTModel"]}, "architectures of .* must be a list with 'ViTFor.*; got"),
        ({"architectures": 5}, "architectures of .* must be a list with 'ViTFor.*; got 5"),
        ({"model_type": "bert"}, "unknown model_type of .*config.json 'bert'.* Known: " + ", ".join(FORMATS)),
        (
            {"model_type": "gpt2", "architectures": None},
            "vocab_size of .* must be that of 'transformer.wte.weight', which is",
        ),
        ({"layer_norm_eps": float("nan")}, "config.json must be JSON; NaN is no number"),
    ],
)
def test_configs(vit, values, message):
    edit(vit / CONFIG, **values)
    refused(vit, message)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            np.full((16, 3), np.nan, np.float32),
            r"'classifier.weight'\] must be finite; got 48 NaN or infinite",
        ),
        (
            np.full((16, 3), np.inf, np.float32),
            r"'classifier.weight'\] must be finite; got 48 NaN or infinite",
        ),
        (np.ones((16, 3), np.int32), r"'classifier.weight'\] must be of float32, float16 .*; got int32"),
        (np.ones((16, 3), bool), r"'classifier.weight'\] must be of float32, float16 .*; got bool"),
        (np.ones((16, 3), np.float64), r"'classifier.weight'\] must be of .*; got float64. .*jax_enable_x64"),
        (np.ones((16, 3), float8_e5m2), r"'classifier.weight'\] must be of .*; got float8_e5m2"),
        (np.ones((16, 3), np.complex64), r"'classifier.weight'\] must be of .*; got complex64"),
    ],
)
def test_numbers(vit, values, message):
    """In a file, and for a file; nothing is written."""
    change(vit / SINGLE, **{"classifier.weight": values.T.copy()})
    refused(vit, message)
    loaded = af.load_pretrained(ORACLES / "interop/vit")
    head = loaded.params["params"]["head"] | {"kernel": values}
    params = {"params": loaded.params["params"] | {"head": head}}
    message = message.replace("'classifier.weight'", "'params/head/kernel'").partition(". .*")[0]
    with pytest.raises(ValueError, match=message):
        af.save_pretrained(vit.parent / "new", loaded._replace(params=params))
    assert [path.name for path in vit.parent.iterdir()] == ["vit"]


def test_no_config(vit):
    (vit / CONFIG).write_text("{")
    refused(vit, "config.json must be JSON", CheckpointError)
    (vit / CONFIG).write_text("[]")
    refused(vit, r"config.json must be a JSON object; got \[\]", CheckpointError)
    (vit / CONFIG).unlink()
    refused(vit, "must be a folder with config.json", FileNotFoundError)


def test_no_weights(vit):
    (vit / SINGLE).unlink()
    refused(vit, SINGLE, FileNotFoundError)
    (vit / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    refused(vit, "only pickled weights .pytorch_model.bin.*save_pretrained")


@pytest.mark.parametrize("length", [4, 100, 10_000])
def test_a_truncated_file(vit, length):
    (vit / SINGLE).write_bytes((vit / SINGLE).read_bytes()[:length])
    refused(vit, "is no whole safetensors file", CheckpointError)


def test_a_header_of_absurd_size(vit):
    raw = (vit / SINGLE).read_bytes()
    (vit / SINGLE).write_bytes((2**62).to_bytes(8, "little") + raw[8:])
    refused(vit, "is no whole safetensors file", CheckpointError)


def test_shards(vit):
    (vit / SINGLE).rename(vit / "part.safetensors")
    names = dict.fromkeys(load_file(vit / "part.safetensors"), "part.safetensors")
    (vit / INDEX).write_text(json.dumps({"weight_map": names | {"classifier.bias": "lost.safetensors"}}))
    refused(vit, "there is no file .*lost.safetensors", FileNotFoundError)
    (vit / INDEX).write_text(json.dumps({"weight_map": names}))
    whole = (vit / "part.safetensors").read_bytes()
    (vit / "part.safetensors").write_bytes(whole[:-8])
    refused(vit, "part.safetensors is no whole safetensors file", CheckpointError)


A, B = (f"base_model.model.vit.layers.0.attention.q_proj.lora_{matrix}.weight" for matrix in "AB")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({A: zeros(2, 24)}, r"lora_A.weight' of the adapter must be \[rank, in\].*got \[2, 24\].*\[16, 16\]"),
        ({A: zeros(3, 16)}, r"lora_A.weight' of the adapter must be \[rank, in\].*lora_B \[16, 2\]"),
        ({B: None}, "q_proj.lora_A.weight' of the adapter must be beside its lora_B; got none"),
        ({A: None}, "q_proj.lora_B.weight' of the adapter must be beside its lora_A; got none"),
        (
            {A.replace("layers.0", "layers.7"): zeros(2, 16)},
            "layers.7.*' of the adapter must be for 'vit.encoder.layer.7.attention.attention.query.weight'",
        ),
        ({"base_model.model.classifier.bias": zeros(5)}, r"in the place of 'classifier.bias' .* got \[5\]"),
        ({"base_model.model.score.bias": zeros(5)}, "in the place of 'score.bias' .* got no such tensor"),
    ],
)
def test_adapters_that_do_not_fit(vit, tensors, message):
    change(vit / LORA, **tensors)
    refused(vit, message, adapter=vit / "lora")


def test_an_adapter_of_another_network():
    interop = ORACLES / "interop"
    message = "'base_model.model.score.weight' of the adapter must be in the place of 'score.weight'"
    refused(interop / "vit", message, adapter=interop / "gpt2/lora")


def test_adapters_of_another_kind(vit):
    edit(vit / "lora/adapter_config.json", use_dora=True)
    refused(vit, "adapter_config.json: use_dora must be one of None, False; got True", adapter=vit / "lora")
    (vit / LORA).unlink()
    edit(vit / "lora/adapter_config.json", use_dora=False)
    refused(vit, "adapter_model.safetensors", FileNotFoundError, adapter=vit / "lora")
    (vit / "lora/adapter_model.bin").write_bytes(pickle.dumps({}))
    refused(vit, "only pickled weights", adapter=vit / "lora")


def test_what_cannot_be_saved(vit, tmp_path):
    loaded = af.load_pretrained(vit)
    with pytest.raises(ValueError, match="save_pretrained: path must be a folder that does not exist"):
        af.save_pretrained(vit, loaded)
    head = loaded.params["params"]["head"]
    for changed, message in (
        ({"kernel": zeros(16, 5)}, r"params/head/kernel'\] must be of shape \[16, 3\]; got \[16, 5\]"),
        ({"scale": zeros(3)}, "params/head/scale'\\] must be no leaf of this architecture; got"),
    ):
        params = {"params": loaded.params["params"] | {"head": head | changed}}
        with pytest.raises(ValueError, match=message):
            af.save_pretrained(tmp_path / "new", loaded._replace(params=params))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["vit"]
