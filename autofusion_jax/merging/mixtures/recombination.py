"""Model recombination: N networks exchange their layers and become N new ones."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Int, Key

from autofusion_jax.merging.leafwise import aligned_result
from autofusion_jax.merging.method import MergeTask, Method, factory
from autofusion_jax.merging.mixtures.modules import modules_of
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.types import Params


@factory
def recombination(*, level: Literal["module", "leaf"] = "module") -> Method:
    """Shuffle every module among the networks: in module l, new network i is network `sigma_l(i)`,

    `sigma_l` a permutation of the N networks drawn for each module l. Nothing is averaged, nothing lost.

    Args:
        level: what stays together: `"module"`, leaves whose paths are the same but for the last name, such as
            the kernel and the bias of a layer; or `"leaf"`, nothing.

    Returns:
        A method for any number of networks that needs no data. The result is the first new network;
        `variants` has all, as `"network_0"` and so on, and `diagnostics["sources"]` `[N, leaves]` the
        network that each leaf comes from, leaves in the order of `jax.tree.leaves`. `recombine` is its
        formula as a pure function, vmap-able over the sources.

    Raises:
        ValueError: an unknown level.

    References:
        Hu, Yue, Ling, Chen, Wei, Liu, Chen: FedMR: federated learning via model recombination, 2023;
        FusionBench, Table 1.

    Example:
        >>> import autofusion_jax as af
        >>> models = [{"w": jnp.array([n]), "v": jnp.array([n])} for n in (1.0, 2.0)]
        >>> result = af.merge_many(models, None, None, method="recombination")
        >>> sorted(float(new["w"][0]) for new in result.variants.values())
        [1.0, 2.0]
    """

    def run(task: MergeTask, key: Array) -> MergeResult:
        return _recombined(task, level, key)

    return Method("recombination", run, max_models=None, assumes_aligned=True)


def _recombined(task: MergeTask, level: str, key: Key[Array, ""]) -> MergeResult:
    num, first = len(task.models), task.models[0]
    modules = list(modules_of(first).values())
    if level == "leaf":
        modules = [(leaf,) for leaf in sorted(sum(modules, ()))]
    sources = draw_sources(key, num, modules)
    variants = {f"network_{i}": recombine(task.models, sources[i]) for i in range(num)}
    result = aligned_result(task, variants["network_0"], variants=variants, diagnostics={"sources": sources})
    return result


def draw_sources(
    key: Key[Array, ""], num: int, modules: Sequence[tuple[int, ...]]
) -> Int[Array, "models leaves"]:
    """A random permutation of the networks for each module, the same for all its leaves.

    Args:
        key: random key.
        num: how many networks there are.
        modules: the numbers of the leaves of each module.

    Example:
        >>> draw_sources(jax.random.key(0), 2, [(0, 1), (2,)]).sum(0).tolist()
        [1, 1, 1]
    """
    orders = jax.vmap(lambda k: jax.random.permutation(k, num))(jax.random.split(key, len(modules)))
    module_of = {leaf: number for number, module in enumerate(modules) for leaf in module}
    return orders[jnp.array([module_of[leaf] for leaf in range(len(module_of))])].T


@jax.jit
def recombine(models: Sequence[Params], sources: Int[Array, " leaves"]) -> Params:
    """A network whose leaf l is that of `models[sources[l]]`.

    Args:
        models: parameters of one structure.
        sources: a network's number for each leaf, in the order of `jax.tree.leaves`.

    Example:
        >>> models = [{"v": jnp.zeros(1), "w": jnp.zeros(1)}, {"v": jnp.ones(1), "w": jnp.ones(1)}]
        >>> recombine(models, jnp.array([0, 1]))
        {'v': Array([0.], dtype=float32), 'w': Array([1.], dtype=float32)}
    """
    leaves = zip(*map(jax.tree.leaves, models))
    mixed = [jnp.stack(values)[source] for values, source in zip(leaves, sources)]
    return jax.tree.unflatten(jax.tree.structure(models[0]), mixed)
