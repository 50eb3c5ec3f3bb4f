"""CIFAR-10, 5 + 5 classes, a ResNet20 of width 16 with BatchNorm, for a laptop.

Command: `python experiments/merge.py --config=cifar10_resnet20`
Time: 59 minutes for each endpoint on a busy machine; the merges are not timed yet.
Expect endpoints of 82 and 87 % on the test images of their own five classes (pair 0).
"""

from autofusion_jax.training.loop import TrainOptions
from configs.schema import Config, DataConfig, EvaluateConfig, MergeConfig, ResNetConfig


def get_config() -> Config:
    return Config(
        name="cifar10_resnet20",
        data=DataConfig("cifar10"),
        model=ResNetConfig(widths=(16, 32, 64)),
        train=TrainOptions(
            epochs=6, batch_size=64, learning_rate=0.05, optimizer="sgd", weight_decay=5e-4, augment=True
        ),
        merge=MergeConfig(repeats=1, epochs=8),
        evaluate=EvaluateConfig(curve_images=1000),
    )
