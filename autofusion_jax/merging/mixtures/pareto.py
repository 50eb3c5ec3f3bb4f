"""PWE-MoE: task vectors weighed by gates on a preference, so that one network holds a Pareto set."""

import dataclasses
import operator
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Bool, Float, Key

from autofusion_jax.arguments import Count, NonNegativeWeights, Positive, integer
from autofusion_jax.merging.adaptive.adamerging import add_task_vectors_by
from autofusion_jax.merging.adaptive.adaptation import (
    descend,
    finite_curve,
    mean_entropy,
)
from autofusion_jax.merging.ensembles.members import logits_shape, stack_members
from autofusion_jax.merging.leafwise import aligned_result
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.mixtures.modules import modules_of
from autofusion_jax.merging.per_model_inputs import Batches, inputs_of_each
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.precision import length, scale_of, wide_dtype
from autofusion_jax.programs import jit_by_network
from autofusion_jax.trees import is_float, num_params
from autofusion_jax.types import ApplyFn, Params
from autofusion_jax.validation import require

BALANCED = 1e-4
"""Losses stand as the preference says if their divergence from it is no larger."""

ROUNDING = 1e-5
"""A direction that is no longer, as a share of what it is made of, is taken for a rounding error."""

STEPS = 1000
"""Steps of the primal-dual method in `simplex_program`."""
Gates = dict[str, dict[str, Array]]
"""`out`, and `hidden` before it if there is one: `kernel [modules, read, made]`, `bias [modules, made]`."""


@dataclasses.dataclass(frozen=True)
class ParetoOptions:
    """How gates are learned; see `pareto`."""

    variant: str
    scale: float
    depth: int
    concentration: float
    learning_rate: float
    num_steps: int
    batch_size: int


@dataclasses.dataclass(frozen=True)
class ParetoNetwork:
    """The program of a network with a preference; call it like any `apply_fn`.

    Attributes:
        apply_fn: the function of the networks that it was made of.
    """

    apply_fn: ApplyFn

    def __call__(self, params: Params, x: Any) -> Any:
        """The outputs at the preference in `params`."""
        return self.apply_fn(at_preference(params), x)


def pareto_apply(apply_fn: ApplyFn) -> ParetoNetwork:
    """The function of a network that `pareto` made, from the function of the networks it was made of."""
    return ParetoNetwork(apply_fn)


@factory
def pareto(
    *,
    preference: NonNegativeWeights | None = None,
    variant: Literal["ls", "epo"] = "ls",
    scale: Positive = 0.3,
    depth: Annotated[int, integer(least=1, most=2)] = 2,
    concentration: Positive = 1.0,
    learning_rate: Positive = 1e-3,
    num_steps: Count = 1000,
    batch_size: Count = 16,
    inputs: Batches | None = None,
) -> Method:
    """Learn gates that turn any preference among the tasks into a merged network:

    `base + sum_k g_m(r)_k (params_k - base)` for the leaves of every module m, `r` the preference, `g_m` a
    small network. Every step of Adam draws r from a Dirichlet distribution and weighs the tasks' losses by
    it: the mean entropy of predictions on each task's inputs, or the cross-entropy where it has labels.

    Args:
        preference: how much each task counts, >= 0, with a sum above 0, brought to 1; all the same if left
            out. Only the result depends on it, not what is learned.
        variant: how losses are weighed: `"ls"`, by the preference itself (linear scalarisation); `"epo"`,
            so that `r_k loss_k` come to be the same (exact Pareto optimal search, see `task_weights`).
        scale: what all gates answer at first, > 0.
        depth: layers of the gates, in [1, 2]; a hidden one has ReLU and twice as many units as there are
            tasks.
        concentration: of the Dirichlet distribution, > 0; 1: all preferences are as likely.
        learning_rate: of Adam at the start, > 0; it falls to a tenth along a cosine.
        num_steps: how many steps it takes, >= 1.
        batch_size: inputs of each task in a step, >= 1.
        inputs: for each network inputs `[N, ...]` of its own data, or a pair `(x, y)`. Without them all tasks
            have one loss, that of the batch of the merge, and there is nothing to prefer.

    Returns:
        A method for any number of networks; needs `base`, inputs and an `apply_fn`, no spec. Leaves are
        of one module if their paths are the same but for the last name. `params` is `{"base", "models":
        stacked, "gates", "preference": [tasks]}`: put in another preference, or sweep it by one `vmap`;
        `pareto_apply` makes the `apply_fn` again, and `at_preference` gives a network of the old structure.
        `history["losses"]` is `[steps, tasks]`.

    Raises:
        ValueError: an option is out of its range, or the networks do not give logits.

    References:
        Tang, Shen, Luo, Liu, Hu, Du: Towards efficient Pareto set approximation via mixture of experts
        based model fusion, 2024; Mahapatra, Rajan: Multi-task learning with user preferences, ICML 2020.

    Example:
        >>> pareto(preference=[0.2, 0.8], variant="epo").name
        'pareto'
    """
    options = ParetoOptions(variant, scale, depth, concentration, learning_rate, num_steps, batch_size)

    def run(task: MergeTask, key: Array) -> MergeResult:
        ray = _ray(preference, len(task.models))
        data = tuple(inputs_of_each("pareto", task, inputs))
        logits_shape("pareto", dataclasses.replace(task, x=data[0][0]))
        return _learned(task, options, ray, data, key)

    return Method("pareto", run, max_models=None, assumes_aligned=True, needs_base=True, changes_program=True)


