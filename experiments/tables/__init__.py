"""The one registry of reproduced tables. A new table is one file and one line here."""

from tables import cifar5_resnet20, mudsc_s1
from tables.schema import Table

TABLES: dict[str, Table] = {table.name: table for table in (cifar5_resnet20.TABLE, mudsc_s1.TABLE)}
