"""The one table of merging methods. A new method is one file, one line here, one test file."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from autofusion_jax.merging.adaptive.adamerging import adamerging
from autofusion_jax.merging.adaptive.concrete import concrete
from autofusion_jax.merging.adaptive.surgery import surgery
from autofusion_jax.merging.autofusion.autofusion import autofusion
from autofusion_jax.merging.autofusion.sinkhorn_rebasin import sinkhorn_rebasin
from autofusion_jax.merging.averaging.average import average
from autofusion_jax.merging.averaging.fisher import fisher
from autofusion_jax.merging.averaging.interpolation import interpolation
from autofusion_jax.merging.averaging.karcher import karcher
from autofusion_jax.merging.averaging.model_stock import model_stock
from autofusion_jax.merging.averaging.multislerp import multislerp
from autofusion_jax.merging.averaging.slerp import slerp
from autofusion_jax.merging.averaging.weighted_average import weighted_average
from autofusion_jax.merging.ensembles.confidence import confidence_ensemble
from autofusion_jax.merging.ensembles.em import em_ensemble
from autofusion_jax.merging.ensembles.maximum import max_model
from autofusion_jax.merging.ensembles.simple import simple_ensemble
from autofusion_jax.merging.ensembles.weighted import weighted_ensemble
from autofusion_jax.merging.ensembles.z import z_ensemble
from autofusion_jax.merging.matching.activation_matching import activation_matching
from autofusion_jax.merging.matching.c2m3 import c2m3
from autofusion_jax.merging.matching.ot_fusion import ot_fusion
from autofusion_jax.merging.matching.ste import ste
from autofusion_jax.merging.matching.weight_matching import weight_matching
from autofusion_jax.merging.mixtures.depth_upscaling import depth_upscaling
from autofusion_jax.merging.mixtures.moe_merging import moe_merging
from autofusion_jax.merging.mixtures.moe_upscaling import moe_upscaling
from autofusion_jax.merging.mixtures.pareto import pareto
from autofusion_jax.merging.mixtures.recombination import recombination
from autofusion_jax.merging.mixtures.smile import smile
from autofusion_jax.merging.mixtures.wemoe import wemoe
from autofusion_jax.merging.regression.pleas import pleas
from autofusion_jax.merging.regression.prune_concat import prune_concat
from autofusion_jax.merging.regression.prune_concat_distill import prune_concat_distill
from autofusion_jax.merging.regression.regmean import regmean
from autofusion_jax.merging.result import Method
from autofusion_jax.merging.task_vectors.breadcrumbs import breadcrumbs
from autofusion_jax.merging.task_vectors.consensus import consensus
from autofusion_jax.merging.task_vectors.dare import dare
from autofusion_jax.merging.task_vectors.iso_c import iso_c
from autofusion_jax.merging.task_vectors.iso_cts import iso_cts
from autofusion_jax.merging.task_vectors.magmax import magmax
from autofusion_jax.merging.task_vectors.sce import sce
from autofusion_jax.merging.task_vectors.task_arithmetic import task_arithmetic
from autofusion_jax.merging.task_vectors.ties import ties
from autofusion_jax.merging.task_vectors.tsv import tsv
from autofusion_jax.merging.task_vectors.wudi import wudi
from autofusion_jax.merging.zipping.mudsc import mudsc
from autofusion_jax.merging.zipping.zipit import zipit
from autofusion_jax.validation import unknown_name

METHODS: dict[str, Callable[..., Method]] = {
    "activation_matching": activation_matching,
    "adamerging": adamerging,
    "autofusion": autofusion,
    "autofusion_paper": functools.partial(autofusion, preset="paper"),
    "average": average,
    "prune_concat_distill": prune_concat_distill,
    "breadcrumbs": breadcrumbs,
    "c2m3": c2m3,
    "concrete": concrete,
    "confidence_ensemble": confidence_ensemble,
    "consensus": consensus,
    "dare": dare,
    "depth_upscaling": depth_upscaling,
    "em_ensemble": em_ensemble,
    "fisher": fisher,
    "interpolation": interpolation,
    "iso_c": iso_c,
    "iso_cts": iso_cts,
    "karcher": karcher,
    "magmax": magmax,
    "max_model": max_model,
    "model_stock": model_stock,
    "moe_merging": moe_merging,
    "moe_upscaling": moe_upscaling,
    "mudsc": mudsc,
    "multislerp": multislerp,
    "ot_fusion": ot_fusion,
    "pareto": pareto,
    "pleas": pleas,
    "prune_concat": prune_concat,
    "recombination": recombination,
    "regmean": regmean,
    "sce": sce,
    "simple_ensemble": simple_ensemble,
    "sinkhorn_rebasin": sinkhorn_rebasin,
    "slerp": slerp,
    "smile": smile,
    "ste": ste,
    "surgery": surgery,
    "task_arithmetic": task_arithmetic,
    "ties": ties,
    "tsv": tsv,
    "weight_matching": weight_matching,
    "weighted_average": weighted_average,
    "weighted_ensemble": weighted_ensemble,
    "wemoe": wemoe,
    "wudi": wudi,
    "z_ensemble": z_ensemble,
    "zipit": zipit,
}

methods = SimpleNamespace(**METHODS)


def list_methods() -> tuple[str, ...]:
    """The names of all methods, sorted."""
    return tuple(sorted(METHODS))


def get_method(name: str, **options: Any) -> Method:
    """Build a method by name.

    Args:
        name: one of `list_methods()`.
        options: keyword arguments of its factory.

    Raises:
        ValueError: unknown name or option; lists the known ones and the nearest match.
    """
    if name not in METHODS:
        raise unknown_name("merge", "method", name, METHODS)
    known = inspect.signature(METHODS[name]).parameters
    checks_itself = any(p.kind is p.VAR_KEYWORD for p in known.values())
    for option in options:
        if option not in known and not checks_itself:
            raise unknown_name(f"merge: {name}", "option", option, known)
    method = METHODS[name](**options)
    if checks_itself:  # and says itself what its options are
        return method
    bound = inspect.signature(METHODS[name]).bind(**options)
    bound.apply_defaults()
    return dataclasses.replace(method, options=bound.arguments)


def as_method(method: str | Method, options: dict[str, Any]) -> Method:
    """Build a method by name, or take one as it is.

    Raises:
        ValueError: unknown name or option, or options for a method that has its own already.
    """
    if isinstance(method, str):
        return get_method(method, **options)
    if options:
        raise ValueError(
            f"merge: options must be given to the method itself when it is not a name; got {list(options)}. "
            f"Write methods.{method.name}({', '.join(f'{o}=...' for o in options)})."
        )
    return method
