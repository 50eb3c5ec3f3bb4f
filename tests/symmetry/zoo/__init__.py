"""Architectures with hand-derived symmetries: the table that `infer_perm_spec` is tested on.

`CASES` merges the tables of that name of all modules here.
"""

import importlib
import pkgutil

from tests.symmetry.zoo.case import Case

CASES: dict[str, Case] = {}
for info in pkgutil.iter_modules(__path__):
    table = getattr(importlib.import_module(f"{__name__}.{info.name}"), "CASES", {})
    repeated = sorted(CASES.keys() & table.keys())
    if repeated:
        raise ValueError(f"zoo: names must differ between modules; {info.name} repeats {repeated}.")
    CASES.update(table)
