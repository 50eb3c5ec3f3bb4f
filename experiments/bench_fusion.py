"""Run FusionBench's protocol whole at a small size: all its tables, one after another, and their figures.

python experiments/bench_fusion.py --config=tiny_vit_4tasks --data_dir=DIR

Takes the flags of `reproduce.py`: `--fast`, `--pairs`, `--seed`, `--out_dir` and so on. Stopped at any point,
the same command goes on.
"""

import interrupts  # noqa: F401, I001  # first: it takes signals while the others are imported

from rich.console import Console

import reproduce
from app import flags, run
from tables import FUSION_BENCH

BENCHES = {"tiny_vit_4tasks": [module.TABLE.name for module in FUSION_BENCH]}
"""Config -> the tables on its networks, then those of tasks that need others, in their order."""
CONFIG = flags.DEFINE_enum("config", None, sorted(BENCHES), "Whose tables to run.", required=True)

flags.adopt_module_key_flags(reproduce)


def main(console: Console) -> None:
    flags.FLAGS.table = BENCHES[CONFIG.value]
    reproduce.main(console)


if __name__ == "__main__":
    run(main, with_config=False)
