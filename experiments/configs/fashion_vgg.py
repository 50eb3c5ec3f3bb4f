"""Fashion-MNIST, 5 + 5 classes: all else as `mnist_vgg`.

Command: `python experiments/merge.py --config=fashion_vgg`
Time: as `mnist_vgg`.
Expect (% joint, seed 100, `--table=unlabelled`):
AutoFusion 78.5 soft, 78.3 hard, `prune_concat_distill` 78.5, the EM teacher 79.
"""

from configs import mnist_vgg
from configs.schema import Config


def get_config() -> Config:
    config = mnist_vgg.get_config()
    config.name = "fashion_vgg"
    config.data.name = "fashion_mnist"
    return config
