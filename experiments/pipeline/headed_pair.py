"""Networks of different tasks whose common part is merged, and how well it does each task."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from autofusion_jax.batching import predict
from autofusion_jax.evaluation.networks import Network, SideBySide
from autofusion_jax.evaluation.scaled import PERCENT, scaled_performance
from autofusion_jax.merging.averaging.fisher_information import diagonal_fisher, gaussian_fisher
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.models.heads import READER, ClassHead, HeadedNetwork, WithHead, reordered
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.types import Params
from autofusion_jax.validation import require
from pipeline.endpoints import Pair, Run
from pipeline.split import Split

GREY_LEVELS = 255.0
FISHER_BATCH = 16


class Task(Protocol):
    """A task, once its network is trained.

    Attributes:
        name: what tables call it.
        x: inputs that merges see.
        in_percent: whether its measure is an accuracy in percent: the larger, the better.
        floor: the measure of an answer that does not look at the input.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def x(self) -> Array: ...  # noqa: D102
    @property
    def in_percent(self) -> bool: ...  # noqa: D102
    @property
    def floor(self) -> float: ...  # noqa: D102

    def measure(self, params: Params, perm: Array | None) -> float:
        """How well the task's own head does on a network's test features.

        Args:
            params: parameters of the network.
            perm: which unit of the task's own network each of its last hidden units stands for; None
                where they are in its order.
        """
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class HeadedTask:
    """A task with a head of its own, trained on its inputs and targets; a `Task`.

    Its measure is the accuracy in percent of classes, and of images the mean absolute error in grey
    levels; the floor that of the most frequent class, and of the mean of all training images.

    Attributes:
        name: what tables call it.
        x: inputs that merges see.
        network: backbone and head.
        head: parameters of the head.
        test_x: inputs that it is measured on.
        test_y: classes, or images in [0, 1].
        average: the most frequent class of training, or the mean image.
    """

    name: str
    x: Array
    network: HeadedNetwork
    head: Params
    test_x: Array
    test_y: np.ndarray
    average: np.ndarray

    @property
    def in_percent(self) -> bool:
        """Whether it has classes."""
        return isinstance(self.network.head, ClassHead)

    @property
    def floor(self) -> float:
        """The measure of the average as the answer."""
        return self._score(np.broadcast_to(self.average, self.test_y.shape))

    def measure(self, params: Params, perm: Array | None) -> float:
        """See `Task`."""
        head = self.head if perm is None else reordered(self.head, perm)
        outputs = predict(self.network.apply, {"backbone": params, "head": head}, self.test_x)
        return self._score(np.asarray(outputs.argmax(-1) if self.in_percent else outputs))

    def _score(self, answers: np.ndarray) -> float:
        if self.in_percent:
            return PERCENT * float(np.mean(answers == self.test_y))
        return GREY_LEVELS * float(np.mean(np.abs(answers - self.test_y)))

    def fisher(self, params: Params) -> Params:
        """The diagonal Fisher information of a backbone: of the classes, or of images as Gaussian means."""
        network = WithHead(self.network, self.head)
        if self.in_percent:
            return diagonal_fisher(network, params, self.x, batch_size=FISHER_BATCH)
        return gaussian_fisher(network, params, self.x, jax.random.key(0), batch_size=FISHER_BATCH)


@dataclasses.dataclass(frozen=True)
class HeadedPair(Pair):
    """Networks of different tasks, of which `models` are the parts that are merged.

    Attributes:
        tasks: one for each network.
        base: where all started, or A where each had a start of its own.
    """

    tasks: tuple[Task, ...]
    base: Params

    @property
    def start(self) -> Params:
        """The base of task vectors."""
        return self.base

    @property
    def own_inputs(self) -> tuple[Array, ...]:
        """The inputs of each task."""
        return tuple(task.x for task in self.tasks)

    def own_options(self, method: str | None) -> dict[str, Any]:
        """Also each network's Fisher information by its own head."""
        return {"fishers": self.fishers} if method == "fisher" else super().own_options(method)

    @functools.cached_property
    def fishers(self) -> tuple[Params, ...]:
        """The Fisher information of each network on its task."""
        headed = [task for task in self.tasks if isinstance(task, HeadedTask)]
        return tuple(task.fisher(params) for task, params in zip(headed, self.models, strict=True))

    @functools.cached_property
    def own(self) -> tuple[float, ...]:
        """The measure of each network on its own task."""
        return tuple(task.measure(params, None) for task, params in zip(self.tasks, self.models))

    def evaluate(self, network: Network) -> dict[str, Any]:
        """The measure on each task, and how much of that of its own network it is.

        Returns:
            `tasks` (name -> measure); where all measures are accuracies `avg`, their mean; where every
            network is better at its task than the floor `tasks_scaled` (name -> MuDSC's scaled performance
            in percent: 0 for the floor, 100 for the task's own network, Eq. 9) and `scaled`, its mean.
        """
        together = isinstance(network.apply_fn, SideBySide)
        values = {}
        for place, task in enumerate(self.tasks):
            params = network.params[place] if together else network.params
            perm = None if together else _order(self.spec, network.result, place)
            values[task.name] = task.measure(params, perm)
        means: dict[str, Any] = {"tasks": values}
        if all(task.in_percent for task in self.tasks):
            means["avg"] = float(np.mean(list(values.values())))
        own = dict(zip(values, self.own))
        floors = {task.name: task.floor for task in self.tasks}
        if all((own[task.name] > floors[task.name]) == task.in_percent for task in self.tasks):
            means["tasks_scaled"] = scaled_performance(values, own, floors)
            means["scaled"] = float(np.mean(list(means["tasks_scaled"].values())))
        return means


def _order(spec: PermSpec, result: MergeResult | None, place: int) -> Array | None:
    """In which order a merged network holds the last hidden units of the network at a place.

    Raises:
        ValueError: it does not hold each of them in one of its own.
    """
    group = next((leaf.axes[0].groups[0] for leaf in spec.leaves if leaf.path.startswith(READER)), None)
    if group is None or result is None or not result.alignments:
        return None
    perm = result.alignments[place][group]
    good = perm.ndim == 1 and jnp.issubdtype(perm.dtype, jnp.integer)
    require(good, "reproduce", "a method of networks with heads", "one by permutations", "merge matrices")
    return perm


def open_tasks(
    run: Run,
    split: Split,
    models: Sequence[Params],
    seconds: Sequence[float],
    tasks: Sequence[Task],
    base: Params,
    x: Array,
) -> HeadedPair:
    """The pair of trained networks; `x` are the inputs that methods see that take one batch for all.

    They have no labels that all networks share.
    """
    return HeadedPair(
        run, split, tuple(models), tuple(seconds), run.model.perm_spec, x,
        np.full(len(x), -1), tuple(tasks), base,
    )  # fmt: skip
