"""SQLite."""

from __future__ import annotations

from typing import Any, Final

from raftcoord.databases.database import Database, Driver, Statements
from raftcoord.databases.sqlite.checks import SqliteChecks
from raftcoord.databases.sqlite.dialect import Sqlite
from raftcoord.databases.urls import FilePlace

_BUSY_S: Final = 5.0
"""How long a program waits for another writer (s)."""
_PLACE: Final = FilePlace(("sqlite",))


def _opened(module: Any, url: str) -> Any:
    return module.connect(_PLACE.file(url), timeout=_BUSY_S)


DATABASE: Final = Database(
    name="sqlite",
    title="SQLite",
    place=_PLACE,
    dialect=Sqlite(),
    checks=SqliteChecks(),
    statements=Statements(
        locked=frozenset({"SQLITE_CONSTRAINT_TRIGGER", "SQLITE_BUSY"}),  # the frozen file, and another writer in it
        lock_wait=lambda ms: f"PRAGMA busy_timeout = {ms}",
    ),
    drivers=(
        Driver(
            "sqlite",
            "sqlite3",
            "sqlite3",
            "raftcoord.databases.sqlite.drivers:SqliteSession",
            _opened,
            everywhere=True,
            tops=("sqlite3", "_sqlite3"),
            sqlalchemy=("pysqlite",),
        ),
    ),
    instead={"aiosqlite": "enlist a connection of sqlite3, which AsyncClient.transaction() takes too"},
    django="sqlite",
)
