"""Task arithmetic against recorded outputs of FusionBench and mergekit."""

import pytest

import autofusion_jax as af
from tests.merging.fusionbench import expect_oracle, fusionbench_networks


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fb_task_arithmetic_0.3", {"scale": 0.3}),
        ("fb_task_arithmetic_1.0", {"scale": 1.0}),
        ("mk_task_arithmetic_0.3", {"scale": 0.3}),
        ("mk_task_arithmetic_lambda", {"scale": 0.7, "weights": (0.125, 0.25, 0.625)}),
    ],
)
def test_recorded_outputs(name, options):
    base, models = fusionbench_networks()
    result = af.merge_many(models, None, None, base=base, method="task_arithmetic", **options)
    expect_oracle(name, result.params)


def test_one_weight_for_each_network():
    base, models = fusionbench_networks()
    with pytest.raises(ValueError, match=r"task_arithmetic: weights must be 3 numbers.* got \[1.0\]"):
        af.merge_many(models, None, None, base=base, method="task_arithmetic", weights=[1.0])
