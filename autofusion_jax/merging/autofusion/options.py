"""Options of AutoFusion, their ranges, and the settings of the paper."""

import dataclasses
from collections.abc import Callable

import optax

from autofusion_jax.merging.augmentation import check_augment
from autofusion_jax.merging.autofusion.losses import LAYER_WEIGHTINGS, STRATEGIES
from autofusion_jax.merging.teachers import check_pseudo_labels
from autofusion_jax.validation import require, unknown_name

GAMMAS = ("uniform", "learned")
STARTS = ("activation_matching", "random")


@dataclasses.dataclass(frozen=True)
class Options:
    """The settings of one AutoFusion run; the defaults are our own. See `autofusion`."""

    tau: float = 1.0
    num_iters: int = 20
    implicit: bool = False
    zeta: float = 0.0
    pseudo_labels: str = "em"
    gamma: float | str = "learned"
    start: str = "activation_matching"
    augment: str = "shift"
    strategy: str = "normalized"
    layer_weighting: str = "linear"
    omega_a: float = 0.5
    omega_r: float = 0.5
    switch_every: int = 1
    epochs: int = 64
    batch_size: int = 128
    learning_rate: float = 0.2
    final_learning_rate: float = 0.01
    optimizer: Callable[..., optax.GradientTransformation] = optax.adam
    mixing_rate: float = 0.02
    init_scale: float = 0.01

    def __post_init__(self) -> None:
        def check(name: str, ok: bool, must_be: str) -> None:
            require(ok, "autofusion", name, must_be, repr(getattr(self, name)))

        check("tau", self.tau > 0, "> 0")
        for name in ("num_iters", "switch_every", "epochs", "batch_size"):
            check(name, getattr(self, name) >= 1, ">= 1")
        check("zeta", 0 <= self.zeta < 1, "in [0, 1)")
        fixed = isinstance(self.gamma, int | float)
        in_range = isinstance(self.gamma, int | float) and 0 <= self.gamma <= 1
        check("gamma", in_range if fixed else self.gamma in GAMMAS, 'in [0, 1], "uniform", or "learned"')
        for name in ("omega_a", "omega_r", "init_scale"):
            check(name, getattr(self, name) >= 0, ">= 0")
        for name in ("learning_rate", "final_learning_rate", "mixing_rate"):
            check(name, getattr(self, name) > 0, "> 0")
        check_pseudo_labels("autofusion", self.pseudo_labels)
        check_augment("autofusion", self.augment)
        if self.start not in STARTS:
            raise unknown_name("autofusion", "start", self.start, STARTS)
        if self.strategy not in STRATEGIES:
            raise unknown_name("autofusion", "strategy", self.strategy, STRATEGIES)
        if self.layer_weighting not in LAYER_WEIGHTINGS:
            raise unknown_name("autofusion", "layer_weighting", self.layer_weighting, LAYER_WEIGHTINGS)

    @property
    def merge_gamma(self) -> float:
        """The weight of A in the merged network: the fixed gamma, or one half."""
        return float(self.gamma) if isinstance(self.gamma, int | float) else 0.5

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
