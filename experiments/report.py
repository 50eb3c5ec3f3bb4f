"""Make one static page of all results under a folder: tables, curves, matrices, activation maps.

python experiments/report.py --runs=runs --out=report
"""

import interrupts  # noqa: F401, I001  # first: it takes signals while the others are imported

from pathlib import Path

from rich.console import Console

from app import flags, run
from webreport.collect import collect
from webreport.page import write_page

RUNS = flags.DEFINE_string(
    "runs", "runs", "Folder with the results of merge.py and reproduce.py, at any depth."
)
OUT = flags.DEFINE_string("out", "report", "Folder of the page: index.html and its images.")


def main(console: Console) -> None:
    runs, figures = collect(Path(RUNS.value))
    page = write_page(runs, figures, Path(OUT.value))
    console.print(f"{page.contents} in {page.path}")


if __name__ == "__main__":
    run(main, with_config=False)
