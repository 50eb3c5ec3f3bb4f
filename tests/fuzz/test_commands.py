"""Overrides on the command line: every field of every config, by texts of every kind."""

import numpy as np
import pytest
from absl import flags

from configs import CONFIGS, check_overrides, get_config
from configs.models import build
from data.registry import input_shape
from tests.experiments.test_overrides import fields_of, parsed
from tests.fuzz.harness import Tally, expect

pytestmark = pytest.mark.slow

TEXTS = (
    "", "x", "nan", "inf", "-1", "0", "1", "2", "1.5", "1e400", "9" * 400, "True", "false", "None", "()",
    "[]", "[1]", "1,2",
    "-4,5", "0,4", ",", ",,", "a,b", "(" * 3000, "{1: 2}", "1;2", "\x00", "\n", "é", "../x", "/abs", "~",
    "$HOME", "%s", "{}",
    "__import__('os')", "lambda: 0", "1" + "0" * 30, "0x10", "1_2", "1e3", "-0.0", " 1", "1 ", "'1'",
    '"x"', "b'x'", "1j",
)  # fmt: skip


def read(name, field, text):
    """A setting that is taken is one that the scripts can go on with."""
    try:
        config = parsed(name, f"--config.{field}={text}")
    except flags.Error as error:
        raise ValueError(str(error)) from error
    if field.startswith("model."):
        build(config.model, input_shape(get_config(name).data.name.split("+")[0]), num_classes=4)
    expect(config.name and config.pairs >= 1 and config.merge.repeats >= 1, "nothing to run")


@pytest.mark.parametrize("part", range(4))
def test_overrides(part, record_property):
    tally = Tally(f"command line: overrides, part {part + 1} of 4")
    for name in list(CONFIGS)[part::4]:
        for number, (field, _) in enumerate(fields_of(get_config(name))):
            for text in TEXTS[number % 3 :: 3]:
                named = rf"{field}|{field.rpartition('.')[2]}|model"
                tally.run((name, field, text), lambda n=name, f=field, t=text: read(n, f, t), named)
    tally.done(record_property, least=1000)


def test_command_lines(record_property):
    tally = Tally("command line: misspelt flags", "--config", "flag", "field", "name")
    rng = np.random.default_rng(0)
    letters = list("abcdefgmnv_.-=01/ ")
    good = "--config=mnist_vgg --config.seed=1 --config.train.epochs=2"

    def run(argv):
        try:
            check_overrides(argv)
        except flags.Error as error:
            raise ValueError(str(error)) from error

    for _ in range(2000):
        text = list(good)
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(len(text)))
            kind = rng.integers(3)
            if kind == 0:
                text[at] = str(rng.choice(letters))
            elif kind == 1:
                del text[at]
            else:
                text.insert(at, str(rng.choice(letters)))
        argv = "".join(text).split(" ")
        tally.run(argv, lambda a=argv: run(a))
    tally.done(record_property, least=2000)
