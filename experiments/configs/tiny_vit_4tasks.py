"""A tiny vision transformer with a CLIP-style head on four data sets of 28 x 28 grey pixels, and digits.

Command: `python experiments/bench_fusion.py --config=tiny_vit_4tasks --data_dir=DIR`
Time: see `tables/fusion.py`. `merge.py` and `train.py` take it as well: each network from its own start.
"""

from configs.models import model_config
from configs.schema import Config, DataConfig
from training.loop import TrainOptions

DATASETS = ("mnist", "fashion_mnist", "kmnist", "cifar10_28", "digits_28")


def get_config() -> Config:
    return Config(
        name="tiny_vit_4tasks",
        data=DataConfig("+".join(DATASETS), num_train=40_000, num_validation=0, num_unlabelled=5000),
        model=model_config(
            "vit",
            patch=7,
            dim=64,
            depth=4,
            num_heads=4,
            mlp_dim=128,
            pool="mean",
            head="cosine",
            embed_dim=128,
        ),
        train=TrainOptions(epochs=8, batch_size=32, learning_rate=1e-3),
    )
