"""What tests of frameworks share: two banks, a client whose decisions go astray, programs to kill, and the resolver."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from databases.banks import Bank, MariaDbBank, PostgreSqlBank

from raftcoord import Client, Outcome, TxId, Verdict
from raftcoord.config import Config
from raftcoord.databases.resolver.resource import Resource
from raftcoord.databases.resource_config import ResourceConfig
from raftcoord.processes.database_servers import DatabaseServer
from raftcoord.types import Branch

WAIT_S = 60.0
TESTS = Path(__file__).parents[1]
NAMES = ("ledger", "orders", "cache")


class Astray(Client):
    """A client in whose ``decide`` something else happens first: ``before(txid)``, or afterwards: ``after(txid)``."""

    before: Callable[[TxId], None] = staticmethod(lambda txid: None)
    after: Callable[[TxId], None] = staticmethod(lambda txid: None)

    def decide(self, txid: TxId | str, verdict: Verdict, *args: Any, **kwargs: Any) -> Outcome:
        self.before(TxId.parse(txid))
        outcome = super().decide(txid, verdict, *args, **kwargs)
        self.after(TxId.parse(txid))
        return outcome


class Banks:
    """``ledger`` in PostgreSQL and ``orders`` in MariaDB, with alice's 100 in each."""

    def __init__(self, postgresql: DatabaseServer, mariadb: DatabaseServer, config: Config) -> None:
        self.ledger, self.orders = PostgreSqlBank(postgresql), MariaDbBank(mariadb)
        self.config = config

    def all(self) -> tuple[Bank, ...]:
        return self.ledger, self.orders

    def balances(self) -> tuple[int, int]:
        return self.ledger.balance(), self.orders.balance()

    def reset(self) -> None:
        for bank in self.all():
            bank.sql("UPDATE accounts SET amount = 100 WHERE name = 'alice'")
            bank.sql("DELETE FROM accounts WHERE name <> 'alice'")

    def close(self) -> None:
        for bank in self.all():
            bank.close()

    def prepared(self, client: Client) -> list[TxId]:
        """What is prepared of the cluster, on either side."""
        cluster = client.cluster_id()
        listed = [each for bank in self.all() for each in bank.other.run(bank.dialect.list_prepared(cluster))]
        return [each.gid.txid for each in listed if each.here]

    def resolve(self, client: Client) -> None:
        """What the resolver does, until nothing is prepared."""
        found = [
            Resource(ResourceConfig(Branch(name), bank.url), frozenset(NAMES), client, safety_s=0.0)
            for name, bank in zip(NAMES, self.all(), strict=False)
        ]
        try:
            until(lambda: [each.look(thorough=True) for each in found] and not self.prepared(client))
        finally:
            for each in found:
                each.close()

    def kill_at(self, program: str, *arguments: str) -> TxId:
        """Run tests/integrations/``program`` until it says that it is there, kill -9; the txid that it has said."""
        where = [str(self.config.path), self.ledger.url, str(self.orders.server.port), self.orders.database]
        child = subprocess.Popen(
            [sys.executable, str(TESTS / "integrations" / program), *where, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent), *sys.path])},
        )
        assert child.stdout is not None
        try:
            word, _, txid = child.stdout.readline().strip().partition(" ")
            assert word == "there", (word, child.poll())
            return TxId.parse(txid)
        finally:
            child.kill()
            child.wait()
            child.stdout.close()


def until(condition: Callable[[], object]) -> None:
    """Wait for it, for at most a minute."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)
