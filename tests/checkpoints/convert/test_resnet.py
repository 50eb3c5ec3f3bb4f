"""ResNets of torchvision and timm: sizes by the tensors, counters kept, other networks refused."""

import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import autofusion_jax as af
from autofusion_jax.checkpoints.safetensors_io import SINGLE
from tests.checkpoints.convert.test_bad_folders import CONFIG, change
from tests.checkpoints.convert.test_pretrained import INTEROP, recorded


@pytest.fixture
def resnet(tmp_path):
    return shutil.copytree(INTEROP / "resnet", tmp_path / "resnet")


def test_a_file_of_torchvision_without_a_config(resnet):
    (resnet / CONFIG).unlink()
    with pytest.raises(FileNotFoundError, match="must be a folder with config.json; it has none"):
        af.load_pretrained(resnet)
    loaded = af.load_pretrained(resnet, config={"architecture": "resnet50"})
    assert loaded.model.input_shape == (224, 224, 3)
    x, y = recorded(INTEROP / "resnet")
    np.testing.assert_allclose(jax.jit(loaded.model.apply)(loaded.params, x), y, atol=1e-5)


def test_sizes_are_those_of_the_tensors(resnet):
    module = af.load_pretrained(resnet).model.module
    assert (list(module.widths), list(module.depths), module.block) == (
        [2, 3, 2, 3],
        [1, 2, 1, 1],
        "bottleneck",
    )


def test_counters_of_batches_come_back(resnet):
    change(resnet / SINGLE, **{"bn1.num_batches_tracked": np.array(7)})
    saved = af.save_pretrained(resnet.parent / "new", af.load_pretrained(resnet)) / SINGLE
    stored = load_file(saved)["bn1.num_batches_tracked"]
    assert stored == 7 and stored.dtype == np.int64 and stored.shape == ()


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"fc.weight": None},
            r"'fc.weight'\] must be a tensor with 2 axes, as in torchvision's ResNets; got nothing",
        ),
        ({"layer3.0.conv1.weight": None}, r"'layer3.0.conv1.weight'\] must be a tensor with 4 axes"),
        (
            {"layer2.1.bn3.running_var": None},
            r"'layer2.1.bn3.running_var'\] must be a tensor of shape \[12\]; got nothing",
        ),
        (
            {"conv1.weight": np.ones((2, 3, 3, 3))},
            r"'conv1.weight'\] must be a tensor of shape \[2, 3, 7, 7\]",
        ),
        ({"layer1.0.se.fc1.weight": np.ones(2)}, r"'layer1.0.se.fc1.weight'\] must be no tensor"),
    ],
)
def test_other_networks_are_refused(resnet, tensors, message):
    change(resnet / SINGLE, **tensors)
    with pytest.raises(ValueError, match=message):
        af.load_pretrained(resnet)


def test_a_resnet_of_transformers_is_refused(resnet):
    config = {"model_type": "resnet", "architectures": ["ResNetForImageClassification"]}
    with pytest.raises(ValueError, match="architectures.* must be a list with 'resnet'; got"):
        af.load_pretrained(resnet, config=config)
    with pytest.raises(ValueError, match="'resnet50d'. Did you mean 'resnet'"):
        af.load_pretrained(resnet, config={"architecture": "resnet50d"})
