"""One PostgreSQL, one MariaDB and one node of raftcoord per test session; what is not there is skipped, and said."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from raftcoord import Client
from raftcoord.config import Config
from raftcoord.drills.servers import MariaDbServer, NotHere, PostgreSqlServer, Server
from raftcoord.node.processes import LocalCluster, write_local_config


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """A coroutine test runs in an event loop of its own, for at most 30 s."""
    test = pyfuncitem.obj
    if not inspect.iscoroutinefunction(test):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(test).parameters}

    async def run() -> None:
        async with asyncio.timeout(30):
            await test(**arguments)

    asyncio.run(run())
    return True


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line for each kind of server that was not tested."""
    for what in sorted(_not_tested):
        terminalreporter.write_line(f"NOT TESTED: {what}", yellow=True)


_not_tested: set[str] = set()


def _running(kind: type[Server], what: str) -> Iterator[Any]:
    try:
        server = kind()
    except NotHere as error:
        _not_tested.add(f"{what}: {error}")
        pytest.skip(str(error))
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


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    """A cluster of one node, as a process."""
    made = write_local_config(tmp_path_factory.mktemp("cluster"), nodes=1)
    cluster = LocalCluster(made)
    cluster.start_all()
    try:
        yield made
    finally:
        for node in made.nodes:
            cluster.kill(node.name)


@pytest.fixture(scope="session")
def client(config: Config) -> Iterator[Client]:
    """A client of it, founded."""
    with Client.from_config(config) as made:
        made.cluster_id(timeout=20)
        yield made
