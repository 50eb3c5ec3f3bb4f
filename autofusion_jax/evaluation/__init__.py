"""Measuring networks: accuracy by task, interpolation curves, the landscape, and comparisons of methods."""

from autofusion_jax.evaluation.accuracy import evaluate
from autofusion_jax.evaluation.comparison import Comparison, compare
from autofusion_jax.evaluation.results import Result, read_results, write_results
from autofusion_jax.evaluation.scaled import scaled_performance

__all__ = [
    "Comparison",
    "Result",
    "compare",
    "evaluate",
    "read_results",
    "scaled_performance",
    "write_results",
]
