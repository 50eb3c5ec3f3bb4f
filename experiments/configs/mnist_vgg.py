"""MNIST, 5 + 5 classes, a VGG of 4 convolutions (paper, Table 1 and Fig. 4), for a laptop.

Command: `python experiments/merge.py --config=mnist_vgg`
Time: under 7 minutes on 2 CPU cores, installation and training included; 2.5 minutes once trained.
Expect (% joint): AutoFusion about 97, soft and hard; with the paper's gamma 75 soft; Git Re-Basin 39;
interpolation 32. Times are those of version 0.3.0, which had fewer rows.
"""

from autofusion_jax.training.loop import TrainOptions
from configs.schema import Config, DataConfig, EvaluateConfig, MergeConfig, VGGConfig


def get_config() -> Config:
    return Config(
        name="mnist_vgg",
        data=DataConfig("mnist"),
        model=VGGConfig(widths=(32, 64, 128, 128), pool_after=(0, 1, 2)),
        train=TrainOptions(epochs=3),
        merge=MergeConfig(repeats=3, epochs=8),
        evaluate=EvaluateConfig(curve_images=1000),
    )
