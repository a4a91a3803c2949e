"""The kinds of databases. A new one is a folder, and a line here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from raftcoord.databases.database import Database
from raftcoord.databases.mariadb import DATABASE as MARIADB
from raftcoord.databases.postgresql import DATABASE as POSTGRESQL
from raftcoord.databases.sqlite import DATABASE as SQLITE

DATABASES: Final[tuple[Database, ...]] = (
    POSTGRESQL,
    MARIADB,
    SQLITE,
)


def named(name: str) -> Database:
    """The kind ``name``. Raises KeyError."""
    return {database.name: database for database in DATABASES}[name]


def of_url(url: str) -> Database | None:
    """The kind that ``url`` begins with; None: it is none that is known."""
    scheme, separator, _ = url.partition("://")
    scheme = scheme.partition("+")[0]
    return next((each for each in DATABASES if separator and scheme in each.place.schemes), None)


def beginnings() -> str:
    """What a URL begins with, for people."""
    return either(database.place.beginning for database in DATABASES)


def examples() -> str:
    """A URL of each kind, for people."""
    return either(database.place.example for database in DATABASES)


def either(words: Iterable[str], conjunction: str = "or") -> str:
    """``a, b or c``."""
    *most, last = words
    return f"{', '.join(most)} {conjunction} {last}" if most else last
