"""KMNIST, 5 + 5 classes: all else as `mnist_mlp`.

Command: `python experiments/merge.py --config=kmnist_mlp`
Time: as `mnist_mlp`. Expect (% joint, seed 100, `--table=unlabelled`):
AutoFusion 74, `prune_concat_distill` 78, the EM teacher 73.
"""

from configs import mnist_mlp
from configs.schema import Config


def get_config() -> Config:
    config = mnist_mlp.get_config()
    config.name = "kmnist_mlp"
    config.data.name = "kmnist"
    return config
