"""What FusionBench's tables share whose networks have heads of their own: settings, rows, captions."""

import dataclasses

import numpy as np

from autofusion_jax.arguments import integer
from data.splits import generator
from fields import field
from pipeline.reference_rows import ENSEMBLE
from tables.fusion import REGMEAN, TASK_ARITHMETIC, TIES, reading, row
from tables.mudsc import PAPER as MUDSC
from tables.schema import TableConfig
from training.loop import TrainOptions


@dataclasses.dataclass
class BackboneConfig(TableConfig):
    """The settings of networks that start from one backbone. `data.num_unlabelled` is shared evenly.

    pretrain: how the backbone is trained that all start from.
    test_inputs: inputs of each task that are measured on, at most.
    """

    pretrain: TrainOptions = dataclasses.field(default_factory=TrainOptions)
    test_inputs: int = field(2000, integer(least=1))

    start_fields = ("pretrain",)

    def make_fast(self) -> None:
        """Also short pretraining."""
        super().make_fast()
        self.pretrain.epochs, self.test_inputs = 1, 500
        self.pretrain.segment = min(self.pretrain.segment, 20)


AVERAGE = row("average", "Simple average")
FISHER = reading("fisher", "Fisher", normalize=True)
MORE = (
    row("model_stock", "Model stock"),
    row("dare", "DARE"),
    row("breadcrumbs", "Breadcrumbs"),
    row("magmax", "MagMax"),
    row("consensus", "Consensus"),
    row("iso_c", "Iso-C", convs=True),
    row("tsv", "TSV-M", convs=True),
    row("wudi", "WUDI", convs=True),
)
BACKBONE_ROWS = (AVERAGE, FISHER, REGMEAN, TASK_ARITHMETIC, TIES, *MORE)
FAST = ("start", ENSEMBLE, "average", "task_arithmetic", "ties", "fisher", "regmean")

OPTIONS = (
    "Task arithmetic and TIES add 0.3 of the sum of task vectors, as in the paper; other methods are in "
    "their default settings, but for Iso-C, TSV-M and WUDI, which take convolutions as matrices. Fisher "
    "divides each network's information by its length, as FusionBench does, and measures it with the "
    "network's own head."
)


def drawn(num: int, labels: np.ndarray, seed: int) -> np.ndarray:
    """Draw `num` rows of a data set, or all that there are, in random order."""
    return generator("drawn", seed).permutation(len(labels))[:num]


SCALED = (
    f"*Scaled*: the mean over tasks of the scaled performance of {MUDSC}, Eq. 9, in percent: 100 for the "
    "task's own network, 0 for the most frequent class or the mean image as the answer, whatever the input; "
    "it may be below 0."
)


def trained(options: TrainOptions) -> str:
    """How a network was trained, in words."""
    return (
        f"{options.epochs} epoch(s) by {options.optimizer} at {options.learning_rate:g}, batches of "
        f"{options.batch_size}"
    )


def seen(config: TableConfig, num_tasks: int) -> str:
    """How many networks there are, and what merges see."""
    return (
        f"Mean ± standard deviation over {config.pairs} set(s) of networks, seed {config.seed} and up. "
        f"Methods that read inputs get {config.data.num_unlabelled // num_tasks:,} training inputs of each "
        "task, without labels."
    )
