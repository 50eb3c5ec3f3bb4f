"""The one table of merging methods: a factory for each, with its options as typed keyword arguments.

Every factory returns a `Method`, its options checked and bound, for `merge`, `merge_many`, `merge_files`:

    result = af.merge(params_a, params_b, spec, batch, method=af.methods.zipit(a=0.3, b=0.1))

`help(af.methods.zipit)` says what its options are. A new method is one file, one line here, and one row of
`tests/merging/test_contracts.py`.
"""

from autofusion_jax.merging.adaptive.adamerging import adamerging as adamerging
from autofusion_jax.merging.adaptive.concrete import concrete as concrete
from autofusion_jax.merging.adaptive.surgery import surgery as surgery
from autofusion_jax.merging.autofusion.autofusion import autofusion as autofusion
from autofusion_jax.merging.autofusion.autofusion import autofusion_paper as autofusion_paper
from autofusion_jax.merging.autofusion.sinkhorn_rebasin import sinkhorn_rebasin as sinkhorn_rebasin
from autofusion_jax.merging.averaging.average import average as average
from autofusion_jax.merging.averaging.fisher import fisher as fisher
from autofusion_jax.merging.averaging.interpolation import interpolation as interpolation
from autofusion_jax.merging.averaging.karcher import karcher as karcher
from autofusion_jax.merging.averaging.model_stock import model_stock as model_stock
from autofusion_jax.merging.averaging.multislerp import multislerp as multislerp
from autofusion_jax.merging.averaging.slerp import slerp as slerp
from autofusion_jax.merging.averaging.weighted_average import weighted_average as weighted_average
from autofusion_jax.merging.ensembles.confidence import confidence_ensemble as confidence_ensemble
from autofusion_jax.merging.ensembles.em import em_ensemble as em_ensemble
from autofusion_jax.merging.ensembles.maximum import max_model as max_model
from autofusion_jax.merging.ensembles.simple import simple_ensemble as simple_ensemble
from autofusion_jax.merging.ensembles.weighted import weighted_ensemble as weighted_ensemble
from autofusion_jax.merging.ensembles.z import z_ensemble as z_ensemble
from autofusion_jax.merging.matching.activation_matching import activation_matching as activation_matching
from autofusion_jax.merging.matching.c2m3 import c2m3 as c2m3
from autofusion_jax.merging.matching.ot_fusion import ot_fusion as ot_fusion
from autofusion_jax.merging.matching.ste import ste as ste
from autofusion_jax.merging.matching.weight_matching import weight_matching as weight_matching
from autofusion_jax.merging.mixtures.depth_upscaling import depth_upscaling as depth_upscaling
from autofusion_jax.merging.mixtures.moe_merging import moe_merging as moe_merging
from autofusion_jax.merging.mixtures.moe_upscaling import moe_upscaling as moe_upscaling
from autofusion_jax.merging.mixtures.pareto import pareto as pareto
from autofusion_jax.merging.mixtures.recombination import recombination as recombination
from autofusion_jax.merging.mixtures.smile import smile as smile
from autofusion_jax.merging.mixtures.wemoe import wemoe as wemoe
from autofusion_jax.merging.regression.pleas import pleas as pleas
from autofusion_jax.merging.regression.prune_concat import prune_concat as prune_concat
from autofusion_jax.merging.regression.prune_concat_distill import (
    prune_concat_distill as prune_concat_distill,
)
from autofusion_jax.merging.regression.regmean import regmean as regmean
from autofusion_jax.merging.task_vectors.breadcrumbs import breadcrumbs as breadcrumbs
from autofusion_jax.merging.task_vectors.consensus import consensus as consensus
from autofusion_jax.merging.task_vectors.dare import dare as dare
from autofusion_jax.merging.task_vectors.iso_c import iso_c as iso_c
from autofusion_jax.merging.task_vectors.iso_cts import iso_cts as iso_cts
from autofusion_jax.merging.task_vectors.magmax import magmax as magmax
from autofusion_jax.merging.task_vectors.sce import sce as sce
from autofusion_jax.merging.task_vectors.task_arithmetic import task_arithmetic as task_arithmetic
from autofusion_jax.merging.task_vectors.ties import ties as ties
from autofusion_jax.merging.task_vectors.tsv import tsv as tsv
from autofusion_jax.merging.task_vectors.wudi import wudi as wudi
from autofusion_jax.merging.zipping.mudsc import mudsc as mudsc
from autofusion_jax.merging.zipping.zipit import zipit as zipit
