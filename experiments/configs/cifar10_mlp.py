"""CIFAR-10, 5 + 5 classes, an MLP of 6 hidden layers of 512 (paper, Table 1), for a laptop.

Command: `python experiments/merge.py --config=cifar10_mlp`
Not yet run at full length: no time and no number to expect is recorded.
"""

from autofusion_jax.training.loop import TrainOptions
from configs.schema import Config, DataConfig, EvaluateConfig, MergeConfig, MLPConfig


def get_config() -> Config:
    return Config(
        name="cifar10_mlp",
        data=DataConfig("cifar10"),
        model=MLPConfig(widths=(512,) * 6),
        train=TrainOptions(epochs=8),
        merge=MergeConfig(repeats=1, epochs=16),
        evaluate=EvaluateConfig(curve_images=1000),
    )
