"""The one registry of reproduced tables. A new table is one file and one line here."""

from tables import cifar5_resnet20, mudsc_s1
from tables.schema import Panel, Table

TABLES: dict[str, Table] = {table.name: table for table in (cifar5_resnet20.TABLE, mudsc_s1.TABLE)}


def find_panel(table: str, panel: str = "") -> tuple[Table, Panel]:
    """A table and its panel, by the names that stored results carry.

    Raises:
        KeyError: there is none.
    """
    return TABLES[table], {one.name: one for one in TABLES[table].panels}[panel]
