"""The contract of second calls: what was done before with other numbers of the same shapes compiles nothing.

Two things are counted: programs that XLA compiled, and how often a network's own Python function ran, which
it does only while it is traced. Memory that is never given back is what a process dies of in the end: each
program holds memory maps, of which a process may have 65,530.
"""

import collections
import contextlib
import functools
import gc
import resource
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

import autofusion_jax as af
from autofusion_jax.evaluation.accuracy import evaluate
from autofusion_jax.evaluation.interpolation import interpolation_curve
from autofusion_jax.evaluation.landscape import loss_landscape
from autofusion_jax.evaluation.similarity import network_similarity
from autofusion_jax.models.registry import build_model
from autofusion_jax.programs import MAX_NETWORKS
from tests.conftest import inputs_for, params_for
from tests.merging.test_contracts import METHODS, NEED_BASE, OTHER_PROGRAM, slow_but

COMPILED = "/jax/core/compile/backend_compile_duration"

MLP = build_model("mlp", (2, 2), widths=(4, 4), num_classes=3)
NETWORKS = {
    "resnet": build_model("resnet", (4, 4, 2), num_classes=3, widths=(4, 6), depths=(1, 1)),
    "vit": build_model("vit", (4, 4, 2), num_classes=3, patch=2, dim=6, depth=1, num_heads=2, mlp_dim=5),
}
BLOCKS = {
    "depth_upscaling": {"layers": "0,0"},
    "moe_merging": {},
    "moe_upscaling": {"num_experts": 2},
    "wemoe": {"num_steps": 2},
}
"""Options of the methods that find blocks by their names, for the ViT."""

TASKS = [[0, 1], [2]]

FAST = {"activation_matching", "average", "fisher", "prune_concat", "regmean", "ties", "z_ensemble", "zipit"}

_events: collections.Counter = collections.Counter()
jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: _events.update([event]))


class Counts:
    """What was compiled and traced inside of `counted`."""

    compiled = 0
    traced = 0


@contextlib.contextmanager
def counted(network=None):
    counts = Counts()
    compiled, traced = _events[COMPILED], 0 if network is None else network.runs
    yield counts
    counts.compiled = _events[COMPILED] - compiled
    counts.traced = (0 if network is None else network.runs) - traced


class Network:
    """The function of a bundled model, which counts how often it is run by Python."""

    def __init__(self, model):
        self.model, self.runs = model, 0
        self.spec = af.infer_perm_spec(self, params_for(model, 0), inputs_for(model), check=False)

    def __call__(self, params, x):
        self.runs += 1
        return self.model.apply(params, x)

    def models(self, first=0, num=2):
        return [params_for(self.model, first + number) for number in range(num)]

    def inputs(self, seed=5):
        return inputs_for(self.model, seed=seed)

    def merged(self, name, models, seed=0, inputs=5, **more):
        base = {"base": params_for(self.model, 9)} if name in NEED_BASE else {}
        return af.merge_many(
            models, self.spec, self.inputs(inputs), method=name, key=jax.random.key(seed), **(base | more)
        )


def expect_nothing_new(network, do, *, warm=1):
    """The second time nothing is compiled and the network is not traced, and the result has the same bits."""
    first = [do() for _ in range(warm)][-1]
    with counted(network) as counts:
        again = jax.block_until_ready(do())
    assert (counts.compiled, counts.traced) == (0, 0)
    chex.assert_trees_all_equal(again, first)


def of_result(result):
    return result.params, dict(result.variants), dict(result.history)


@pytest.fixture(scope="module")
def mlp():
    return Network(MLP)


@pytest.mark.parametrize("name", slow_but(FAST, METHODS))
def test_a_second_merge(name, mlp):
    """And a third one of other networks, inputs and keys: arguments of programs, and no part of them."""
    models, options = mlp.models(), METHODS[name]
    expect_nothing_new(mlp, lambda: of_result(mlp.merged(name, models, **options)))
    with counted(mlp) as counts:
        mlp.merged(name, mlp.models(20), seed=1, inputs=6, **options)
    assert (counts.compiled, counts.traced) == (0, 0)


ON_LARGER = [(which, name) for which in NETWORKS for name in METHODS if which == "vit" or name not in BLOCKS]


@pytest.mark.slow
@pytest.mark.parametrize(("which", "name"), ON_LARGER)
def test_a_second_merge_of_larger_networks(which, name):
    network = Network(NETWORKS[which])
    models, options = network.models(), BLOCKS.get(name, METHODS[name])
    expect_nothing_new(network, lambda: of_result(network.merged(name, models, **options)))