def _ray(preference: Sequence[int | float] | None, num: int) -> Float[Array, " tasks"]:
    if preference is None:
        return jnp.full(num, 1 / num)
    require(
        len(preference) == num, "pareto", "preference", f"{num} numbers, one for each network", preference
    )
    return jnp.asarray(preference, float) / sum(preference)


def _learned(
    task: MergeTask,
    options: ParetoOptions,
    ray: Float[Array, " tasks"],
    data: tuple[tuple[Array, Array | None], ...],
    key: Key[Array, ""],
) -> MergeResult:
    apply_fn = task.require_apply_fn()
    stacked = {"base": task.require_base(), "models": stack_members(task.models)}
    gates, losses = learn_gates(apply_fn, options, stacked, data, key)
    params = {**stacked, "gates": gates, "preference": ray}
    result = aligned_result(
        task, params, history={"losses": finite_curve("pareto", "the losses", losses)},
        num_learned=num_params(gates), diagnostics={"num_params": num_params(params)},
    )  # fmt: skip
    return dataclasses.replace(result, apply_fn=pareto_apply(apply_fn), alignments=())


@jax.jit
def at_preference(params: Params) -> Params:
    """The merged network at the preference that parameters of `pareto` hold.

    Args:
        params: `base`, `models` stacked, `gates` and `preference`.

    Example:
        >>> gates = {"out": {"kernel": jnp.eye(2)[None], "bias": jnp.zeros((1, 2))}}  # as preferred
        >>> params = {"base": {"w": jnp.zeros(1)}, "models": {"w": jnp.array([[1.0], [3.0]])}, "gates": gates}
        >>> sweep = jax.vmap(lambda ray: at_preference({**params, "preference": ray}))
        >>> sweep(jnp.array([[1.0, 0.0], [0.5, 0.5]]))["w"].tolist()
        [[1.0], [2.0]]
    """
    num = len(params["preference"])
    models = [jax.tree.map(operator.itemgetter(number), params["models"]) for number in range(num)]
    weights = gate_weights(params["gates"], params["preference"])
    module_of = {leaf: number for number, m in enumerate(modules_of(params["base"]).values()) for leaf in m}
    floats = [leaf for leaf, value in enumerate(jax.tree.leaves(params["base"])) if is_float(value)]
    columns = weights[jnp.array([module_of[leaf] for leaf in floats], int)].T
    return add_task_vectors_by(params["base"], models, columns)


def gate_weights(gates: Gates, preference: Float[Array, " tasks"]) -> Float[Array, "modules tasks"]:
    """How much of each task vector each module takes at a preference.

    Args:
        gates: of all modules.
        preference: the ray.
    """
    seen = jnp.broadcast_to(preference, (len(gates["out"]["bias"]), len(preference)))
    if "hidden" in gates:
        seen = jax.nn.relu(_affine(gates["hidden"], seen))
    return _affine(gates["out"], seen)


