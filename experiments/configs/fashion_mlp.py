"""Fashion-MNIST, 5 + 5 classes: all else as `mnist_mlp`.

Command: `python experiments/merge.py --config=fashion_mlp`
Time: as `mnist_mlp`. Expect (% joint, seed 100, `--table=unlabelled`):
AutoFusion 76, `prune_concat_distill` 76, the EM teacher 78.
"""

from configs import mnist_mlp
from configs.schema import Config


def get_config() -> Config:
    config = mnist_mlp.get_config()
    config.name = "fashion_mlp"
    config.data.name = "fashion_mnist"
    return config
