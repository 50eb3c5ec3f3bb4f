"""The data of a config, its endpoint pairs, and the networks trained on them."""

import dataclasses
import hashlib
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from autofusion_jax.checkpoints.orbax_io import load, save
from autofusion_jax.data.dataset import Dataset
from autofusion_jax.data.registry import load_dataset
from autofusion_jax.data.splits import hold_out, of_classes, sample, split_classes
from autofusion_jax.models.registry import Model, build_model
from autofusion_jax.training.loop import TrainState, init_state, num_steps, train
from autofusion_jax.types import Params
from configs.schema import Config, identity

ROLES = ("model_a", "model_b", "real_labels")


@dataclasses.dataclass(frozen=True)
class Setting:
    """A config with its data and model in memory."""

    config: Config
    dataset: Dataset
    model: Model
    test_x: Array
    console: Console

    @property
    def identity(self) -> dict[str, Any]:
        """What makes two runs the same run: the config but where files lie, and the data itself."""
        return {**identity(self.config), "data_sha256": self.dataset.sha256}

    @property
    def checkpoint_root(self) -> Path:
        """The folder of all networks trained under the same data, model and training settings."""
        fields = self.identity
        kept = {name: fields[name] for name in ("data", "model", "train", "data_sha256")}
        text = json.dumps(kept, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:10]
        name = f"{self.config.data.name}_{self.config.model.name}_{digest}"
        return Path(self.config.runs_dir) / "checkpoints" / name


@dataclasses.dataclass(frozen=True)
class Pair:
    """One endpoint pair: everything that its seed draws.

    Attributes:
        number: from 0.
        seed: seed of the split, the initialisations, the unlabelled sample and the merges.
        tasks: classes of task A and of task B.
        train: role -> indices of its training images.
        validation: indices of the images put aside.
        unlabelled: indices of the images that the merge sees.
    """

    number: int
    seed: int
    tasks: tuple[tuple[int, ...], tuple[int, ...]]
    train: dict[str, np.ndarray]
    validation: np.ndarray
    unlabelled: np.ndarray


def to_inputs(images: np.ndarray) -> Array:
    """What networks see of uint8 images: floats in [0, 1]."""
    return jnp.asarray(images, jnp.float32) / 255


def open_setting(config: Config, console: Console) -> Setting:
    """Load the data and build the model of a config."""
    dataset = load_dataset(config.data.name, folder=config.data.dir, report=lambda line: console.print(line))
    for note in dataset.notes:
        console.print(f"[yellow]note:[/] {note}")
    options = dataclasses.asdict(config.model)
    model = build_model(
        options.pop("name"), dataset.train_images.shape[1:], num_classes=dataset.num_classes, **options
    )
    return Setting(config, dataset, model, to_inputs(dataset.test_images), console)


def draw_pair(setting: Setting, number: int) -> Pair:
    """Draw the endpoint pair `number` of a config."""
    seed, data = setting.config.seed + number, setting.config.data
    labels = setting.dataset.train_labels
    pool, validation = hold_out(len(labels), data.num_validation, seed)
    tasks = split_classes(setting.dataset.num_classes, seed)
    train = {
        "model_a": of_classes(labels, tasks[0], pool),
        "model_b": of_classes(labels, tasks[1], pool),
        "real_labels": pool,
    }
    return Pair(number, seed, tasks, train, validation, sample(pool, data.num_unlabelled, seed))


def network_path(setting: Setting, pair: Pair, role: str) -> Path:
    """Where the finished network of a role is kept."""
    return setting.checkpoint_root / f"seed_{pair.seed}" / role / "final"


def get_network(setting: Setting, pair: Pair, role: str) -> tuple[Params, float]:
    """Load a finished network, or train it, going on from where an earlier run stopped.

    Args:
        setting: the config in memory.
        pair: the endpoint pair.
        role: one of `ROLES`.

    Returns:
        Its parameters, and the seconds that its training took.
    """
    final = network_path(setting, pair, role)
    if final.is_dir():
        stored = load(final)
        _sweep(final.parent)
        return jax.tree.map(jnp.asarray, stored.params), stored.meta["seconds"]
    state, seconds = _train(setting, pair, role, final.parent)
    model = setting.model
    save(final, state.params, spec=model.perm_spec, meta=network_meta(setting, pair, role, seconds=seconds))
    _sweep(final.parent)
    return state.params, seconds


def _sweep(folder: Path) -> None:
    """Remove what a finished training needs no more, and what a killed one left half-written."""
    for path in (*(path for _, path in _saved_steps(folder)), *folder.glob(".*")):
        shutil.rmtree(path, ignore_errors=True)


def network_meta(setting: Setting, pair: Pair, method: str, **more: Any) -> dict[str, Any]:
    """What a checkpoint says of itself: enough to rebuild the network and to evaluate it."""
    return {
        "config": setting.config.name,
        "data": setting.config.data.name,
        "model": dataclasses.asdict(setting.config.model),
        "method": method,
        "seed": pair.seed,
        "tasks": [list(task) for task in pair.tasks],
        **more,
    }


def _train(setting: Setting, pair: Pair, role: str, folder: Path) -> tuple[TrainState, float]:
    options, indices = setting.config.train, pair.train[role]
    key = jax.random.fold_in(jax.random.key(pair.seed), ROLES.index(role))
    state = init_state(setting.model.init(key), options)
    seconds = 0.0
    steps = _saved_steps(folder)
    if steps:
        stored = load(steps[-1][1], like=(state.params, state.opt_state))
        state, seconds = TrainState(*stored.params, step=steps[-1][0]), stored.meta["seconds"]
        setting.console.print(f"{role} of seed {pair.seed}: goes on at step {state.step}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = setting.console
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        total = num_steps(len(indices), options)
        bar = progress.add_task(f"training {role}, seed {pair.seed}", total=total, completed=state.step)
        started = time.perf_counter() - seconds

        def on_segment(state: TrainState, loss: float) -> None:
            progress.update(bar, completed=state.step, description=f"training {role}: loss {loss:.3f}")
            if state.step < total:
                elapsed = time.perf_counter() - started
                path = folder / f"step_{state.step:07d}"
                save(path, (state.params, state.opt_state), meta={"seconds": elapsed})
                for _, old in _saved_steps(folder)[:-2]:
                    shutil.rmtree(old)

        images, labels = setting.dataset.train_images[indices], setting.dataset.train_labels[indices]
        seed = len(ROLES) * pair.seed + ROLES.index(role)
        state = train(
            setting.model.apply, state, images, labels, options=options, seed=seed,
            train_fn=setting.model.train_apply, on_segment=on_segment,
        )  # fmt: skip
    seconds = time.perf_counter() - started
    setting.console.print(f"trained {role} of seed {pair.seed} in {seconds:.0f} s")
    return state, seconds


def _saved_steps(folder: Path) -> list[tuple[int, Path]]:
    """The unfinished checkpoints of a training, oldest first."""
    found = [(re.fullmatch(r"step_(\d+)", path.name), path) for path in folder.glob("step_*")]
    return sorted((int(match.group(1)), path) for match, path in found if match)
