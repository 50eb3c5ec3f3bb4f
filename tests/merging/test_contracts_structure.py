"""Contracts on the structure of networks: what every method carries through."""

import collections
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import autofusion_jax as af
from tests.merging.test_compilations import counted
from tests.merging.test_contracts import LEAF_BY_LEAF, METHODS, NEED_BASE, OTHER_PROGRAM

Head = collections.namedtuple("Head", ["kernel", "bias"])

FAST = LEAF_BY_LEAF - {"wudi", "recombination"} | {"weight_matching", "simple_ensemble"}
"""The rest learn, or run the networks often."""

OF_DICTS = {"depth_upscaling"}
"""Methods that make networks of another structure, and refuse containers that have a fixed one."""

BLOCKS = {"blocks": "blocks/dense_{}/*"}
X = jax.random.normal(jax.random.key(5), (24, 6))


def methods():
    return pytest.mark.parametrize(
        "name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in METHODS]
    )


def network(seed):
    """A residual network in dicts, a list and a namedtuple; its head is a copy of its embedding.

    Some of its leaves are no floats, some are no numbers.
    """
    keys = iter(jax.random.split(jax.random.key(seed), 6))
    embedding = jax.random.normal(next(keys), (6, 4))
    blocks = {
        f"dense_{i}": [jax.random.normal(next(keys), (4, 5)), 0.3 * jax.random.normal(next(keys), (5, 4))]
        for i in range(2)
    }
    extra = {
        "count": np.array(2**40 + 5 + seed),
        "mask": np.array([True, False, bool(seed % 2)]),
        "ids": np.array([seed, 2**63 + 1], np.uint64),
        "steps": 2**40 + seed,
        "key": jax.random.key(seed),
        "act": "tanh",
        "norm": None,
    }
    bias = 0.1 * jax.random.normal(next(keys), (6,))
    return {
        "embedding": embedding, "blocks": blocks, "head": Head(embedding.T, bias), "extra": extra, "empty": {}
    }  # fmt: skip


def in_other_containers(params):
    """The same paths, as other containers have them."""
    blocks = {name: {"0": up, "1": down} for name, (up, down) in params["blocks"].items()}
    extra = {name: leaf for name, leaf in params["extra"].items() if leaf is not None}
    return {**params, "blocks": blocks, "head": params["head"]._asdict(), "extra": extra, "empty": ()}


def apply_fn(params, x):
    act = getattr(jnp, params["extra"]["act"])
    x = act(x @ params["embedding"])
    for up, down in params["blocks"].values():
        x = x + act(x @ up) @ down
    noise = jax.random.normal(params["extra"]["key"], ())
    return x @ params["head"].kernel + params["head"].bias + 0 * noise


def options_for(name, base):
    options = dict(METHODS[name])
    if "blocks" in options:
        options |= BLOCKS
    return options | ({"base": base} if name in NEED_BASE else {})


@pytest.fixture(scope="module")
def spec():
    return af.infer_perm_spec(apply_fn, network(0), X)


@methods()
def test_containers_ties_and_leaves_that_are_no_floats(name, spec):
    first = network(0)
    options = options_for(name, in_other_containers(network(9)))
    if name in OF_DICTS:
        with pytest.raises(ValueError, match="must be a pytree of dicts and lists; got .*'head/kernel'"):
            af.merge(first, in_other_containers(network(1)), spec, X, method=name, **options)
        return
    result = af.merge(first, in_other_containers(network(1)), spec, X, method=name, **options)
    outputs = result.apply_fn(result.params, X)
    assert outputs.shape[-2:] == (24, 6) and np.isfinite(outputs).all()
    recipe = dict(result.recipe)
    assert recipe["carried through"] == "extra/act, extra/key, as in the first network"
    assert recipe["tied"] == "head/kernel = embedding"
    if name in OTHER_PROGRAM:
        return
    assert result.apply_fn is apply_fn and result.perm_spec is spec
    for params in (result.params, *result.variants.values()):
        assert jax.tree.structure(params) == jax.tree.structure(first)
        assert all(params["extra"][leaf] is first["extra"][leaf] for leaf in params["extra"])
        np.testing.assert_array_equal(params["head"].kernel, params["embedding"].T)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pleas", "prune_concat"])
def test_names_do_not_say_which_of_two_tied_leaves_is_the_first(name):
    """These fit the head, which would not do as the embedding: what comes first in the forward pass stays."""

    def merged(embedding, head):
        def apply(params, x):
            h = x @ params[embedding]
            return (h + jax.nn.relu(h @ params["m_up"]) @ params["n_down"]) @ params[head]

        def draw(seed):
            keys = jax.random.split(jax.random.key(seed), 3)
            rows, up, down = map(jax.random.normal, keys, [(6, 4), (4, 5), (5, 4)])
            return {embedding: rows, head: rows.T, "m_up": up, "n_down": down}

        models = [draw(0), draw(1)]
        found = af.infer_perm_spec(apply, models[0], X)
        return af.merge(*models, found, X, method=name).params[embedding]

    np.testing.assert_allclose(merged("a", "z"), merged("z", "a"), atol=1e-4)


def test_a_second_merge_compiles_nothing(spec):
    """Random keys are compared by their bits, so a function bound to equal ones is the same to `jax.jit`."""
    models = [network(0), network(1)]
    af.merge(*models, spec, X, method="activation_matching")
    with counted() as counts:
        af.merge(network(0), network(1), spec, X, method="activation_matching")
    assert counts.compiled == 0


LARGE = {"float16": (np.float16, 6e4, 2.0**-10), "float32": (np.float32, 3e38, 2.0**-120)}


def large_network(seed, dtype, largest):
    """One with entries near the largest number of its dtype."""
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1, 1], (4, 3))
    blocks = {f"dense_{i}": [jnp.asarray(rng.normal(size=(4, 4)), dtype)] for i in range(2)}
    return {"blocks": blocks, "head": jnp.asarray(signs * largest, dtype)}


def scaled_by(scale):
    def run(params, x):
        for (kernel,) in params["blocks"].values():
            x = jnp.tanh(x @ kernel)
        return (x * jnp.asarray(scale, x.dtype)) @ params["head"]

    return run


@methods()
@pytest.mark.parametrize("dtype", LARGE)
@pytest.mark.parametrize("overflows", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_finite_or_an_error_that_names_the_leaf_or_the_network(name, dtype, overflows):
    kind, largest, scale = LARGE[dtype]
    models = [large_network(seed, kind, largest) for seed in (0, 1)]
    x = jax.random.normal(jax.random.key(0), (24, 4)).astype(kind)
    run = scaled_by(1.0 if overflows else scale)
    spec = af.infer_perm_spec(run, large_network(2, kind, 1.0), x)
    base = large_network(3, kind, 0.5 * largest)
    message = "the outputs of params_a on batch must be finite" if overflows else "must (be|stay) finite"
    try:
        result = af.merge(*models, spec, x, method=name, **options_for(name, base))
    except ValueError as error:
        result, said = None, str(error)
    if result is None:
        assert re.search(message, said), said
        assert overflows or "the outputs of params_" not in said
        return
    for params in (result.params, *result.variants.values()):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
