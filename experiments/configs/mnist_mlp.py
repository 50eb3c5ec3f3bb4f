"""MNIST, 5 + 5 classes, an MLP of 6 hidden layers of 512 (paper, Table 1), for a laptop.

Command: `python experiments/merge.py --config=mnist_mlp`
Time: 8 minutes a pair on 2 busy CPU cores, training included. Expect, mean of pairs 0 to 2:
with the paper's gamma 70 soft; Git Re-Basin 23; interpolation 21 (% joint); AutoFusion's default
about 94, soft and hard. Times are those of version 0.3.0, which had fewer rows.
"""

from autofusion_jax.training.loop import TrainOptions
from configs.schema import Config, DataConfig, EvaluateConfig, MergeConfig, MLPConfig


def get_config() -> Config:
    return Config(
        name="mnist_mlp",
        data=DataConfig("mnist"),
        model=MLPConfig(widths=(512,) * 6),
        train=TrainOptions(epochs=5, learning_rate=0.01, optimizer="sgd"),
        merge=MergeConfig(repeats=3, epochs=16),
        evaluate=EvaluateConfig(curve_images=1000),
    )
