"""MNIST, 5 + 5 classes, an MLP of 6 hidden layers of 512 (paper, Table 1), for a laptop.

Command: `python experiments/merge.py --config=mnist_mlp`
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
