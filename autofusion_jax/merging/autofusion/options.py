"""Options of AutoFusion, their ranges, and the settings of the paper."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import optax

from autofusion_jax.arguments import Count, NonNegative, Positive, Share, ShareBelowOne
from autofusion_jax.merging.augmentation import Augment
from autofusion_jax.merging.autofusion.losses import LayerWeighting, Strategy
from autofusion_jax.merging.teachers import PseudoLabels

Gamma = Share | Literal["uniform", "learned"]
Start = Literal["activation_matching", "random"]
Optimizer = Callable[..., optax.GradientTransformation]


@dataclasses.dataclass(frozen=True)
class Options:
    """The settings of one AutoFusion run; the defaults are our own. See `autofusion`."""

    tau: Positive = 1.0
    num_iters: Count = 20
    implicit: bool = False
    zeta: ShareBelowOne = 0.0
    pseudo_labels: PseudoLabels = "em"
    gamma: Gamma = "learned"
    start: Start = "activation_matching"
    augment: Augment = "shift"
    strategy: Strategy = "normalized"
    layer_weighting: LayerWeighting = "linear"
    omega_a: NonNegative = 0.5
    omega_r: NonNegative = 0.5
    switch_every: Count = 1
    epochs: Count = 64
    batch_size: Count = 128
    learning_rate: Positive = 0.2
    final_learning_rate: Positive = 0.01
    optimizer: Optimizer = optax.adam
    mixing_rate: Positive = 0.02
    init_scale: NonNegative = 0.01

    @property
    def merge_gamma(self) -> float:
        """The weight of A in the merged network: the fixed gamma, or one half."""
        return 0.5 if isinstance(self.gamma, str) else self.gamma

    @property
    def learns_mixing(self) -> bool:
        """Whether every unit gets weights of its own."""
        return self.gamma == "learned"


# The paper does not state tau; 2 is a compromise between the best for an MLP and for a VGG.
PAPER = Options(
    gamma="uniform", tau=2.0, zeta=0.9, pseudo_labels="confidence", start="random", augment="none",
    learning_rate=1.0,
)  # fmt: skip
"""The settings of the paper, where it states them."""
