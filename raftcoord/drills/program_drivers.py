"""The drivers that programs reach databases through: how each connects and carries one statement out.

Owed: a driver that is not installed is told, and imported by nobody before it is asked for. Never: a judgement about what a
driver raises; that is the resources' business.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from raftcoord.databases.urls import Url
from raftcoord.drills.database_banks import MARIADB, POSTGRESQL, SQLITE
from raftcoord.errors import ConfigError

_BUSY_S: Final = 5.0
"""How long SQLite waits for another writer (s)."""


class Driver(NamedTuple):
    """``module``: what is imported; ``asynchronous``: its connections are for AsyncClient."""

    name: str
    kind: str
    module: str
    asynchronous: bool = False

    @property
    def installed(self) -> bool:
        """Whether it can be imported here: some are there and lack a library of C."""
        try:
            importlib.import_module(self.module)
        except ImportError:
            return False
        return True

    def connect(self, url: str) -> Any:
        """A connection as a program makes one, not in autocommit; to be awaited if the driver is asynchronous."""
        module = importlib.import_module(self.module)
        if self.kind == SQLITE:
            return module.connect(unquote(url.partition(":///")[2]), timeout=_BUSY_S)
        if self.name == "psycopg-async":
            return module.AsyncConnection.connect(url)
        if self.name in ("psycopg", "psycopg2", "asyncpg"):
            return module.connect(url)
        read = Url.parse(url, 0)
        where: dict[str, Any] = {"host": read.host, "port": read.port, "user": read.user}
        where["db" if self.name == "aiomysql" else "database"] = read.database
        return module.connect(**where)


_SYNCHRONOUS: Final = (
    Driver("psycopg", POSTGRESQL, "psycopg"),
    Driver("psycopg2", POSTGRESQL, "psycopg2"),
    Driver("pg8000", POSTGRESQL, "pg8000.dbapi"),
    Driver("pymysql", MARIADB, "pymysql"),
    Driver("mysqlclient", MARIADB, "MySQLdb"),
    Driver("mariadb", MARIADB, "mariadb"),
    Driver("sqlite3", SQLITE, "sqlite3"),
)
_ASYNCHRONOUS: Final = (
    Driver("psycopg-async", POSTGRESQL, "psycopg", True),
    Driver("asyncpg", POSTGRESQL, "asyncpg", True),
    Driver("asyncmy", MARIADB, "asyncmy", True),
    Driver("aiomysql", MARIADB, "aiomysql", True),
)
DRIVERS: Final[dict[str, Driver]] = {driver.name: driver for driver in (*_SYNCHRONOUS, *_ASYNCHRONOUS)}
PAIRS: Final = (
    (POSTGRESQL, MARIADB),
    (POSTGRESQL, SQLITE),
    (MARIADB, SQLITE),
    (POSTGRESQL, POSTGRESQL),
    (MARIADB, MARIADB),
    (SQLITE, SQLITE),
)


class Couple(NamedTuple):
    """Two drivers that one program uses: for the branch that is prepared first, and for the other."""

    first: Driver
    second: Driver

    @property
    def pair(self) -> str:
        return f"{self.first.kind}-{self.second.kind}"

    @property
    def asynchronous(self) -> bool:
        """Whether it is a program of AsyncClient; sqlite3 serves both kinds."""
        return self.first.asynchronous or self.second.asynchronous

    def __str__(self) -> str:
        return f"{self.first.name} + {self.second.name}"


def couples() -> Iterator[Couple]:
    """Every pair through each driver: two kinds in every combination of their drivers, one kind with each driver twice."""
    for first_kind, second_kind in PAIRS:
        for drivers in (_SYNCHRONOUS, (*_ASYNCHRONOUS, DRIVERS["sqlite3"])):
            firsts, seconds = ([each for each in drivers if each.kind == kind] for kind in (first_kind, second_kind))
            for couple in map(Couple._make, product(firsts, seconds)):
                is_repeated = first_kind == SQLITE and drivers is not _SYNCHRONOUS
                if not is_repeated and (first_kind != second_kind or couple.first == couple.second):
                    yield couple


def covering(all_couples: list[Couple]) -> list[Couple]:
    """A few of them, in which each pair and each driver occurs."""
    chosen: list[Couple] = []
    missing = {word for couple in all_couples for word in _words(couple)}
    while missing:
        best = max(all_couples, key=lambda couple: len(_words(couple) & missing))
        chosen.append(best)
        missing -= _words(best)
    return chosen


def chosen(pairs: tuple[str, ...], drivers: tuple[str, ...]) -> list[Couple]:
    """The couples of these pairs that use these drivers alone; empty: any. Raises ConfigError for a name that is none."""
    known_pairs = ["-".join(pair) for pair in PAIRS]
    for given, known in ((pairs, known_pairs), (drivers, list(DRIVERS))):
        if unknown := set(given) - set(known):
            raise ConfigError(f"{min(unknown)!r} is not known here; choose from {', '.join(known)}")
    found = [
        couple
        for couple in couples()
        if (not pairs or couple.pair in pairs)
        and (not drivers or {couple.first.name, couple.second.name} <= {*drivers})
    ]
    if not found:
        raise ConfigError(
            "no pair is left: name a driver for each of its two databases, all synchronous or all asynchronous"
        )
    return found


def modules_of(couples: Iterable[Couple]) -> list[str]:
    """What a program of any of ``couples`` imports."""
    return sorted({driver.module for couple in couples for driver in couple})


def execute(connection: Any, sql: str) -> None:
    """Carry ``sql`` out on a synchronous connection."""
    cursor = connection.cursor()
    cursor.execute(sql)
    cursor.close()


async def execute_async(connection: Any, sql: str) -> None:
    """Carry ``sql`` out on an asynchronous connection, or on one of sqlite3."""
    if hasattr(connection, "fetchrow"):  # asyncpg has no cursors of this kind
        await connection.execute(sql)
        return
    cursor = await finished(connection.cursor())
    await finished(cursor.execute(sql))
    await finished(cursor.close())


async def finished(result: Any) -> Any:
    """``result``, awaited if it is to be."""
    return await result if inspect.isawaitable(result) else result


def _words(couple: Couple) -> set[str]:
    return {couple.pair, couple.first.name, couple.second.name}
