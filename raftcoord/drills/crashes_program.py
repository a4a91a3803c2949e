"""A program that pays from one database to another through ``client.transaction()``, stops where it is told, and is killed there.

``python -m raftcoord.drills.crashes_program CLUSTER_YAML MODULE...`` imports the drivers once, and then forks a process for each
line of JSON on stdin (``Job``). Owed: each is a process of its own, with connections and a client of its own, so that kill -9
is what it is elsewhere. It says a line of JSON when it has reached its point, goes on if it gets a line, and says what its
transaction ended with. Never: a stop outside the moves of the transaction; what is tested is the product's own path.
"""

from __future__ import annotations

import asyncio
import enum
import importlib
import json
import os
import sys
from typing import Any, Final, NamedTuple

from raftcoord.client.async_transaction import AsyncTransaction, TransactionRequests
from raftcoord.client.asynchronous import AsyncClient
from raftcoord.client.moves import Decide, Move, Run
from raftcoord.client.synchronous import Client
from raftcoord.client.transaction import Transaction
from raftcoord.drills.crashes_drivers import DRIVERS, execute, execute_async, finished
from raftcoord.errors import Aborted, InDoubt
from raftcoord.types import TxId, Verdict

CENTS: Final = 10


class Point(enum.StrEnum):
    """Where a program can be stopped."""

    BEFORE_PREPARE = "before the first prepare"
    BETWEEN_PREPARES = "between prepares"
    BEFORE_DECISION = "before the decision"
    AFTER_DECISION = "after the decision"
    BETWEEN_COMMITS = "between commits"

    @property
    def decided(self) -> bool:
        """Whether COMMIT is in the ledger by then."""
        return self in (Point.AFTER_DECISION, Point.BETWEEN_COMMITS)


class Told(enum.StrEnum):
    """What a program was told."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    IN_DOUBT = "in doubt"
    KILLED = "killed"


class Job(NamedTuple):
    """``drivers``, ``urls``, ``branches``: of the branch that pays, and of the other; ``account``: in both; ``stop``: a Point."""

    drivers: tuple[str, str]
    urls: tuple[str, str]
    branches: tuple[str, str]
    account: str
    stop: str


def payment(account: str, cents: int) -> str:
    """Work in a branch."""
    return f"UPDATE accounts SET cents = cents + ({cents}) WHERE name = '{account}'"


class _Stops:
    """Which point the next move stands at: by what was moved before."""

    def __init__(self, stop: str, txid: TxId | None) -> None:
        assert txid is not None  # it was read before the end of the block
        self._stop = stop
        self._txid = txid
        self._prepares = 0
        self._commits = 0

    def before(self, move: Move) -> None:
        match move:
            case Run(_, steps) if getattr(steps, "__name__", "") == "prepare":
                self._reached(Point.BETWEEN_PREPARES if self._prepares else Point.BEFORE_PREPARE)
                self._prepares += 1
            case Run(_, steps) if getattr(steps, "__name__", "") == "commit_prepared_here":
                self._reached(Point.BETWEEN_COMMITS if self._commits else Point.AFTER_DECISION)
                self._commits += 1
            case Decide(verdict=Verdict.COMMIT):
                self._reached(Point.BEFORE_DECISION)

    def _reached(self, point: Point) -> None:
        if point == self._stop:
            _say({"at": point, "pid": os.getpid(), "txid": self._txid.hex()})
            if not _line():
                os._exit(1)  # whoever was to say "go on" has gone


class _Stopping(Transaction):
    stops: _Stops

    def _carry_out(self, move: Move) -> Any:
        self.stops.before(move)
        return super()._carry_out(move)


class _AsyncStopping(AsyncTransaction):
    stops: _Stops

    async def _carry_out(self, move: Move) -> Any:
        self.stops.before(move)
        return await super()._carry_out(move)


def pay(config: str, job: Job) -> None:
    """With synchronous drivers."""
    with Client.from_config(config) as client:
        connections = [DRIVERS[name].connect(url) for name, url in zip(job.drivers, job.urls, strict=True)]
        with _Stopping(client, 10.0, client._complete_later) as tx:
            tx.stops = _Stops(job.stop, tx.txid)
            for connection, branch, cents in zip(connections, job.branches, (-CENTS, CENTS), strict=True):
                execute(tx.enlist(connection, branch), payment(job.account, cents))


async def pay_async(config: str, job: Job) -> None:
    """With asynchronous ones."""
    async with AsyncClient.from_config(config) as client:
        assert isinstance(client, TransactionRequests)
        connections = [
            await finished(DRIVERS[name].connect(url)) for name, url in zip(job.drivers, job.urls, strict=True)
        ]
        async with _AsyncStopping(client, 10.0) as tx:
            tx.stops = _Stops(job.stop, tx.txid)
            for connection, branch, cents in zip(connections, job.branches, (-CENTS, CENTS), strict=True):
                await execute_async(await tx.enlist(connection, branch), payment(job.account, cents))


def main(config: str, modules: list[str]) -> None:
    """Fork a program for each job, until stdin ends."""
    for module in modules:
        importlib.import_module(module)
    _say({"ready": True})
    while line := _line():
        pid = os.fork()
        if pid == 0:
            _run(config, Job(**json.loads(line)))
        os.waitpid(pid, 0)
        _say({"ended": pid})


def _run(config: str, job: Job) -> None:
    """The forked process, to its end."""
    told, why = Told.COMMITTED, ""
    try:
        if any(DRIVERS[name].asynchronous for name in job.drivers):
            asyncio.run(pay_async(config, job))
        else:
            pay(config, job)
    except Aborted as error:
        told, why = Told.ABORTED, str(error)
    except InDoubt as error:
        told, why = Told.IN_DOUBT, str(error)
    except BaseException as error:  # told, and then judged by whoever reads it
        _say({"failed": f"{type(error).__name__}: {error}"})
        os._exit(1)
    _say({"told": told, "why": why})
    os._exit(0)


def _say(value: dict[str, Any]) -> None:
    os.write(1, json.dumps(value).encode() + b"\n")


def _line() -> bytes:
    """The next line of stdin, and not a byte more: the rest is for another process; b"" at its end."""
    line = bytearray()
    while not line.endswith(b"\n"):
        read = os.read(0, 1)
        if not read:
            return b""
        line += read
    return bytes(line)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
