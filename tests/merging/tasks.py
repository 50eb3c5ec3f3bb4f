"""What tests of merging methods share: tasks, and networks that know only some of the classes."""

import jax
import jax.numpy as jnp

from autofusion_jax.merging.method import MergeTask
from autofusion_jax.merging.teachers import Targets, find_targets


def task_of(model, models, x, y=None):
    return MergeTask(tuple(models), model.perm_spec, model.apply, x, y)


def confident_targets(model, models, x) -> Targets:
    return find_targets("test", task_of(model, models, x), pseudo_labels="confidence", zeta=0.0)


def blobs(num_classes: int, num: int, shape: tuple[int, ...], seed: int = 0):
    """Well-separated classes: inputs `[num, *shape]` and labels `[num]`."""
    centre_key, noise_key = jax.random.split(jax.random.key(seed))
    labels = jnp.arange(num) % num_classes
    centres = 2.0 * jax.random.normal(centre_key, (num_classes, *shape))
    return centres[labels] + 0.5 * jax.random.normal(noise_key, (num, *shape)), labels
