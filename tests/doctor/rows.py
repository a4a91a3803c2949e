"""Rows found again, and protocols run without a database."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from raftcoord.databases.steps import Result, SqlError, Steps
from raftcoord.doctor.findings import Row, Severity

_T = TypeVar("_T")


def having(rows: Iterable[Row], *parts: str) -> Row:
    """The one row whose text has all of ``parts``."""
    rows = list(rows)
    found = [row for row in rows if all(part in " | ".join([row.subject, row.check, row.what]) for part in parts)]
    assert len(found) == 1, (parts, rows)
    return found[0]


def lacking(rows: Iterable[Row], *parts: str) -> None:
    """No row's text has any of ``parts``."""
    found = [row for row in rows if any(part in " | ".join([row.subject, row.check, row.what]) for part in parts)]
    assert not found, found


def troubles(rows: Iterable[Row]) -> list[Row]:
    """What is worse than a note."""
    return [row for row in rows if row.verdict > Severity.NOTE]


def run(steps: Steps[_T], replies: dict[str, list[tuple[Any, ...]] | SqlError]) -> _T:
    """What ``steps`` returns when each statement is answered by the first of ``replies`` that it contains; else no rows."""
    try:
        statement = next(steps)
        while True:
            reply = next((found for part, found in replies.items() if part in statement.sql), [])
            failed = isinstance(reply, SqlError)
            statement = steps.throw(reply) if failed else steps.send(Result(reply, None, len(reply)))
    except StopIteration as stop:
        result: _T = stop.value
        return result
