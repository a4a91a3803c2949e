"""The kinds of databases by name."""

from __future__ import annotations

from typing import Final

from raftcoord.resources.mariadb import MariaDb
from raftcoord.resources.postgresql import PostgreSql
from raftcoord.resources.sqlite import Sqlite
from raftcoord.resources.steps import Dialect

DIALECTS: Final[dict[str, Dialect]] = {"postgresql": PostgreSql(), "mariadb": MariaDb(), "sqlite": Sqlite()}
"""MySQL is spoken to as MariaDB."""
