"""Derive the permutation groups of a config's model from its program, and draw them; needs no data.

python experiments/inspect.py --config=mnist_vgg
"""

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

if __name__ == "__main__":
    from app import define_config, run
    from pipeline.inspection import inspect_config

    CONFIG = define_config()
    run(lambda console: inspect_config(CONFIG.value, console))
else:
    # A script's folder comes first in sys.path, so `import inspect` in any library finds this file
    # before the standard library's module of that name: this file then puts that in its own place.
    here = Path(__file__).resolve().parent
    spec = PathFinder.find_spec(__name__, [entry for entry in sys.path if Path(entry).resolve() != here])
    if spec is None or spec.loader is None:
        raise ImportError(f"{__name__}: the standard library's module must be on sys.path.")
    sys.modules[__name__] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[__name__])
