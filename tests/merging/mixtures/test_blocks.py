"""Blocks of traced networks: their ends against brute force, what they compute, and what is no block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autofusion_jax.merging.mixtures.module_blocks import _meeting, group_paths, trace_blocks
from autofusion_jax.trees import flatten_by_path
from tests.conftest import inputs_for, params_for
from tests.merging.mixtures.networks import CASES, VIT, cases


@cases
def test_a_block_makes_what_the_network_makes_there(case):
    """And other leaves in its place change what it makes."""
    model, pattern = CASES[case]
    params, other, x = params_for(model, 0), params_for(model, 1), inputs_for(model, 5)
    traced = trace_blocks("test", model.apply, params, x, pattern)
    leaves, changed = flatten_by_path(params), flatten_by_path(other)
    assert len(traced.blocks) == {"mlp": 2, "vgg": 2, "resnet": 4}.get(case, 3)

    @jax.jit
    def run(leaves, changed):
        ends = [end for block in traced.blocks for end in (block.read, block.made)]
        values = traced.program.evaluate(ends, traced.values(leaves, x))
        found = []
        for block, read, made in zip(traced.blocks, values[::2], values[1::2]):
            own = {path: changed[path] for path in block.paths}
            again, other = (traced.run_block(block, given, read) for given in (leaves, leaves | own))
            found.append((read, made, again, other))
        return found

    for block, (read, made, again, other) in zip(traced.blocks, run(leaves, changed), strict=True):
        assert read.shape == block.read_like.shape and made.shape == block.made_like.shape
        np.testing.assert_allclose(again, made, atol=1e-5)
        assert np.abs(other - made).max() > 1e-2


def test_the_ends_of_a_block_are_the_nearest():
    """Of an MLP in a transformer: between its norm and the residual sum, no more and no less."""
    params, x = params_for(VIT, 0), inputs_for(VIT, 5)
    traced = trace_blocks("test", VIT.apply, params, x, "*block_{}/mlp_*")
    leaves = flatten_by_path(params)
    run = jax.jit(traced.run_block, static_argnums=0)
    for block in traced.blocks:
        read = jax.random.normal(jax.random.key(0), block.read_like.shape)
        layers = [params["params"][f"block_{block.name}"][f"mlp_{i}"] for i in (0, 1)]
        hidden = jax.nn.gelu(read @ layers[0]["kernel"] + layers[0]["bias"])
        expected = hidden @ layers[1]["kernel"] + layers[1]["bias"]
        np.testing.assert_allclose(run(block, leaves, read), expected, atol=1e-5)


def test_meeting_points_are_those_of_brute_force():
    """On random graphs: the last value without which no way leads to the ends."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        ends = list(range(rng.integers(1, 3)))
        sources = {
            n: [] if n in ends else rng.choice(n, min(n, rng.integers(1, 3)), replace=False).tolist()
            for n in range(12)
        }
        start = set(rng.choice(np.arange(6, 12), rng.integers(1, 4), replace=False).tolist())
        cuts = [n for n in sources if not any(reaches(sources, ends, number, n) for number in start)]
        got = _meeting(start, sources.__getitem__, ends, lambda n: -n)
        assert got == max(cuts, default=None), seed


def reaches(sources, ends, number, without):
    if number == without:
        return False
    return number in ends or any(reaches(sources, ends, source, without) for source in sources[number])


def test_blocks_are_named_by_their_places():
    paths = ["a/s1_b10/w", "a/s1_b2/w", "b/s1_b2/v", "a/head"]
    assert group_paths("test", paths, "*/s{}_b{}/*") == {
        "1_2": ("a/s1_b2/w", "b/s1_b2/v"),
        "1_10": ("a/s1_b10/w",),
    }
    assert group_paths("test", paths, "a/h*") == {"all": ("a/head",)}


def square(n):
    return jax.ShapeDtypeStruct((n, n), jnp.float32)


def two_outputs(params, x):
    return x @ params["block_0"], x @ params["block_0"] @ params["block_1"]


def hidden_used_later(params, x):
    hidden = x @ params["block_0"]["a"]
    return (hidden @ params["block_0"]["b"]) @ params["block_1"]["a"] + hidden


def tied(params, x):
    return (x @ params["block_0"]) @ params["block_1"] @ params["block_0"]


def unused(params, x):
    return x @ params["block_0"] + 0 * x


def two_inputs(params, x):
    return x[0] @ params["block_0"] + x[1] @ params["block_0"]


@pytest.mark.parametrize(
    ("apply_fn", "params", "pattern", "message"),
    [
        (tied, {"block_0": square(3), "block_1": square(3)}, "*layer_{}", r"must be a pattern that "
         r"fits paths.*got '\*layer_\{\}'. Paths: block_0, block_1\."),
        (two_outputs, {"block_0": square(3), "block_1": square(3)}, "block_{}",
         "block '0', which makes more than one value that the outputs use. Its leaves: block_0"),
        (hidden_used_later, {"block_0": {"a": square(3), "b": square(3)}, "block_1": {"a": square(3)}},
         "block_{}/*", "block '0', which makes more than one value that is used before block '1'"),
        (tied, {"block_0": square(3), "block_1": square(3)}, "block_{}",
         "block '0', which makes more than one value that is used before block '1'"),
        (unused, {"block_0": square(3), "block_1": square(3)}, "block_{}",
         "block '1', whose leaves meet no activations"),
        (two_inputs, {"block_0": square(3)}, "block_{}",
         "block '0', which reads more than one of the inputs"),
    ],
)  # fmt: skip
def test_what_is_no_block(apply_fn, params, pattern, message):
    x = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    x = [x, x] if apply_fn is two_inputs else x
    with pytest.raises(ValueError, match=f"test: blocks.*{message}"):
        trace_blocks("test", apply_fn, params, x, pattern)
