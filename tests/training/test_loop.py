import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autofusion_jax.training.loop import TrainOptions, init_state, num_steps, train
from tests.conftest import MODELS

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


def test_divergence_names_the_step():
    options = TrainOptions(epochs=6, batch_size=16, learning_rate=1e30, segment=12, optimizer="sgd")
    with pytest.raises(ValueError, match=r"NaN or infinite at step \d+ of 72"):
        train(MODELS["mlp"].apply, fresh(options), IMAGES, LABELS, options=options, seed=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be >= 1"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0"),
        ({"optimizer": "adamw"}, "unknown optimizer 'adamw'. Did you mean 'adam'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        TrainOptions(**options).check()
