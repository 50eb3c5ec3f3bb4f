"""KMNIST, 5 + 5 classes: all else as `mnist_vgg`.

Command: `python experiments/merge.py --config=kmnist_vgg`
Time: under that of `mnist_vgg`.
Expect (% joint, seed 100, `--table=unlabelled`):
AutoFusion 79, `prune_concat_distill` 84, the EM teacher 82.
"""

from configs import mnist_vgg
from configs.schema import Config


def get_config() -> Config:
    config = mnist_vgg.get_config()
    config.name = "kmnist_vgg"
    config.data.name = "kmnist"
    return config
