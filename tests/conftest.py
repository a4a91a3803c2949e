"""One PostgreSQL and one MariaDB per test session, for every directory; what is not here is skipped, and said at the end.

Coverage is of core/ and consensus/ by their own tests and those of node/. It would make the others take three times as long, and
a line is not tested because a simulation passed it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from raftcoord.databases.database import NotHere
from raftcoord.errors import ConfigError
from raftcoord.processes.database_servers import DatabaseServer

NOT_TESTED = "NOT TESTED: "
COVERED = {"core", "consensus", "node"}
LONG = {"bench", "cli", "databases", "demos", "drills", "sim"}
"""Begun first: of files that run in parallel the last should be short."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """See above."""
    items.sort(key=lambda item: item.path.parent.name not in LONG)
    for item in items:
        if item.path.parent.name not in COVERED:
            item.add_marker("no_cover")


def _skipping() -> Iterator[Any]:
    """A server that is not here skips the test, also where what is tested has made a ConfigError of it."""
    try:
        return (yield)
    except (NotHere, ConfigError) as error:
        absent = error if isinstance(error, NotHere) else error.__context__
        if not isinstance(absent, NotHere):
            raise
        pytest.skip(f"{NOT_TESTED}{absent.server}: {absent}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[Any]:
    """See above."""
    return (yield from _skipping())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[Any]:
    """See above."""
    return (yield from _skipping())


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line in front of the summary for each kind of server that was not tested, however many tests wanted it."""
    reasons = [str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", ())]
    found = [reason.removeprefix("Skipped: ") for reason in reasons]
    for line in sorted({line for line in found if line.startswith(NOT_TESTED)}):
        terminalreporter.write_line(line, yellow=True)


def _running(server: DatabaseServer) -> Iterator[Any]:
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[DatabaseServer]:
    """A PostgreSQL without fsync."""
    yield from _running(DatabaseServer("postgresql"))


@pytest.fixture(scope="session")
def mariadb() -> Iterator[DatabaseServer]:
    """A MariaDB without fsync."""
    yield from _running(DatabaseServer("mariadb"))
