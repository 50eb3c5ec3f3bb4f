"""Networks with a head for each task: heads, their order of units, measures; what networks see of texts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

import autofusion_jax as af
from autofusion_jax.evaluation.networks import Network, SideBySide
from autofusion_jax.models.heads import Backbone, ClassHead, HeadedNetwork, ImageHead, NextToken, reordered
from autofusion_jax.models.registry import build_model
from autofusion_jax.models.t5 import END, greedy_decode
from autofusion_jax.trees import flatten_by_path
from pipeline.headed_pair import HeadedTask, open_tasks
from pipeline.headed_training import TaskData
from pipeline.split import Split
from tables.fusion_heads import edges, noisy
from tables.fusion_text import next_tokens
from tables.fusion_text_to_text import ANSWER, AnswerTask, answers, questions, rows
from training.losses import UNSCORED

RNG = np.random.default_rng(0)
SHAPE = (8, 8, 1)


@functools.cache
def backbone(channels=6):
    model = build_model("vgg", SHAPE, widths=(4, 6), pool_after=(0,), num_classes=1)
    return Backbone(model.module, model.input_shape, channels)


def random_head(head, num_features, seed):
    leaves = head.init(num_features)
    return jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(seed), leaf.shape), leaves)


def test_a_backbone_has_no_head_and_gives_features():
    whole = build_model("vgg", SHAPE, widths=(4, 6), pool_after=(0,), num_classes=3)
    params, x = whole.init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (2, *SHAPE))
    plain = Backbone(whole.module, whole.input_shape)
    own = plain.init(jax.random.key(0))
    assert {path for path in flatten_by_path(params) if "head" not in path} == set(flatten_by_path(own))
    np.testing.assert_allclose(plain.apply(own, x), whole.features(params, x), rtol=1e-6)


def test_an_image_head_puts_squares_in_their_places():
    """Place (r, c) with feature k is the square whose pixels are rows of the kernel, written out."""
    head = ImageHead((4, 6, 2), 2)
    features = RNG.standard_normal((3, 2 * 3 * 5)).astype(np.float32)
    params = random_head(head, features.shape[1], 1)
    images = np.asarray(head.apply(params, jnp.asarray(features)))
    kernel, bias = np.asarray(params["kernel"]), np.asarray(params["bias"])
    for n, row, column, channel in ((0, 0, 0, 0), (1, 3, 4, 1), (2, 2, 5, 0)):
        place = features[n].reshape(2, 3, 5)[row // 2, column // 2]
        number = ((row % 2) * 2 + column % 2) * 2 + channel
        assert images[n, row, column, channel] == pytest.approx(
            place @ kernel[:, number] + bias[number], abs=1e-4
        )


def task(network, params, seed):
    """A task that a network does well: its own answers, of which some are changed, or all a little."""
    x = jnp.asarray(RNG.random((30, *SHAPE)), jnp.float32)
    head = random_head(network.head, 4 * 4 * 6, seed)
    outputs = np.asarray(network.apply({"backbone": params, "head": head}, x))
    if isinstance(network.head, ClassHead):
        targets = np.where(np.arange(30) % 5 > 0, outputs.argmax(-1), RNG.integers(0, 3, 30))
        return HeadedTask("b", x, network, head, x, targets, np.bincount(targets).argmin())
    return HeadedTask("a", x, network, head, x, outputs + 0.1, outputs.mean(0))


@functools.cache
def pair():
    """Two tasks, of images and of classes, and the first network's twin with its units in another order."""
    spec = backbone().perm_spec
    params = backbone().init(jax.random.key(0))
    perms = af.random_perms(spec, jax.random.key(1))
    heads, models = (ImageHead(SHAPE, 2), ClassHead(3)), [params, af.apply_perm(spec, params, perms)]
    tasks = [
        task(HeadedNetwork(backbone(), head), model, k) for k, (head, model) in enumerate(zip(heads, models))
    ]
    nothing = np.zeros(0, int)
    split = Split(0, 0, (), (), ("a", "b"), {}, nothing, nothing, nothing, nothing)

    class OfModel:
        model = backbone()

    return open_tasks(OfModel, split, models, (0.0, 0.0), tasks, params, tasks[0].x)


def test_own_networks_are_at_100_and_floors_at_0():
    here = pair()
    together = Network(here.models, SideBySide(backbone().apply), storable=False)
    metrics = here.evaluate(together)
    assert metrics["tasks"] == dict(zip("ab", here.own))
    assert metrics["tasks_scaled"] == {"a": 100, "b": 100} and metrics["scaled"] == 100
    images, classes = here.tasks
    assert here.own[0] == pytest.approx(25.5, rel=1e-3) and here.own[1] >= 80
    assert images.floor == pytest.approx(255 * np.abs(images.test_y - images.average).mean())
    assert classes.floor == pytest.approx(100 * np.bincount(classes.test_y).min() / 30)
    nothing = jax.tree.map(jnp.zeros_like, here.models[0])
    value = here.evaluate(Network(nothing, backbone().apply))
    bias = np.asarray(classes.head["bias"]).argmax()
    assert value["tasks"]["b"] == pytest.approx(100 * np.mean(classes.test_y == bias))
    floor, own = classes.floor, here.own[1]
    assert value["tasks_scaled"]["b"] == pytest.approx(100 * (value["tasks"]["b"] - floor) / (own - floor))


