"""client.transaction() over real databases: committed everywhere or nowhere, and what the caller is told is true."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from raftcoord import Client, State
from raftcoord.processes.database_servers import DatabaseServer

from .banks import Bank, MariaDbBank, PostgreSqlBank, SqliteBank


@pytest.fixture
def banks(postgresql: DatabaseServer, mariadb: DatabaseServer, tmp_path: Path) -> Iterator[dict[str, Bank]]:
    """One of each."""
    made: dict[str, Bank] = {
        "ledger": PostgreSqlBank(postgresql),
        "orders": MariaDbBank(mariadb),
        "cache": SqliteBank(tmp_path / "cache.db"),
    }
    yield made
    for bank in made.values():
        bank.close()


PAIRS = [("ledger", "orders"), ("ledger", "cache"), ("orders", "cache"), ("ledger", "orders", "cache")]


@pytest.mark.parametrize("names", PAIRS, ids="-".join)
def test_a_block_that_is_left_without_an_exception_is_committed_everywhere(
    client: Client, banks: dict[str, Bank], names: tuple[str, ...]
) -> None:
    with client.transaction() as tx:
        for number, name in enumerate(names, 1):
            banks[name].add(tx.enlist(banks[name].connect(), name), number)
    assert [banks[name].balance() for name in names] == [100 + number for number in range(1, len(names) + 1)]
    assert not any(banks[name].prepared() for name in names)
    assert tx.outcome is not None
    assert client.status(tx.txid).state is State.COMMITTED


@pytest.mark.parametrize("names", PAIRS, ids="-".join)
def test_an_exception_inside_rolls_everything_back_and_goes_on(
    client: Client, banks: dict[str, Bank], names: tuple[str, ...]
) -> None:
    tx = client.transaction()

    def block() -> None:
        with tx:
            for name in names:
                banks[name].add(tx.enlist(banks[name].connect(), name), 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        block()
    assert [banks[name].balance() for name in names] == [100] * len(names)
    assert not any(banks[name].prepared() for name in names)
    assert client.status(tx.txid).state is State.UNDECIDED
