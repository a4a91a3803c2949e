"""The drivers that programs reach databases through, two by two, and how a statement is carried out through each.

Owed: a driver that is not installed is reported, and imported by nobody before it is asked for.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from itertools import combinations, product
from typing import Any, Final, NamedTuple

from raftcoord.databases.database import Driver
from raftcoord.databases.registry import DATABASES
from raftcoord.errors import ConfigError

KINDS: Final = [database.name for database in DATABASES]
DRIVERS: Final = {driver.name: driver for database in DATABASES for driver in database.drivers}
PAIRS: Final = (*combinations(KINDS, 2), *zip(KINDS, KINDS, strict=True))


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
        for asynchronous in (False, True):
            drivers = [each for each in DRIVERS.values() if each.asynchronous is asynchronous or each.everywhere]
            firsts, seconds = ([each for each in drivers if each.kind == kind] for kind in (first_kind, second_kind))
            for couple in map(Couple._make, product(firsts, seconds)):
                if couple.asynchronous is asynchronous and (first_kind != second_kind or couple.first == couple.second):
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
