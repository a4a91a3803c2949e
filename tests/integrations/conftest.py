"""The node and the client are those of tests/databases; a shop is for the tests of SQLAlchemy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from databases.conftest import client, config, pytest_pyfunc_call

from raftcoord import Client
from raftcoord.config import Config
from raftcoord.processes.database_servers import DatabaseServer

from .shop import Shop
from .world import Astray

__all__ = ["client", "config", "pytest_pyfunc_call"]


@pytest.fixture(scope="session")
def the_shop(
    postgresql: DatabaseServer,
    mariadb: DatabaseServer,
    config: Config,
) -> Iterator[Shop]:
    """Made once."""
    made = Shop(postgresql, mariadb, config)
    yield made
    made.close()


@pytest.fixture
def shop(the_shop: Shop, client: Client) -> Iterator[Shop]:
    """Empty, and nothing prepared in it."""
    the_shop.clear(client)
    yield the_shop
    the_shop.clear(client)


@pytest.fixture
def astray(config: Config) -> Iterator[Astray]:
    """A client in whose decisions a test can meddle."""
    with Astray.from_config(config) as made:
        yield made
