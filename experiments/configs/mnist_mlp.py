"""MNIST, 5 + 5 classes, an MLP of 6 hidden layers of 512 (paper, Table 1), for a laptop.

Command: `python experiments/merge.py --config=mnist_mlp`
Time: 8 minutes a pair on 2 busy CPU cores, training included (version 0.3.0, which had fewer rows).
Expect (% joint, mean of five pairs, `--table=unlabelled`): AutoFusion 94 soft and hard, with the paper's
settings 80 soft and 57 hard; ZipIt 62; Git Re-Basin 23; interpolation 20.
"""

from configs.models import model_config
from configs.schema import Config, DataConfig, EvaluateConfig, MergeConfig
from training.loop import TrainOptions


def get_config() -> Config:
    return Config(
        name="mnist_mlp",
        data=DataConfig("mnist"),
        model=model_config("mlp", widths=(512,) * 6),
        train=TrainOptions(epochs=5, learning_rate=0.01, optimizer="sgd"),
        merge=MergeConfig(repeats=1, epochs=16),
        evaluate=EvaluateConfig(curve_images=1000),
    )