VARIANTS = {
    "labels": ("autofusion", {"epochs": 2, "labels": np.arange(24) % 3}),
    "implicit": ("autofusion", {"epochs": 2, "implicit": True, "strategy": "rounded"}),
    "z teacher": ("prune_concat", {"pseudo_labels": "z"}),
    "confidence teacher": ("pleas", {"matching": "activation_matching", "pseudo_labels": "confidence"}),
    "entropy": ("ot_fusion", {"reg": 0.1}),
    "activations": ("ot_fusion", {"ground": "activations"}),
    "random": ("sinkhorn_rebasin", {"loss": "random", "steps": 3}),
    "adamerging": ("surgery", {"num_steps": 3, "method": af.methods.adamerging(num_steps=3), "rank": 2}),
    "aligned": ("average", {"align": "autofusion"}),
    "aligned by activations": ("ties", {"align": "activation_matching"}),
    "repaired": ("weight_matching", {"correction": "repair"}),
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), VARIANTS.values(), ids=VARIANTS)
def test_a_second_merge_with_options(name, options, mlp):
    options = dict(options)
    if name == "surgery":
        method = af.methods.surgery(**options)
        name, options = method, {"base": params_for(mlp.model, 9)}
    models = mlp.models()
    expect_nothing_new(mlp, lambda: of_result(mlp.merged(name, models, **options)))


@pytest.mark.slow
def test_norms_measured_again():
    network = Network(NETWORKS["resnet"])
    models, options = network.models(), {"correction": "reset_norm"}
    expect_nothing_new(network, lambda: network.merged("weight_matching", models, **options).params)


def test_specs_and_activations(mlp):
    """Two specs of one function are equal: they share the programs that check them and measure units."""
    params, x = mlp.models(num=1)[0], mlp.inputs()
    expect_nothing_new(mlp, lambda: af.infer_perm_spec(mlp, params, x).groups)
    expect_nothing_new(mlp, lambda: af.check_perm_spec(mlp.spec, params, x))
    expect_nothing_new(mlp, lambda: af.capture_sites(mlp.spec, params, x))
    spec = af.infer_perm_spec(mlp, params, x, check=False)
    with counted(mlp) as counts:
        af.capture_sites(spec, params, x)
    assert (counts.compiled, counts.traced) == (0, 0)
    models, batches = mlp.models(), [x[:8], x[8:16], x[16:]]
    expect_nothing_new(mlp, lambda: af.moments(mlp.spec, models, batches))


def test_evaluation(mlp):
    (a, b, c), x, labels = mlp.models(num=3), mlp.inputs(), np.arange(24) % 3
    perms = af.random_perms(mlp.spec, jax.random.key(0))
    gammas = jax.numpy.linspace(0, 1, 3)
    expect_nothing_new(mlp, lambda: evaluate(mlp, a, x, labels, TASKS))
    expect_nothing_new(mlp, lambda: interpolation_curve(mlp, mlp.spec, a, b, perms, gammas, x, labels, TASKS))
    expect_nothing_new(mlp, lambda: loss_landscape(mlp, [a, b, c], x, labels, TASKS, points=3).losses)
    expect_nothing_new(mlp, lambda: network_similarity(mlp.spec, [a, b], [x]))


OTHER_FUNCTIONS = sorted(name for name in OTHER_PROGRAM if name != "depth_upscaling")


@pytest.mark.parametrize("name", OTHER_FUNCTIONS)
def test_networks_of_two_merges_are_one_program(name, mlp):
    """Those that are another program than the merged ones': equal functions, to `jax.jit` the same."""
    first, second = (mlp.merged(name, mlp.models(), **METHODS[name]) for _ in range(2))
    run(first.apply_fn, first.params, mlp.inputs())
    with counted(mlp) as counts:
        run(second.apply_fn, second.params, mlp.inputs())
    assert (counts.compiled, counts.traced) == (0, 0)


@functools.partial(jax.jit, static_argnums=0)
def run(apply_fn, params, x):
    return apply_fn(params, x)


MANY = ("activation_matching", "autofusion", "average", "c2m3", "em_ensemble", "prune_concat", "ste", "zipit")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="memory maps are listed on Linux alone")
@pytest.mark.parametrize("name", MANY)
def test_fifty_merges_keep_no_memory(name, mlp):
    """Neither maps nor, but for what allocators hold back, bytes."""
    models, options = mlp.models(), METHODS[name]
    for _ in range(3):
        mlp.merged(name, models, **options)
    maps, size = held()
    with counted(mlp) as counts:
        for _ in range(50):
            mlp.merged(name, models, **options)
    assert (counts.compiled, counts.traced) == (0, 0)
    more_maps, more_size = held()
    assert more_maps - maps <= 50 and more_size - size <= 2**24


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="memory maps are listed on Linux alone")
def test_programs_of_networks_that_are_gone_are_given_back():
    """A new function for every merge compiles every time; what is held does not grow with their number."""
    models, x, sizes = [params_for(MLP, seed) for seed in range(2)], inputs_for(MLP), []
    for _ in range(2):
        for _ in range(MAX_NETWORKS + 4):
            spec = af.infer_perm_spec(lambda params, x: MLP.apply(params, x), models[0], x)
            af.merge(*models, spec, x, method="activation_matching")
        sizes.append(held())
    (maps, size), (more_maps, more_size) = sizes
    assert more_maps - maps <= 50 and more_size - size <= 2**24


def held():
    """How many memory maps this process has, and how many bytes of memory."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return len(Path("/proc/self/maps").read_text().splitlines()), pages * resource.getpagesize()
