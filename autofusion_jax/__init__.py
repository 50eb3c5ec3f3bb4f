"""Merge neural networks trained on different tasks into one, in JAX."""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

# Type checkers and editors read the imports; at run time a name is imported when it is first asked for.
if TYPE_CHECKING:
    from autofusion_jax import evaluation as evaluation
    from autofusion_jax import functional as functional
    from autofusion_jax import methods as methods
    from autofusion_jax.checkpoints.convert.pretrained import load_pretrained as load_pretrained
    from autofusion_jax.checkpoints.convert.pretrained import save_pretrained as save_pretrained
    from autofusion_jax.checkpoints.orbax_io import load as load
    from autofusion_jax.checkpoints.orbax_io import save as save
    from autofusion_jax.merging.api import merge as merge
    from autofusion_jax.merging.api import merge_many as merge_many
    from autofusion_jax.merging.api import merge_repeats as merge_repeats
    from autofusion_jax.merging.files import merge_files as merge_files
    from autofusion_jax.merging.fuse import fuse as fuse
    from autofusion_jax.merging.fuse import fused_apply as fused_apply
    from autofusion_jax.merging.method import Method as Method
    from autofusion_jax.merging.registry import list_methods as list_methods
    from autofusion_jax.merging.result import MergeResult as MergeResult
    from autofusion_jax.merging.zipping.greedy import greedy_zip as greedy_zip
    from autofusion_jax.symmetry.axes import in_axis as in_axis
    from autofusion_jax.symmetry.axes import out_axis as out_axis
    from autofusion_jax.symmetry.capture import capture_sites as capture_sites
    from autofusion_jax.symmetry.capture import moments as moments
    from autofusion_jax.symmetry.check import check_perm_spec as check_perm_spec
    from autofusion_jax.symmetry.infer import infer_perm_spec as infer_perm_spec
    from autofusion_jax.symmetry.rules import register_rule as register_rule
    from autofusion_jax.symmetry.spec import Group as Group
    from autofusion_jax.symmetry.spec import PermSpec as PermSpec
    from autofusion_jax.symmetry.transform import apply_merge as apply_merge
    from autofusion_jax.symmetry.transform import apply_perm as apply_perm
    from autofusion_jax.symmetry.transform import apply_soft as apply_soft
    from autofusion_jax.symmetry.transform import compose as compose
    from autofusion_jax.symmetry.transform import identity_perms as identity_perms
    from autofusion_jax.symmetry.transform import invert as invert
    from autofusion_jax.symmetry.transform import random_perms as random_perms
    from autofusion_jax.transport.assignment import solve_assignment as solve_assignment
    from autofusion_jax.transport.sinkhorn import log_sinkhorn as log_sinkhorn

    __version__: str
else:
    _HOME = {
        "Group": "symmetry.spec",
        "MergeResult": "merging.result",
        "Method": "merging.method",
        "PermSpec": "symmetry.spec",
        "apply_merge": "symmetry.transform",
        "apply_perm": "symmetry.transform",
        "apply_soft": "symmetry.transform",
        "capture_sites": "symmetry.capture",
        "check_perm_spec": "symmetry.check",
        "compose": "symmetry.transform",
        "evaluation": "evaluation",
        "functional": "functional",
        "fuse": "merging.fuse",
        "fused_apply": "merging.fuse",
        "greedy_zip": "merging.zipping.greedy",
        "identity_perms": "symmetry.transform",
        "in_axis": "symmetry.axes",
        "infer_perm_spec": "symmetry.infer",
        "invert": "symmetry.transform",
        "list_methods": "merging.registry",
        "load": "checkpoints.orbax_io",
        "load_pretrained": "checkpoints.convert.pretrained",
        "log_sinkhorn": "transport.sinkhorn",
        "merge": "merging.api",
        "merge_files": "merging.files",
        "merge_many": "merging.api",
        "merge_repeats": "merging.api",
        "methods": "methods",
        "moments": "symmetry.capture",
        "out_axis": "symmetry.axes",
        "random_perms": "symmetry.transform",
        "register_rule": "symmetry.rules",
        "save": "checkpoints.orbax_io",
        "save_pretrained": "checkpoints.convert.pretrained",
        "solve_assignment": "transport.assignment",
    }
    __all__ = [*_HOME, "__version__"]

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            return metadata.version("autofusion_jax")
        if name not in _HOME:
            raise AttributeError(f"module 'autofusion_jax' has no attribute {name!r}")
        module = import_module(f"autofusion_jax.{_HOME[name]}")
        value = module if _HOME[name] == name else getattr(module, name)
        globals()[name] = value  # the next look-up does not come here
        return value

    def __dir__() -> list[str]:
        return __all__
