"""CIFAR-10, 5 + 5 classes, a deeper VGG (paper, Table 1), for a laptop.

Command: `python experiments/merge.py --config=cifar10_vgg`
Time: 11 to 13 minutes for each endpoint, 21 for merges, teachers and controls, on one busy CPU core.
Expect (% joint, seed 100, `--table=unlabelled`):
AutoFusion 54 soft, 53 hard, `prune_concat_distill` 57, the EM teacher 60.
"""

from configs.models import model_config
from configs.schema import Config, DataConfig, EvaluateConfig, MergeConfig
from training.loop import TrainOptions


def get_config() -> Config:
    return Config(
        name="cifar10_vgg",
        data=DataConfig("cifar10"),
        model=model_config("vgg", widths=(32, 64, 128, 128, 256, 256), pool_after=(0, 1, 3, 5), norm="none"),
        train=TrainOptions(epochs=6),
        merge=MergeConfig(repeats=1, epochs=8),
        evaluate=EvaluateConfig(curve_images=1000),
    )
