"""Every field of every config, overridden by what it cannot be: one line that names the field."""

import dataclasses
import typing

import pytest
from absl import flags
from ml_collections import config_flags

from configs import CONFIGS, check_overrides, get_config
from configs.models import build
from configs.schema import Config
from fields import check_fields
from tables import TABLES
from tables.settings import override

NUMBERS = ("x", "", "nan", "inf", "-inf", "-1", "1e400", "9" * 5000, "((((", "(" * 5000, "[1]*10**9", "1;2",
           "__import__('os').getcwd()")  # fmt: skip
BAD = {
    int: (*NUMBERS, "1.5", "10**20", str(10**20), "True"),
    float: NUMBERS,
    bool: ("x", "2", "-1", "None", "(" * 5000),
    tuple[int, ...]: (*NUMBERS[:1], *NUMBERS[2:], "0,4", "-4", "4,x", "1.5,2", "True", "9" * 50, "{1: 2}"),
}
"""Type of a field -> texts that none of its kind can be; an empty list is one of no places."""


def bad(field, kind):
    """What a field cannot be; 0 is a size of nothing, but a place."""
    return [text for text in BAD.get(kind, ()) if (field, text) != ("model.pool_after", "0,4")]


def fields_of(node, owner=""):
    """The name and type of each field."""
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if dataclasses.is_dataclass(value):
            yield from fields_of(value, f"{owner}{field.name}.")
        else:
            yield f"{owner}{field.name}", field.type


def parsed(name, *overrides) -> Config:
    """A config as the scripts read it from their command line."""
    argv = ["merge.py", *check_overrides([f"--config={name}", *overrides])]
    values = flags.FlagValues()
    config_flags.DEFINE_config_dataclass(
        "config", get_config(name), parse_fn=get_config, flag_values=values, sys_argv=argv
    )
    values(argv)
    config = values["config"].value
    check_fields("--config", config)
    return config


@pytest.mark.parametrize("name", ["digits_mlp", "mnist_vgg", "cifar10_resnet20", "tiny_vit_4tasks"])
def test_every_field_of_a_config(name):
    """However it is wrong, it is refused by name, before anything is loaded or evaluated."""
    config, tried = get_config(name), 0
    for field, kind in fields_of(config):
        for text in bad(field, kind):
            with pytest.raises((ValueError, flags.Error)) as caught:
                parsed(name, f"--config.{field}={text}")
            assert field in str(caught.value), (field, text, caught.value)
            tried += 1
    assert tried > 150


def settings(panel, assignment):
    config = panel.get_config()
    override(config, assignment)
    check_fields("reproduce", config)


@pytest.mark.parametrize("table", ["5", "fusion", "fusion_heads", "mudsc_s1"])
def test_every_field_of_a_table(table):
    panel = TABLES[table].panels[0]
    for field, kind in fields_of(panel.get_config()):
        for text in bad(field, kind):
            with pytest.raises(ValueError, match=field):
                settings(panel, f"{field}={text}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("name=/abs", "--config: name must be a name of letters"),
        ("name=../up", "--config: name must be a name of letters"),
        ("name=a/../b", "--config: name must be a name of letters"),
        ("name=", "--config: name must be a name of letters"),
        ("seed=100000001", r"--config: seed must be an integer in \[0, 100000000\]; got 100000001"),
        ("pairs=0", "--config: pairs must be an integer in"),
        ("runs_dir=", "--config: runs_dir must be the name of a folder"),
        ("data.name=", "--config: data.name must be the name of a data set"),
        ("task.labels=share", "--config: task.labels must be .*Did you mean 'shared'"),
        ("train.optimizer=adamw", "--config: train.optimizer must be .*Did you mean 'adam'"),
        ("train.epoch=1", "unknown field 'epoch'. Did you mean 'epochs'"),
        (
            "train=1",
            "--config.train: a field of it must be set, one of epochs, batch_size",
        ),
        ("model.widths=64,64,many", "--config.model.widths: its values must be of type int"),
    ],
)
def test_messages(change, message):
    with pytest.raises(ValueError, match=message):
        parsed("digits_mlp", f"--config.{change}")


@pytest.mark.parametrize("text", ["", "()", "[]", " "])
def test_empty_lists_are_empty(text):
    fields = ("merge.methods", "merge.references", "task.sizes", "model.widths")
    for argv in (
        [f"--config.{field}={text}" for field in fields],
        [part for field in fields for part in (f"--config.{field}", text)],
    ):
        config = parsed("digits_mlp", *argv)
        assert (
            config.merge.methods == config.merge.references == config.task.sizes == config.model.widths == ()
        )


@pytest.mark.parametrize("text", ["64,32", "(64, 32)", "[64,32]", "64,32,"])
def test_lists_of_numbers(text):
    assert parsed("digits_mlp", f"--config.model.widths={text}").model.widths == (64, 32)


def test_lists_of_names():
    config = parsed(
        "digits_mlp", "--config.merge.methods=ties,('average')", "--config.merge.references='model_a'"
    )
    assert config.merge.methods == ("ties", "('average')") and config.merge.references == ("model_a",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.name=vgg", "vgg: unknown option 'use_bias'"),
        ("model.name=vg", "model: unknown name 'vg'. Did you mean 'vgg'"),
        ("model.widths=1000000000,1000000000", "a network that this machine's memory holds"),
        ("model.head=cosin", r"model: mlp of .*'cosin'"),
    ],
)
def test_models_that_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        build(parsed("digits_mlp", f"--config.{change}").model, (8, 8, 1), num_classes=10)


def test_all_configs_keep_to_their_rules():
    for name in CONFIGS:
        check_fields("--config", get_config(name))
        for field, kind in fields_of(get_config(name)):
            assert kind in (int, float, bool, str) or typing.get_origin(kind) is tuple, field
