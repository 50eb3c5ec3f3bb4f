"""Make one static page of all results under a folder: tables, curves, matrices, activation maps.

python experiments/report.py --runs=runs --out=report
"""

from pathlib import Path

from absl import flags
from rich.console import Console

from app import run
from webreport.collect import collect

RUNS = flags.DEFINE_string(
    "runs", "runs", "Folder with the results of merge.py and reproduce.py, at any depth."
)
OUT = flags.DEFINE_string("out", "report", "Folder of the page: index.html and its images.")


def main(console: Console) -> None:
    runs, figures = collect(Path(RUNS.value))
    try:
        from webreport.page import write_page
    except ModuleNotFoundError as error:
        raise ValueError(
            f"report: needs {error.name}. Run: pip install -c constraints.txt -e '.[report]'"
        ) from error
    page = write_page(runs, figures, Path(OUT.value))
    console.print(f"{page.contents} in {page.path}")


if __name__ == "__main__":
    run(main, with_config=False)
