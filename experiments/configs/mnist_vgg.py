"""MNIST, 5 + 5 classes, a VGG of 4 convolutions (paper, Table 1 and Fig. 4), for a laptop.

Command: `python experiments/merge.py --config=mnist_vgg`
Time: 12 minutes on 2 idle CPU cores, training and README's installation included.
Expect (% joint, seed 0): AutoFusion 97.5 soft and hard; with the paper's settings 90 and 67; Git Re-Basin
33; interpolation 24; `prune_concat_distill` 98.2; the EM teacher 98.0; the fresh network on pseudo-labels
98.2.
"""

from configs.models import model_config
from configs.schema import Config, DataConfig, EvaluateConfig, MergeConfig
from training.loop import TrainOptions


def get_config() -> Config:
    return Config(
        name="mnist_vgg",
        data=DataConfig("mnist"),
        model=model_config("vgg", widths=(32, 64, 128, 128), pool_after=(0, 1, 2), norm="none"),
        train=TrainOptions(epochs=3),
        merge=MergeConfig(repeats=1, epochs=8),
        evaluate=EvaluateConfig(curve_images=1000),
    )
