"""Networks that are trained once: found again in their folder, or gone on with where a run stopped."""

import dataclasses
import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from autofusion_jax.atomic import locked
from autofusion_jax.checkpoints.orbax_io import Checkpoint, CheckpointError, load, save
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.types import ApplyFn, Params, TrainFn
from training.loop import TrainOptions, TrainState, init_state, num_steps, train
from training.losses import Loss, cross_entropy

FINAL = "final"
"""The folder of a finished network in that of its training."""


@dataclasses.dataclass(frozen=True)
class Training:
    """All that decides what a network becomes; see `training.loop.train`.

    Attributes:
        apply_fn: the network.
        start: its parameters before.
        inputs: what it is trained on, `[N, ...]`.
        targets: what it is to answer, `[N, ...]`.
        options: how to train.
        seed: seed of the order of the inputs.
        loss: of its outputs and the targets.
        train_fn: the network in training mode, if that is another.
        spec: its permutation spec, kept beside it.
    """

    apply_fn: ApplyFn
    start: Params
    inputs: np.ndarray
    targets: np.ndarray
    options: TrainOptions
    seed: int
    loss: Loss = cross_entropy
    train_fn: TrainFn | None = None
    spec: PermSpec | None = None


def find_or_train(
    folder: Path, name: str, prepare: Callable[[], Training], meta: Mapping[str, Any], console: Console
) -> tuple[Params, float]:
    """Load a finished network, or train it, going on from where an earlier run stopped.

    Args:
        folder: where its checkpoints are kept.
        name: what messages call it.
        prepare: what decides the network; called only if it is not there.
        meta: what its checkpoint says of it.
        console: for progress.

    Returns:
        Its parameters, and the seconds that its training took.
    """
    final = folder / FINAL
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder):  # who finds another process at its training waits for the network
        stored = _load_whole(final, console)
        if stored is None:
            training = prepare()
            state, seconds = _train(folder, name, training, console)
            save(final, state.params, spec=training.spec, meta={**meta, "seconds": seconds})
            params = state.params
        else:
            params, seconds = jax.tree.map(jnp.asarray, stored.params), stored.meta["seconds"]
        _sweep(folder)
    return params, seconds


def _load_whole(path: Path, console: Console, like: Params | None = None) -> Checkpoint | None:
    """Load a checkpoint; one that is damaged is removed, and said. None: there is none."""
    try:
        return load(path, like=like)
    except FileNotFoundError:
        return None
    except CheckpointError as error:
        console.print(f"[yellow]{path} is damaged and is made again:[/] {error}", soft_wrap=True)
        shutil.rmtree(path)
        return None


def _train(folder: Path, name: str, training: Training, console: Console) -> tuple[TrainState, float]:
    options = training.options
    state, seconds = init_state(training.start, options), 0.0
    for step, path in reversed(_saved_steps(folder)):
        stored = _load_whole(path, console, like=(state.params, state.opt_state))
        if stored is not None:
            state, seconds = TrainState(*stored.params, step=step), stored.meta["seconds"]
            console.print(f"{name}: goes on at step {state.step}")
            break
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        total = num_steps(len(training.inputs), options)
        bar = progress.add_task(f"training {name}", total=total, completed=state.step)
        started = time.perf_counter() - seconds

        def on_segment(state: TrainState, loss: float) -> None:
            progress.update(bar, completed=state.step, description=f"training {name}: loss {loss:.3f}")
            if state.step < total:
                elapsed = time.perf_counter() - started
                path = folder / f"step_{state.step:07d}"
                save(path, (state.params, state.opt_state), meta={"seconds": elapsed})
                for _, old in _saved_steps(folder)[:-2]:
                    shutil.rmtree(old)

        state = train(
            training.apply_fn, state, training.inputs, training.targets, options=options, seed=training.seed,
            loss=training.loss, train_fn=training.train_fn, on_segment=on_segment,
        )  # fmt: skip
    seconds = time.perf_counter() - started
    console.print(f"trained {name} in {seconds:.0f} s")
    return state, seconds


def _sweep(folder: Path) -> None:
    """Remove what a finished training needs no more, and what a killed one left half-written."""
    for path in (*(path for _, path in _saved_steps(folder)), *folder.glob(".*")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _saved_steps(folder: Path) -> list[tuple[int, Path]]:
    """The unfinished checkpoints of a training, oldest first."""
    found = [(re.fullmatch(r"step_(\d+)", path.name), path) for path in folder.glob("step_*")]
    return sorted((int(match.group(1)), path) for match, path in found if match)
