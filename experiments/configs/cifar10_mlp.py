"""CIFAR-10, 5 + 5 classes, an MLP of 6 hidden layers of 512 (paper, Table 1), for a laptop.

Command: `python experiments/merge.py --config=cifar10_mlp`
Time: 3 minutes for each endpoint, 7 for both kinds of AutoFusion, on one busy CPU core.
Expect (% joint, seed 100, `reproduce.py --table=1`): AutoFusion 40 soft, 41 hard; the paper's preset 17.
"""

from configs.models import model_config
from configs.schema import Config, DataConfig, EvaluateConfig, MergeConfig
from training.loop import TrainOptions


def get_config() -> Config:
    return Config(
        name="cifar10_mlp",
        data=DataConfig("cifar10"),
        model=model_config("mlp", widths=(512,) * 6),
        train=TrainOptions(epochs=8),
        merge=MergeConfig(repeats=1, epochs=16),
        evaluate=EvaluateConfig(curve_images=1000),
    )