def _affine(layer: dict[str, Array], seen: Float[Array, "modules read"]) -> Float[Array, "modules made"]:
    return jnp.einsum("mr,mrk->mk", seen, layer["kernel"]) + layer["bias"]


def _start(options: ParetoOptions, modules: int, tasks: int, key: Key[Array, ""]) -> Gates:
    """Gates that answer `scale` to every preference, but for a little noise."""
    hidden_key, out_key = jax.random.split(key)
    width = 2 * tasks if options.depth == 2 else tasks
    kernel = 0.01 * jax.random.normal(out_key, (modules, width, tasks))
    gates = {"out": {"kernel": kernel, "bias": jnp.full((modules, tasks), options.scale)}}
    if options.depth == 1:
        return gates
    kernel = 0.01 * jax.random.normal(hidden_key, (modules, tasks, width))
    return gates | {"hidden": {"kernel": kernel, "bias": jnp.zeros((modules, width))}}


@jit_by_network(static_argnames=("options",))
def learn_gates(
    apply_fn: ApplyFn,
    options: ParetoOptions,
    stacked: dict[str, Params],
    data: tuple[tuple[Array, Array | None], ...],
    key: Key[Array, ""],
) -> tuple[Gates, Float[Array, "steps tasks"]]:
    """Learn the gates of all modules.

    Args:
        apply_fn: the networks' function.
        options: how.
        stacked: `base`, and `models` with a leading axis.
        data: for each task inputs, and labels or None.
        key: decides where the gates start, the batches and the preferences.

    Returns:
        The gates, and the loss of every task before each step.
    """
    num = len(data)
    start_key, key = jax.random.split(key)
    schedule = optax.cosine_decay_schedule(options.learning_rate, options.num_steps, alpha=0.1)

    def losses(gates: Gates, ray: Array, batches: list[tuple[Array, Array | None]]) -> Array:
        params = at_preference({**stacked, "gates": gates, "preference": ray})
        return jnp.stack([_loss(apply_fn(params, x), y) for x, y in batches])

    def gradient(gates: Gates, batches: list[Any], key: Array) -> tuple[Array, Gates]:
        ray = jax.random.dirichlet(key, jnp.full(num, options.concentration))
        found, pull = jax.vjp(lambda gates: losses(gates, ray, batches), gates)
        weights = ray
        if options.variant == "epo":
            each = jax.tree.leaves(jax.vmap(pull)(jnp.eye(num)))
            flat = jnp.concatenate([leaf.reshape(num, -1) for leaf in each], axis=1)
            flat = flat / scale_of(flat)  # weights are the same for gradients of any size
            weights = num * task_weights(found, flat @ flat.T, ray)
        return found, pull(weights)[0]

    start = _start(options, len(modules_of(stacked["base"])), num, start_key)
    return descend(
        gradient, start, data, key,
        learning_rate=schedule, num_steps=options.num_steps, batch_size=options.batch_size,
    )  # fmt: skip


