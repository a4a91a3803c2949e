"""A process of ``bench databases``: threads that transfer money between two databases, with a coordinator or without.

Each thread has a connection to each database and makes one transfer after the other, of the kind that is asked for:

    plain         the statements of the transfer, prepare in both, commit in both; raw SQL on cursors that stay open. No decision
                  is recorded and no proof is asked for: after a crash nobody knows what became of it
    coordinated   the same statements inside ``client.transaction()``, with its marks and its proofs and a replicated decision

``python -m raftcoord.drills.transfers CONFIG THREADS NAME URL URL``. It reads lines ``KIND SECONDS`` from stdin and answers each
with a line of JSON: the milliseconds that each transfer took.

Owed: a transfer counts only if it was committed in both; anything else ends the process with the reason on stderr.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any, Final

from raftcoord.client.synchronous import Client
from raftcoord.errors import ConfigError, RaftcoordError
from raftcoord.resources.urls import Url

PLAIN, COORDINATED = "plain", "coordinated"
BRANCHES: Final = ("first", "second")
ACCOUNTS: Final = 1_000
OPENING: Final = 1_000_000
TABLES: Final = (
    "CREATE TABLE accounts (id INT PRIMARY KEY, amount BIGINT NOT NULL)",
    "CREATE TABLE orders (name VARCHAR(40) PRIMARY KEY, account INT NOT NULL, amount BIGINT NOT NULL)",
)
_TIMEOUT_S: Final = 60.0


class Desk:
    """A connection to one database. ``sign``: what its side of a transfer does to the amount."""

    def __init__(self, connection: Any, sign: int) -> None:
        self.connection = connection
        self._sign = sign
        self._cursor = connection.cursor()

    def pay(self, name: str, account: int, amount: int) -> None:
        """The statements of the transfer: the account, and the order that says why."""
        amount *= self._sign
        self._cursor.execute("UPDATE accounts SET amount = amount + %s WHERE id = %s", (amount, account))
        if self._cursor.rowcount != 1:
            raise RaftcoordError(f"there is no account {account}")
        self._cursor.execute("INSERT INTO orders (name, account, amount) VALUES (%s, %s, %s)", (name, account, amount))

    def begin(self, name: str) -> None:
        """Begin a plain branch."""
        raise NotImplementedError

    def prepare(self, name: str) -> None:
        """Prepare it."""
        raise NotImplementedError

    def commit(self, name: str) -> None:
        """Commit it."""
        raise NotImplementedError


class PostgreSqlDesk(Desk):
    """psycopg 3, which begins a transaction by itself."""

    @classmethod
    def connect(cls, url: str, sign: int) -> Desk:
        """Out of autocommit, as a program has it."""
        import psycopg

        return cls(psycopg.connect(url), sign)

    def begin(self, name: str) -> None:
        """The driver does it."""

    def prepare(self, name: str) -> None:
        """PREPARE TRANSACTION."""
        self._cursor.execute(f"PREPARE TRANSACTION '{name}'", prepare=False)

    def commit(self, name: str) -> None:
        """COMMIT PREPARED, which must stand outside a transaction."""
        self.connection.autocommit = True
        self._cursor.execute(f"COMMIT PREPARED '{name}'", prepare=False)
        self.connection.autocommit = False


class MariaDbDesk(Desk):
    """PyMySQL."""

    @classmethod
    def connect(cls, url: str, sign: int) -> Desk:
        """Out of autocommit, as a program has it."""
        import pymysql

        read = Url.parse(url, 3306)
        connection = pymysql.connect(host=read.host, port=read.port, user=read.user, database=read.database)
        return cls(connection, sign)

    def begin(self, name: str) -> None:
        """XA START."""
        self._cursor.execute(f"XA START '{name}'")

    def prepare(self, name: str) -> None:
        """XA END, XA PREPARE."""
        self._cursor.execute(f"XA END '{name}'")
        self._cursor.execute(f"XA PREPARE '{name}'")

    def commit(self, name: str) -> None:
        """XA COMMIT."""
        self._cursor.execute(f"XA COMMIT '{name}'")


class Teller:
    """One thread's two desks. ``name``: no other teller has it."""

    def __init__(self, client: Client, urls: tuple[str, str], name: str) -> None:
        self._client = client
        self._desks = tuple(_desk(url, sign) for url, sign in zip(urls, (-1, +1), strict=True))
        self._rng = random.Random(name)
        self._names = (f"{name}-{number}" for number in itertools.count())
        self._kinds: dict[str, Callable[[str, int, int], None]] = {PLAIN: self._plain, COORDINATED: self._coordinated}

    def measure(self, kind: str, seconds: float) -> list[float]:
        """Transfer for ``seconds``: what each transfer took (ms)."""
        transfer = self._kinds[kind]
        took = []
        end_s = perf_counter() + seconds
        while (began_s := perf_counter()) < end_s:
            transfer(next(self._names), self._rng.randrange(ACCOUNTS), self._rng.randint(1, 9))
            took.append((perf_counter() - began_s) * 1000)
        return took

    def _plain(self, name: str, account: int, amount: int) -> None:
        for desk in self._desks:
            desk.begin(name)
            desk.pay(name, account, amount)
        for desk in self._desks:
            desk.prepare(name)
        for desk in self._desks:
            desk.commit(name)

    def _coordinated(self, name: str, account: int, amount: int) -> None:
        with self._client.transaction(timeout=_TIMEOUT_S) as tx:
            for desk, branch in zip(self._desks, BRANCHES, strict=True):
                tx.enlist(desk.connection, branch)
                desk.pay(name, account, amount)


def _desk(url: str, sign: int) -> Desk:
    made: type[PostgreSqlDesk | MariaDbDesk] = PostgreSqlDesk if url.startswith("postgresql:") else MariaDbDesk
    try:
        return made.connect(url, sign)
    except ImportError as error:
        raise ConfigError(f"the driver {error.name} is not installed: pip install 'psycopg[binary]' PyMySQL") from None


def _asked() -> Iterator[tuple[str, float]]:
    for line in sys.stdin:
        kind, seconds = line.split()
        yield kind, float(seconds)


def main(config: str, threads: str, name: str, *urls: str) -> None:
    """Transfer until stdin ends."""
    first, second = urls
    with Client.from_config(config) as client, ThreadPoolExecutor(int(threads)) as pool:
        tellers = [Teller(client, (first, second), f"{name}-{number}") for number in range(int(threads))]
        for kind, seconds in _asked():
            running = [pool.submit(teller.measure, kind, seconds) for teller in tellers]
            took = [each for measured in running for each in measured.result()]
            sys.stdout.write(json.dumps(took) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception as error:  # a driver's as well: the parent tells it
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")