def test_heads_read_aligned_features_in_their_own_order():
    """A network and its twin in another order of units: aligned and averaged they are the network again."""
    here = pair()
    options = {"method": "average", "align": "weight_matching"}
    result = af.merge_many(here.models, here.spec, here.x, **options)
    merged = here.evaluate(Network(result.params, result.apply_fn, result=result))
    assert merged["tasks"] == pytest.approx(dict(zip("ab", here.own)), rel=1e-3)
    plain = here.evaluate(Network(result.params, result.apply_fn))  # not told of the order
    assert abs(plain["tasks"]["b"] - here.own[1]) > 1


def test_fishers_are_those_of_networks_with_their_heads():
    """Nothing that a head multiplies by zero counts; the reader, which no head reads, never does."""
    here = pair()
    assert [sorted(flatten_by_path(known)) for known in here.fishers] == [
        sorted(flatten_by_path(here.base))
    ] * 2
    for known in here.fishers:
        leaves = flatten_by_path(known)
        assert not leaves["reader/kernel"].any() and leaves["params/conv_0/kernel"].any()
    result = af.merge_many(here.models, here.spec, here.x, method="fisher", **here.own_options("fisher"))
    assert jnp.isfinite(result.params["params"]["conv_0"]["kernel"]).all()
    assert set(here.own_options("regmean")) == {"inputs"}


def test_reordered():
    kernel = jnp.arange(8.0).reshape(4, 2)
    head = {"kernel": kernel, "bias": jnp.zeros(2)}
    assert reordered(head, jnp.array([1, 0]))["kernel"][:, 0].tolist() == [2, 0, 6, 4]


def test_edges_are_sobels():
    images = RNG.integers(0, 256, (2, 9, 7, 1)).astype(np.uint8)
    for image, found in zip(images[..., 0] / 255.0, edges(images)[..., 0]):
        gradient = [scipy.ndimage.sobel(image, axis, mode="nearest") for axis in (0, 1)]
        np.testing.assert_allclose(found, np.hypot(*gradient) / 32**0.5, atol=1e-6)


def test_noise_is_as_large_as_asked():
    grey = np.full((50, 20, 20, 1), 128, np.uint8)
    assert noisy(grey, 0.1, 0).astype(float).std() == pytest.approx(25.5, rel=0.02)
    assert (noisy(grey, 0.1, 0) == noisy(grey, 0.1, 0)).all() and (
        noisy(grey, 0.1, 0) != noisy(grey, 0.1, 1)
    ).any()


def test_averages():
    images = RNG.random((5, 2, 2, 1)).astype(np.float32)
    data = TaskData("x", ImageHead((2, 2, 1), 2), images, images, images, images)
    np.testing.assert_allclose(data.average, images.mean(0))
    labels = np.array([2, 0, 2])
    assert TaskData("x", ClassHead(3), images, labels, images, labels).average == 2


def test_next_tokens():
    assert next_tokens(np.array([[5, 6, 0], [7, 8, 9]])).tolist() == [
        [6, UNSCORED, UNSCORED], [8, 9, UNSCORED],
    ]  # fmt: skip


@pytest.mark.slow
def test_a_language_model_reads_only_what_was_before():
    model = build_model(
        "gpt2", (6,), num_classes=1, pad=0, vocab=16, length=6, dim=8, depth=1, num_heads=2, mlp_dim=8
    )
    network = NextToken(Backbone(model.module, model.input_shape))
    params = network.backbone.init(jax.random.key(0))
    tokens = jnp.array([[1, 2, 3, 4, 5, 6]])
    logits, other = (network.apply(params, t) for t in (tokens, tokens.at[0, 3].set(9)))
    assert logits.shape == (1, 6, 16)
    np.testing.assert_allclose(logits[0, :3], other[0, :3], atol=1e-6)
    assert np.abs(logits[0, 3:] - other[0, 3:]).max() > 1e-4


def test_answers_are_words_with_an_end_and_read_shifted():
    target = answers(["file", "call"])
    assert target.shape == (2, ANSWER) and target[0, :6].tolist() == [*b"file", END, 0]
    source = questions("man_section", np.array([[65, 66, 0]] * 2, np.int32))
    read, written = rows(source, target)
    start = source.shape[1]
    assert bytes(source[0].tolist()).rstrip(b"\0") == b"section: AB"
    assert read[0, start : start + 6].tolist() == [0, *b"file", END]
    assert written[0, :6].tolist() == [*b"file", END, UNSCORED]


@pytest.mark.slow
def test_exact_match_is_that_of_greedy_decoding():
    """By induction it is right where every token is the likeliest after the right ones before it."""
    source = questions("man_section", RNG.integers(65, 90, (12, 6)).astype(np.int32))
    sizes = {"dim": 8, "depth": 1, "decoder_depth": 1, "num_heads": 2, "head_dim": 4, "mlp_dim": 8}
    model = build_model("t5", (source.shape[1] + ANSWER,), vocab=128, source_len=source.shape[1], **sizes)
    params = model.init(jax.random.key(0))
    target = np.array(greedy_decode(model.module, params, jnp.asarray(source), max_len=ANSWER))
    target[7:, 0] = target[7:, 0] % 100 + 2
    read, written = rows(source, target)
    likeliest = np.asarray(model.apply(params, jnp.asarray(read)).argmax(-1))
    expected = 100 * np.mean(((likeliest == written) | (written == UNSCORED)).all(1))
    task = AnswerTask("man_section", jnp.asarray(read), model, jnp.asarray(source), target)
    assert expected == task.measure(params, None) == pytest.approx(100 * 7 / 12)
    assert task.floor == pytest.approx(100 * max(np.unique(target, axis=0, return_counts=True)[1]) / 12)