def _loss(logits: Float[Array, "*batch classes"], labels: Array | None) -> Float[Array, ""]:
    if labels is None:
        return mean_entropy(logits)
    logits = logits.astype(wide_dtype(logits.dtype))
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def task_weights(
    losses: Float[Array, " tasks"], products: Float[Array, "tasks tasks"], preference: Float[Array, " tasks"]
) -> Float[Array, " tasks"]:
    """Weigh tasks so that a step along their gradients brings all `preference[t] * losses[t]` together.

    With `l = preference * losses`, `p = l / sum(l)`, `mu = sum_t p_t log(T p_t)` and the direction
    `a_t = preference_t (log(T p_t) - mu)`, alpha is on the simplex, C the products of the gradients, and

    - where `mu > BALANCED`, alpha maximises `alpha . (C a)`; the largest of l may not rise, `C alpha >= 0`,
      nor any that a would raise by more than that, `C alpha >= C a`; if a lowers none, none may rise;
    - elsewhere alpha maximises `sum(C alpha)`; none may rise, and `alpha . (C a) >= min(max(C a), 0)`.

    Args:
        losses: of the tasks, >= 0.
        products: `<grad l_s, grad l_t>`.
        preference: how much each task counts, > 0: the losses of an exact solution are inverse to it.

    References:
        Mahapatra, Rajan: Multi-task learning with user preferences: gradient descent with controlled
        ascent in Pareto optimization, ICML 2020, Algorithm 1.

    Example:
        >>> task_weights(jnp.array([4.0, 1.0]), jnp.eye(2), jnp.array([0.5, 0.5])).round(2).tolist()
        [1.0, 0.0]
    """
    weighted = preference * losses
    total = weighted.sum()
    share = jnp.where(total > 0, weighted / jnp.where(total > 0, total, 1), 1 / len(losses))
    logs = jnp.log(jnp.maximum(share * len(losses), 1e-12))
    divergence = (share * logs).sum()
    pull = products @ (preference * (logs - divergence))

    falls, worst = pull > 0, weighted >= weighted.max()
    may_rise = jnp.where(worst | ~falls.any(), 0.0, pull)  # as fast as balance asks for, where it does
    balance = (pull, jnp.append(may_rise, 0.0), jnp.append(~falls | worst | ~falls.any(), False))
    limits = jnp.zeros(len(losses) + 1).at[-1].set(jnp.minimum(pull.max(), 0.0))
    pulls = length(pull) > ROUNDING * length(products)
    descent = (products.sum(0), limits, jnp.append(jnp.ones(len(losses), bool), pulls))
    gain, bounds, watched = (
        jnp.where(divergence > BALANCED, one, other) for one, other in zip(balance, descent)
    )
    return simplex_program(gain, jnp.concatenate([products, pull[None]]), bounds, watched)


def simplex_program(
    gain: Float[Array, " tasks"],
    rows: Float[Array, "rules tasks"],
    bounds: Float[Array, " rules"],
    watched: Bool[Array, " rules"],
) -> Float[Array, " tasks"]:
    """Maximise `gain . w` over the simplex under `rows @ w >= bounds`, by `STEPS` primal-dual steps.

    The primal-dual hybrid gradient method on rules brought to length 1; the mean of the second half of its
    steps is a point of the simplex that keeps the rules and reaches the maximum up to about 1e-2
    of their length.

    Args:
        gain: what is maximised.
        rows: the rules.
        bounds: theirs.
        watched: which rules count.

    References:
        Chambolle, Pock: A first-order primal-dual algorithm for convex problems with applications to
        imaging, Journal of Mathematical Imaging and Vision 2011.

    Example:
        >>> rows, watched = jnp.array([[0.0, 1.0]]), jnp.array([True])  # w_1 >= 1/4
        >>> simplex_program(jnp.array([1.0, 0.0]), rows, jnp.array([0.25]), watched).round(2).tolist()
        [0.75, 0.25]
    """
    lengths = length(rows, 1)
    lengths = jnp.where(watched & (lengths > 0), lengths, 1.0)
    rules, limits = jnp.where(watched[:, None], rows, 0.0) / lengths[:, None], bounds / lengths
    limits = jnp.where(watched, limits, -1.0)
    target = gain / jnp.where(length(gain) > 0, length(gain), 1.0)
    size = 0.9 / jnp.maximum(jnp.linalg.norm(rules), 1.0)
    start = jnp.full(gain.shape, 1 / len(gain))

    def step(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
        weights, prices = state
        new = _on_simplex(weights + size * (target + rules.T @ prices))
        prices = jnp.maximum(prices + size * (limits - rules @ (2 * new - weights)), 0.0)
        return (new, prices), new

    _, path = jax.lax.scan(step, (start, jnp.zeros(len(bounds))), length=STEPS)
    return path[STEPS // 2 :].mean(0)


def _on_simplex(point: Float[Array, " n"]) -> Float[Array, " n"]:
    """The nearest point whose entries are not below 0 and add up to 1."""
    falling = jnp.sort(point)[::-1]
    excess = (jnp.cumsum(falling) - 1) / jnp.arange(1, len(point) + 1)
    last = jnp.sum(falling > excess) - 1
    return jnp.maximum(point - excess[last], 0.0)
