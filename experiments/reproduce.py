"""Reproduce a table of a paper: train or find its endpoints, run its rows, print ours beside theirs.

python experiments/reproduce.py --table=mudsc_s1
"""

from absl import flags
from rich.console import Console

from app import run
from autofusion_jax.validation import require, unknown_name
from tables import TABLES
from tables.report import write_report
from tables.runner import run_rows
from tables.schema import override

TABLE = flags.DEFINE_enum("table", None, sorted(TABLES), "Which table.", required=True)
OUT_DIR = flags.DEFINE_string("out_dir", "", "Folder of the results; by default RUNS_DIR/table_TABLE.")
RUNS_DIR = flags.DEFINE_string("runs_dir", "runs", "Where trained endpoints are kept and found again.")
DATA_DIR = flags.DEFINE_string("data_dir", "", "Folder with the original files of the data set.")
PAIRS = flags.DEFINE_integer("pairs", None, "Endpoint pairs, of seeds SEED to SEED + PAIRS - 1.")
SEED = flags.DEFINE_integer("seed", None, "Seed of the first pair.")
ROWS = flags.DEFINE_list("rows", None, "Run only these rows, by their names in results.jsonl.")
SET = flags.DEFINE_multi_string("set", [], "Another setting, may be repeated: --set=train.epochs=1.")


def main(console: Console) -> None:
    table = TABLES[TABLE.value]
    config = table.get_config()
    for assignment in SET.value:
        override(config, assignment)
    config.out_dir, config.runs_dir, config.data.dir = OUT_DIR.value, RUNS_DIR.value, DATA_DIR.value
    config.pairs = config.pairs if PAIRS.value is None else PAIRS.value
    config.seed = config.seed if SEED.value is None else SEED.value
    names = [entry.name for entry in table.entries]
    for name in ROWS.value or []:
        if name not in names:
            raise unknown_name("--rows", "row", name, names)
    require(config.pairs >= 1, "reproduce", "--pairs", ">= 1", config.pairs)
    config.train.check()
    source = table.open_source(config, console)
    folder, records = run_rows(table, config, source, console, ROWS.value or names)
    write_report(folder, table, config, source, records, console)


if __name__ == "__main__":
    run(main, with_config=False)
