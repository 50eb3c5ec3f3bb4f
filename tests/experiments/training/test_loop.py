import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autofusion_jax.models.registry import build_model
from tests.conftest import MODELS
from training.loop import MAX_SHIFT, TrainOptions, augment, init_state, num_steps, train
from training.losses import UNSCORED, squared_error, token_cross_entropy

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 200)
IMAGES = np.clip(RNG.integers(0, 120, (200, 4, 4)) + 60 * LABELS[:, None, None], 0, 255).astype(np.uint8)
OPTIONS = TrainOptions(epochs=6, batch_size=16, learning_rate=1e-2, segment=12)


def fresh(options=OPTIONS):
    return init_state(MODELS["mlp"].init(jax.random.key(0)), options)


def run(state, **options):
    return train(MODELS["mlp"].apply, state, IMAGES, LABELS, options=OPTIONS, seed=1, **options)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_it_learns(optimizer):
    options = TrainOptions(epochs=20, batch_size=16, learning_rate=1e-2, segment=20, optimizer=optimizer)
    state = train(MODELS["mlp"].apply, fresh(options), IMAGES, LABELS, options=options, seed=0)
    predicted = MODELS["mlp"].apply(state.params, jnp.asarray(IMAGES / np.float32(255))).argmax(-1)
    assert (np.asarray(predicted) == LABELS).mean() > 0.7


def test_going_on_gives_the_same_bits():
    saved = []
    whole = run(fresh(), on_segment=lambda state, loss: saved.append(jax.tree.map(np.asarray, state)))
    assert [int(s.step) for s in saved] == list(range(12, num_steps(200, OPTIONS) + 1, 12))
    resumed = run(saved[1]._replace(step=int(saved[1].step)))
    chex.assert_trees_all_equal(resumed.params, whole.params)


NORMED = build_model("vgg", (4, 4, 1), widths=(4,), pool_after=(), num_classes=3, norm="batch")


def run_normed(**options):
    options = TrainOptions(**{"batch_size": 16, "optimizer": "sgd", "segment": 12, **options})
    saved = []
    start = init_state(NORMED.init(jax.random.key(0)), options)

    def go_on(state):
        return train(
            NORMED.apply, state, IMAGES[..., None], LABELS, options=options, seed=1,
            train_fn=NORMED.train_apply, on_segment=lambda state, loss: saved.append(state),
        )  # fmt: skip

    return start, go_on(start), saved, go_on


def test_a_network_with_batch_norm_learns():
    _, state, _, _ = run_normed(epochs=16, learning_rate=0.05)
    predicted = NORMED.apply(state.params, jnp.asarray(IMAGES[..., None] / np.float32(255))).argmax(-1)
    assert (np.asarray(predicted) == LABELS).mean() > 0.7


def test_going_on_augmented_gives_the_same_bits():
    _, whole, saved, go_on = run_normed(epochs=4, learning_rate=0.05, augment=True)
    chex.assert_trees_all_equal(go_on(saved[1]).params, whole.params)


def test_one_step_takes_statistics_from_the_network_and_decays_kernels_alone():
    one_step = {"epochs": 1, "batch_size": 200, "segment": 1, "learning_rate": 0.1}
    start, plain, _, _ = run_normed(**one_step)
    _, decayed, _, _ = run_normed(**one_step, weight_decay=0.5)
    _, updated = NORMED.train_apply(start.params, jnp.asarray(IMAGES[..., None] / np.float32(255)))
    chex.assert_trees_all_close(plain.params["batch_stats"], updated["batch_stats"], atol=1e-6)
    chex.assert_trees_all_equal(plain.params["batch_stats"], decayed.params["batch_stats"])
    expected = jax.tree.map(
        lambda end, begin: end - 0.1 * 0.5 * begin if begin.ndim > 1 else end, plain.params, start.params
    )
    chex.assert_trees_all_close(decayed.params, expected, atol=1e-6)


def test_augmentation_mirrors_and_shifts():
    images = jnp.asarray(RNG.integers(1, 255, (32, 5, 6, 2)), jnp.uint8)
    got = np.asarray(augment(images, jax.random.key(0)))
    assert got.dtype == np.uint8
    border = (MAX_SHIFT, MAX_SHIFT)
    padded = np.pad(np.asarray(images), ((0, 0), border, border, (0, 0)))
    found = set()
    for image, one in zip(padded, got):
        shifts = [
            (mirrored, i, j)
            for mirrored in (False, True)
            for i in range(2 * MAX_SHIFT + 1)
            for j in range(2 * MAX_SHIFT + 1)
            if np.array_equal(one, image[i : i + 5, j : j + 6][:, :: -1 if mirrored else 1])
        ]
        assert shifts
        found.add(shifts[0])
    assert len(found) > 16 and {mirrored for mirrored, _, _ in found} == {False, True}


def test_divergence_names_the_step():
    options = TrainOptions(epochs=6, batch_size=16, learning_rate=1e30, segment=12, optimizer="sgd")
    with pytest.raises(ValueError, match=r"NaN or infinite at step \d+ of 72"):
        train(MODELS["mlp"].apply, fresh(options), IMAGES, LABELS, options=options, seed=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "train: epochs must be an integer >= 1"),
        ({"learning_rate": 0.0}, "train: learning_rate must be a number > 0"),
        ({"weight_decay": -1.0}, "train: weight_decay must be a number >= 0"),
        ({"optimizer": "adamw"}, "optimizer must be .*; got 'adamw'. Did you mean 'adam'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        init_state({}, TrainOptions(**options))


def test_tokens_are_seen_as_they_are_and_other_losses_learn():
    """A table of logits by token learns what follows each token, but where that does not count."""
    tokens = np.tile(np.array([[300, 301, 302]], np.int32), (16, 1))
    targets = np.tile(np.array([[1, 2, UNSCORED]], np.int32), (16, 1))

    def apply_fn(params, x):
        return params["table"][x - 300]

    options = TrainOptions(epochs=30, batch_size=16, learning_rate=0.3, segment=30)
    start = init_state({"table": jnp.zeros((3, 4))}, options)
    state = train(apply_fn, start, tokens, targets, options=options, seed=0, loss=token_cross_entropy)
    assert state.params["table"].argmax(-1)[:2].tolist() == [1, 2]
    assert not state.params["table"][2].any()


def test_images_as_targets():
    """One factor on every pixel: the images are seen divided by 255, and are to be given back halved."""
    options = TrainOptions(epochs=60, batch_size=200, learning_rate=0.05, segment=60)
    start = init_state({"factor": jnp.ones(())}, options)
    state = train(
        lambda params, x: params["factor"] * x, start, IMAGES, IMAGES / np.float32(510), options=options,
        seed=0, loss=squared_error,
    )  # fmt: skip
    assert abs(float(state.params["factor"]) - 0.5) < 0.01
