"""The kinds of databases by name."""

from __future__ import annotations

from typing import Final

from raftcoord.databases.mariadb.dialect import MariaDb
from raftcoord.databases.postgresql.dialect import PostgreSql
from raftcoord.databases.sqlite.dialect import Sqlite
from raftcoord.databases.steps import Dialect

DIALECTS: Final[dict[str, Dialect]] = {"postgresql": PostgreSql(), "mariadb": MariaDb(), "sqlite": Sqlite()}
"""MySQL is spoken to as MariaDB."""
