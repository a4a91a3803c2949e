"""A process of ``bench databases``: threads that transfer money between two databases, with a coordinator or without.

Each thread has a connection to each database and makes one transfer after the other, of the kind that is asked for:

    plain         the statements of the transfer, prepare in both, commit in both; raw SQL on cursors that stay open. No decision
                  is recorded and no proof is asked for: after a crash nobody knows what became of it
    coordinated   the same statements inside ``client.transaction()``, with its marks and its proofs and a replicated decision

``python -m raftcoord.bench.transferring CONFIG THREADS SEED URL URL``. It reads lines ``KIND SECONDS`` from stdin, and answers
each with a line of JSON: the milliseconds that each transfer took.

Owed: a transfer counts only if it was committed in both; anything else ends the process with the reason on stderr.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter
from typing import Final

from raftcoord.client.synchronous import Client
from raftcoord.databases.registry import of_url
from raftcoord.drills.database_banks import DatabaseBanks, pay_side
from raftcoord.errors import ConfigError
from raftcoord.types import TxId

PLAIN, COORDINATED = "plain", "coordinated"
BRANCHES: Final = ("first", "second")
ACCOUNTS: Final = 1_000
_TIMEOUT_S: Final = 60.0


class Side:
    """A connection to one database, with psycopg 3 or PyMySQL. ``sign``: what its side of a transfer does to the amount."""

    def __init__(self, branch: str, url: str, sign: int) -> None:
        self.branch = branch
        self.connection = DatabaseBanks(branch, url).connect()
        self._sign = sign
        database = of_url(url)
        by_hand = database.statements.by_hand if database else None
        if by_hand is None:
            raise ConfigError(
                f"branch {branch!r}: nothing can be compared with a database that has no two-phase commit"
            )
        self._by_hand = by_hand
        self._execute = partial(self.connection.cursor().execute, **by_hand.options)

    def pay(self, txid: TxId, account: int, cents: int) -> None:
        """The statements of the transfer: the account, and the payment that says why."""
        pay_side(self.connection, account, txid, self.branch, str(account), self._sign * cents)

    def begin(self, txid: TxId) -> None:
        for sql in self._by_hand.begin:
            self._execute(sql.format(txid))

    def prepare(self, txid: TxId) -> None:
        for sql in self._by_hand.prepare:
            self._execute(sql.format(txid))

    def commit(self, txid: TxId) -> None:
        if self._by_hand.outside:
            self.connection.autocommit = True
        self._execute(self._by_hand.commit.format(txid))
        if self._by_hand.outside:
            self.connection.autocommit = False


class Transferrer:
    """One thread's two sides."""

    def __init__(self, client: Client, urls: tuple[str, str], seed: str) -> None:
        self._client = client
        self._sides = tuple(Side(*each) for each in zip(BRANCHES, urls, (-1, +1), strict=True))
        self._rng = random.Random(seed)
        self._kinds: dict[str, Callable[[int, int], None]] = {
            PLAIN: self._transfer_plainly,
            COORDINATED: self._coordinated,
        }

    def measure(self, kind: str, seconds: float) -> list[float]:
        """Transfer for ``seconds``: what each transfer took (ms)."""
        transfer = self._kinds[kind]
        took = []
        end_s = perf_counter() + seconds
        while (began_s := perf_counter()) < end_s:
            transfer(self._rng.randrange(ACCOUNTS), self._rng.randint(1, 9))
            took.append((perf_counter() - began_s) * 1000)
        return took

    def _transfer_plainly(self, account: int, cents: int) -> None:
        txid = TxId.new()
        for side in self._sides:
            side.begin(txid)
            side.pay(txid, account, cents)
        for side in self._sides:
            side.prepare(txid)
        for side in self._sides:
            side.commit(txid)

    def _coordinated(self, account: int, cents: int) -> None:
        with self._client.transaction(timeout=_TIMEOUT_S) as tx:
            txid = tx.txid
            assert txid is not None  # it is read inside the block
            for side in self._sides:
                tx.enlist(side.connection, side.branch)
                side.pay(txid, account, cents)


def _asked() -> Iterator[tuple[str, float]]:
    for line in sys.stdin:
        kind, seconds = line.split()
        yield kind, float(seconds)


def main(config: str, threads: str, seed: str, *urls: str) -> None:
    """Transfer until stdin ends."""
    first, second = urls
    with Client.from_config(config) as client, ThreadPoolExecutor(int(threads)) as pool:
        transferrers = [Transferrer(client, (first, second), f"{seed}-{number}") for number in range(int(threads))]
        for kind, seconds in _asked():
            running = [pool.submit(each.measure, kind, seconds) for each in transferrers]
            took = [each for measured in running for each in measured.result()]
            sys.stdout.write(json.dumps(took) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception as error:  # a driver's as well: the parent tells it
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")
