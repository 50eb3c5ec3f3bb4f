"""A smoke run on scikit-learn's digits, 5 + 5 classes: no download, not in the paper.

Command: `python experiments/merge.py --config=digits_mlp`
Time: under 30 seconds on 2 CPU cores. Expect AutoFusion at 85 to 90 soft (% joint).
"""

from configs.models import model_config
from configs.schema import Config, DataConfig, EvaluateConfig, MergeConfig
from training.loop import TrainOptions


def get_config() -> Config:
    return Config(
        name="digits_mlp",
        data=DataConfig("digits", num_validation=100, num_unlabelled=500),
        model=model_config("mlp", widths=(64, 64)),
        train=TrainOptions(epochs=40, batch_size=32, learning_rate=3e-3, segment=50),
        merge=MergeConfig(repeats=1, epochs=16),
        evaluate=EvaluateConfig(curve_images=360),
    )
