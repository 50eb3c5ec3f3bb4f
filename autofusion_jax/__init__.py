"""Merge neural networks trained on different tasks into one, in JAX."""

from autofusion_jax import functional, methods
from autofusion_jax.checkpoints.convert.pretrained import load_pretrained, save_pretrained
from autofusion_jax.checkpoints.orbax_io import load, save
from autofusion_jax.merging.api import merge, merge_many, merge_repeats
from autofusion_jax.merging.files import merge_files
from autofusion_jax.merging.fuse import fuse, fused_apply
from autofusion_jax.merging.method import Method
from autofusion_jax.merging.registry import list_methods
from autofusion_jax.merging.result import MergeResult
from autofusion_jax.merging.zipping.greedy import greedy_zip
from autofusion_jax.symmetry.axes import in_axis, out_axis
from autofusion_jax.symmetry.capture import capture_sites, moments
from autofusion_jax.symmetry.check import check_perm_spec
from autofusion_jax.symmetry.infer import infer_perm_spec
from autofusion_jax.symmetry.rules import register_rule
from autofusion_jax.symmetry.spec import Group, PermSpec
from autofusion_jax.symmetry.transform import (
    apply_merge,
    apply_perm,
    apply_soft,
    compose,
    identity_perms,
    invert,
    random_perms,
)
from autofusion_jax.transport.assignment import solve_assignment
from autofusion_jax.transport.sinkhorn import log_sinkhorn

__all__ = [
    "Group",
    "MergeResult",
    "Method",
    "PermSpec",
    "apply_merge",
    "apply_perm",
    "apply_soft",
    "capture_sites",
    "check_perm_spec",
    "compose",
    "functional",
    "fuse",
    "fused_apply",
    "greedy_zip",
    "identity_perms",
    "in_axis",
    "infer_perm_spec",
    "invert",
    "list_methods",
    "load",
    "load_pretrained",
    "log_sinkhorn",
    "merge",
    "merge_files",
    "merge_many",
    "merge_repeats",
    "methods",
    "moments",
    "out_axis",
    "random_perms",
    "register_rule",
    "save",
    "save_pretrained",
    "solve_assignment",
]
