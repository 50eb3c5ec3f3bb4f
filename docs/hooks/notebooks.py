"""The folder of the notebooks on the path of their kernels, so that they find `digits.py` beside them."""

import os
from pathlib import Path
from typing import Any


def on_startup(**_: Any) -> None:
    """Kernels inherit the environment."""
    paths = [
        str(Path(__file__).parents[1] / "notebooks"),
        os.environ.get("PYTHONPATH"),
    ]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
