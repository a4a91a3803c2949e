"""One node of raftcoord per test session, and coroutine tests."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftcoord import Client
from raftcoord.config import Config
from raftcoord.processes.local_cluster import LocalCluster, write_local_config

from .banks import Bank, MariaDbBank, PostgreSqlBank, SqliteBank


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


@pytest.fixture
def bank(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bank]:
    """Of the kind that the test's driver speaks to."""
    kind = request.getfixturevalue("driver")[0]
    made: Bank
    if kind == "postgresql":
        made = PostgreSqlBank(request.getfixturevalue("postgresql"))
    elif kind == "mariadb":
        made = MariaDbBank(request.getfixturevalue("mariadb"))
    else:
        made = SqliteBank(tmp_path / "bank.db")
    yield made
    made.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[SqliteBank]:
    """The second branch."""
    made = SqliteBank(tmp_path / "other.db")
    yield made
    made.close()
