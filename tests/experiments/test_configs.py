import dataclasses

import pytest

from autofusion_jax.merging.registry import METHODS
from configs import CONFIGS, check_overrides, get_config
from configs.schema import identity, split_commas
from data.registry import DATASETS
from fields import check_fields
from pipeline.reference_rows import REFERENCE_ROWS

NAMED = {
    "digits_mlp",
    "mnist_mlp",
    "mnist_vgg",
    "fashion_mlp",
    "fashion_vgg",
    "kmnist_mlp",
    "kmnist_vgg",
    "cifar10_mlp",
    "cifar10_vgg",
    "cifar10_resnet20",
}


def test_the_named_configs_are_there():
    assert set(CONFIGS) >= NAMED


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_sound(name):
    config = get_config(name)
    assert config.name == name
    assert set(config.data.name.split("+")) <= set(DATASETS)
    assert set(config.merge.methods) <= set(METHODS)
    assert set(config.merge.references) <= set(REFERENCE_ROWS)
    check_fields("--config", config)
    if name.endswith("_paper"):
        assert (config.merge.epochs, config.merge.repeats) == (64, 5)


def test_models_of_the_paper():
    assert get_config("mnist_mlp").model.widths == (512,) * 6
    assert len(get_config("mnist_vgg").model.widths) == 4
    assert len(get_config("cifar10_vgg").model.widths) > 4
    assert get_config("cifar10_resnet20").model.depths == (3, 3, 3)


def test_configs_are_fresh_each_time():
    get_config("mnist_vgg").seed = 7
    assert get_config("mnist_vgg").seed == 0


def test_identity_leaves_out_places():
    one, two = get_config("mnist_vgg"), get_config("mnist_vgg")
    one.out_dir, one.data.dir = "here", "there"
    assert identity(one) == identity(two)
    two.seed = 1
    assert identity(one) != identity(two)
    assert dataclasses.asdict(one)["out_dir"] == "here"


def test_commas():
    assert split_commas(("a,b", "c,a")) == ("a", "b", "c")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--config=NAME must come first; got nothing. Known: cifar10_mlp"),
        (["--config.seed=1"], "must come first"),
        (["--config=mnist_vg"], "unknown name 'mnist_vg'. Did you mean 'mnist_vgg'"),
        (["--config=mnist_vgg", "--config.sede=1"], "unknown field 'sede'. Did you mean 'seed'"),
        (["--config=mnist_vgg", "--config.train.epoch=1"], "unknown field 'epoch'. Did you mean 'epochs'"),
        (["--config=mnist_vgg", "--config.seed.deep=1"], "unknown field 'deep'"),
    ],
)
def test_bad_command_lines(argv, message):
    with pytest.raises(ValueError, match=message):
        check_overrides(argv)


def test_good_command_lines():
    check_overrides(["--config=mnist_vgg", "--config.train.epochs=7", "--config.merge.methods=a"])
    check_overrides(["--config", "digits_mlp", "--config.seed=3"])
