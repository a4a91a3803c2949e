"""One PostgreSQL and one MariaDB per test session, for every directory; what is not here is skipped, and said at the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from raftcoord.drills.servers import MariaDbServer, NotHere, PostgreSqlServer, Server

NOT_TESTED = "NOT TESTED: "


def not_tested(what: str) -> None:
    """Skip this test, with a line of its own in front of pytest's summary."""
    pytest.skip(f"{NOT_TESTED}{what}")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line for each kind of server that was not tested, however many tests wanted it."""
    reasons = [str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", ())]
    found = [reason.removeprefix("Skipped: ") for reason in reasons]
    for line in sorted({line for line in found if line.startswith(NOT_TESTED)}):
        terminalreporter.write_line(line, yellow=True)


def _running(kind: type[Server], what: str) -> Iterator[Any]:
    try:
        server = kind()
    except NotHere as error:
        not_tested(f"{what}: {error}")
        raise
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSqlServer]:
    """A PostgreSQL without fsync."""
    yield from _running(PostgreSqlServer, "PostgreSQL")


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDbServer]:
    """A MariaDB without fsync."""
    yield from _running(MariaDbServer, "MariaDB")
