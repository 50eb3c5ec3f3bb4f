"""CIFAR-10, 5 + 5 classes, a ResNet20 of width 16 with BatchNorm, for a laptop.

Command: `python experiments/merge.py --config=cifar10_resnet20`
Time: 38 to 59 minutes for each endpoint on a busy core; `prune_concat` takes 2 minutes of CPU,
`prune_concat_distill` 27.
Expect endpoints of 82 to 88 % on the test images of their own five classes, and 61 % joint by
`prune_concat`, 64 % by `prune_concat_distill` (seed 100, `--table=unlabelled`).
"""

from configs.models import model_config
from configs.schema import Config, DataConfig, EvaluateConfig, MergeConfig
from training.loop import TrainOptions


def get_config() -> Config:
    return Config(
        name="cifar10_resnet20",
        data=DataConfig("cifar10"),
        model=model_config(
            "resnet", widths=(16, 32, 64), depths=(3, 3, 3), block="basic", norm="batch", norm_groups=4
        ),
        train=TrainOptions(
            epochs=6, batch_size=64, learning_rate=0.05, optimizer="sgd", weight_decay=5e-4, augment=True
        ),
        merge=MergeConfig(repeats=1, epochs=8),
        evaluate=EvaluateConfig(curve_images=1000),
    )
