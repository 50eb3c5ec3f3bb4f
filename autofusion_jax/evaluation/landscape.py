"""The loss over the plane that lies closest to a set of networks (MuDSC, Sec. 4.3)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import Int

from autofusion_jax.arguments import NonNegative, Pytrees, checked, integer
from autofusion_jax.batching import predict
from autofusion_jax.evaluation.accuracy import Tasks, task_masks
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.partition import split
from autofusion_jax.precision import rounded, widened
from autofusion_jax.programs import jit_by_network
from autofusion_jax.symmetry.spec import PermSpec
from autofusion_jax.symmetry.transform import apply_merge, is_soft, permute
from autofusion_jax.trees import in_containers_of, is_float
from autofusion_jax.types import ApplyFn, Params
from autofusion_jax.validation import require

PANELS = ("average", "task_a", "task_b")


class Plane(NamedTuple):
    """A plane in the space of flattened parameters.

    Attributes:
        origin: the mean of the networks it was fitted to, `[d]`.
        axes: two orthonormal directions, `[2, d]`.
        coords: where the networks lie in it, `[networks, 2]`.
        explained: which share of the networks' variance each direction holds, `[2]`.
    """

    origin: Array
    axes: Array
    coords: Array
    explained: Array


class Landscape(NamedTuple):
    """Losses over a plane.

    Attributes:
        xs: coordinates along the first axis, `[columns]`.
        ys: coordinates along the second axis, `[rows]`.
        losses: `average`, `task_a` and `task_b`, each `[rows, columns]`.
        coords: where the networks lie, `[networks, 2]`.
        explained: share of their variance that each axis holds, `[2]`.
    """

    xs: np.ndarray
    ys: np.ndarray
    losses: Mapping[str, np.ndarray]
    coords: np.ndarray
    explained: np.ndarray


@checked
def merge_parents(spec: PermSpec, models: Pytrees, result: MergeResult) -> list[Params]:
    """The networks that a merge is the weighted mean of: each one brought into the merged order.

    Permutations keep a network's function; merge matrices, which also merge units of one
    network with each other, do not: then `N M_k W_k U_k` is what network k puts into the mean.

    Args:
        spec: the permutation spec.
        models: the networks that were merged.
        result: their merge, with one head and no correction.

    Returns:
        One network for each of `models`.

    Raises:
        ValueError: the result is not a mean of networks (an ensemble, several heads).
    """
    require(
        result.num_heads == 1 and len(result.alignments) == len(models), "merge_parents", "result",
        "a merge with one head and an alignment for each network",
        f"{result.num_heads} head(s), {len(result.alignments)} alignments",
    )  # fmt: skip
    count = len(models)
    parents = []
    for params, alignment, weight in zip(models, result.alignments, result.weights):
        if is_soft(alignment) and weight == 1.0:  # merge matrices carry the weight themselves
            unmerge = {
                name: jnp.swapaxes(matrix != 0, -1, -2).astype(matrix.dtype)
                for name, matrix in alignment.items()
            }
            scaled = {name: matrix * count for name, matrix in alignment.items()}
            parents.append(apply_merge(spec, params, scaled, unmerge))
        else:
            parents.append(permute(spec, params, alignment))
    return parents


@checked
def pca_plane(networks: Pytrees) -> Plane:
    """Fit a plane to networks: the first two principal components of their flattened parameters.

    Args:
        networks: three or more of one structure, not all on one line.

    Returns:
        The plane. The sign of each axis is the one that makes the first network's coordinate
        negative.

    Raises:
        ValueError: fewer than three networks, or all on one line.
    """
    require(len(networks) >= 3, "pca_plane", "networks", "three or more", len(networks))
    networks = [in_containers_of(networks[0], params) for params in networks]
    vectors = jnp.stack([ravel_pytree(_floats(params))[0] for params in networks])  # [networks, d]
    origin = vectors.mean(0)
    centred = vectors - origin
    values, directions = np.linalg.eigh(np.asarray(centred @ centred.T, np.float64))  # ascending
    values, directions = values[::-1][:2], directions[:, ::-1][:, :2]
    total = float(jnp.vdot(centred, centred))
    require(
        bool(values[1] > 1e-6 * total), "pca_plane", "networks", "not all on one line",
        f"a second component with {values[1] / max(total, 1e-30):.1e} of the variance",
    )  # fmt: skip
    directions = directions * np.where(directions[0] > 0, -1, 1)
    axes = jnp.asarray(directions / np.sqrt(values), vectors.dtype).T @ centred
    return Plane(origin, axes, centred @ axes.T, jnp.asarray(values / total))


@checked
def loss_landscape(
    apply_fn: ApplyFn,
    networks: Pytrees,
    x: Any,
    labels: Int[np.ndarray, " n"] | Int[np.ndarray, "tasks n"],
    tasks: Tasks,
    *,
    points: Annotated[int, integer(least=2)] = 25,
    margin: NonNegative = 0.25,
    prepare: Callable[[Params], Params] | None = None,
) -> Landscape:
    """Evaluate the loss of each task over the plane through networks, as one program.

    The loss of a task is the mean cross-entropy over its inputs, of the softmax over the task's
    own classes. Leaves that are not floats are the first network's.

    Args:
        apply_fn: the networks' function, returns logits `[n, classes]`.
        networks: three or more networks; `pca_plane` is fitted to them.
        x: inputs.
        labels: true classes, or one row for each task, see `evaluate`.
        tasks: the classes of task A and of task B.
        points: points of the grid along each axis, >= 2.
        margin: how far the grid goes beyond the networks, relative to their spread, >= 0.
        prepare: applied to every network of the grid before it runs, for example to measure
            BatchNorm statistics anew; traceable.

    Returns:
        The losses on the grid.

    Raises:
        ValueError: an argument is out of its range, or see `pca_plane`.

    References:
        Xu, Yuan, Wang, Wang, Song, Song: Training-Free Pretrained Model Merging, CVPR 2024,
        Sec. 4.3 and Fig. 3.
    """
    require(len(tasks) == 2, "loss_landscape", "tasks", "two lists of classes", len(tasks))
    networks, rest = [split(in_containers_of(networks[0], n))[0] for n in networks], split(networks[0])[1]
    plane = pca_plane(networks)
    low, high = np.asarray(plane.coords.min(0)), np.asarray(plane.coords.max(0))
    reach = margin * (high - low)
    xs, ys = (np.linspace(low[i] - reach[i], high[i] + reach[i], points, dtype=np.float32) for i in (0, 1))
    grid = jnp.asarray(np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2))
    masks = task_masks(labels, tasks)
    by_task = np.broadcast_to(labels, (len(tasks), labels.shape[-1]))
    positions = [_positions(row, mask, task) for row, mask, task in zip(by_task, masks, tasks)]
    classes = tuple(tuple(task) for task in tasks)
    a, b = _losses(
        rest.bind(apply_fn), prepare and rest.around(prepare), classes, networks[0], plane, grid, x,
        jnp.asarray(np.stack(positions)), jnp.asarray(masks, jnp.float32),
    )  # fmt: skip
    losses = {
        name: np.asarray(values).reshape(points, points) for name, values in zip(PANELS, ((a + b) / 2, a, b))
    }
    return Landscape(xs, ys, losses, np.asarray(plane.coords), np.asarray(plane.explained))


@jit_by_network(static_argnames=("prepare", "tasks"))
def _losses(
    apply_fn: ApplyFn,
    prepare: Callable[[Params], Params] | None,
    tasks: tuple[tuple[int, ...], ...],
    like: Params,
    plane: Plane,
    grid: Array,
    x: Array,
    positions: Array,
    masks: Array,
) -> Array:
    """The loss of each task at each point of the grid, `[tasks, points]`."""
    _, unravel = ravel_pytree(_floats(like))

    def one(point: Array) -> Array:
        params = _with_floats(like, unravel(plane.origin + point @ plane.axes))
        outputs = predict(apply_fn, params if prepare is None else prepare(params), x)
        losses = []
        for task, position, mask in zip(tasks, positions, masks):
            log_probs = jax.nn.log_softmax(outputs[:, jnp.asarray(task)])
            right = jnp.take_along_axis(log_probs, position[:, None], axis=1)[:, 0]
            losses.append(-jnp.sum(mask * right) / mask.sum())
        return jnp.stack(losses)

    return jax.lax.map(one, grid).T


def _positions(labels: np.ndarray, mask: np.ndarray, task: Sequence[int]) -> np.ndarray:
    """The place of each label among the task's classes; 0 for inputs of other tasks."""
    lookup = {label: place for place, label in enumerate(task)}
    return np.array([lookup[int(label)] if ours else 0 for label, ours in zip(labels, mask)], np.int32)


def _floats(params: Params) -> list[Array]:
    return [widened(leaf) for leaf in jax.tree.leaves(params) if is_float(leaf)]


def _with_floats(like: Params, floats: list[Array]) -> Params:
    leaves, tree = jax.tree.flatten(like)
    rest = iter(floats)
    return tree.unflatten(
        [rounded(next(rest), jnp.result_type(leaf)) if is_float(leaf) else leaf for leaf in leaves]
    )
