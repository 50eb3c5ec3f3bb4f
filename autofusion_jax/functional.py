"""Formulas of the methods as pure functions: arrays and pytrees in, arrays and pytrees out.

Each is what its paper writes down, without checks of options, spec or data. All can be jitted,
differentiated and vmapped over their numbers, such as the coefficients of a sweep:

    merged = jax.vmap(lambda scale: af.functional.add_task_vectors(base, models, scale))(scales)

`af.methods` has the methods themselves, which choose what these functions are given.
"""

from autofusion_jax.merging.adaptive.adamerging import add_task_vectors_by as add_task_vectors_by
from autofusion_jax.merging.adaptive.concrete import add_masked as add_masked
from autofusion_jax.merging.averaging.fisher import fisher_average as fisher_average
from autofusion_jax.merging.averaging.fisher_information import diagonal_fisher as diagonal_fisher
from autofusion_jax.merging.averaging.karcher import karcher_mean as karcher_mean
from autofusion_jax.merging.averaging.model_stock import stock as stock
from autofusion_jax.merging.averaging.model_stock import stock_ratio as stock_ratio
from autofusion_jax.merging.averaging.multislerp import mean_on_sphere as mean_on_sphere
from autofusion_jax.merging.averaging.slerp import interpolate_on_sphere as interpolate_on_sphere
from autofusion_jax.merging.averaging.weighted_average import weighted_sum as weighted_sum
from autofusion_jax.merging.fuse import fuse as fuse
from autofusion_jax.merging.fuse import fused_apply as fused_apply
from autofusion_jax.merging.mixtures.recombination import recombine as recombine
from autofusion_jax.merging.mixtures.wemoe import weight_ensemble as weight_ensemble
from autofusion_jax.merging.regression.regmean import gram_matrices as gram_matrices
from autofusion_jax.merging.regression.regmean import regression_mean as regression_mean
from autofusion_jax.merging.task_vectors.consensus import add_consensus as add_consensus
from autofusion_jax.merging.task_vectors.dare import drop_and_rescale as drop_and_rescale
from autofusion_jax.merging.task_vectors.iso_c import add_isotropic as add_isotropic
from autofusion_jax.merging.task_vectors.iso_cts import add_common_and_specific as add_common_and_specific
from autofusion_jax.merging.task_vectors.magmax import add_largest as add_largest
from autofusion_jax.merging.task_vectors.sce import calculate_and_erase as calculate_and_erase
from autofusion_jax.merging.task_vectors.task_arithmetic import add_task_vectors as add_task_vectors
from autofusion_jax.merging.task_vectors.ties import elect_and_merge as elect_and_merge
from autofusion_jax.merging.task_vectors.tsv import add_decorrelated as add_decorrelated
from autofusion_jax.merging.task_vectors.wudi import add_undisturbed as add_undisturbed
from autofusion_jax.merging.zipping.greedy import greedy_zip as greedy_zip
from autofusion_jax.transport.sinkhorn import log_sinkhorn as log_sinkhorn
