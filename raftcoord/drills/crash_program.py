"""A program that pays from one database to another through ``client.transaction()``, stops where it is told, and is killed there.

``python -m raftcoord.drills.crash_program CLUSTER_YAML MODULE...`` imports the drivers once, and then forks a process for each
line of JSON on stdin (``Job``). Owed: each is a process of its own, with connections and a client of its own, so that kill -9
is what it is elsewhere. It says a line of JSON when it has reached its point, goes on if it gets a line, and says what its
transaction ended with.
"""

from __future__ import annotations

import asyncio
import enum
import importlib
import json
import os
import sys
from typing import Any, Final, NamedTuple

from raftcoord.client.asynchronous import AsyncClient
from raftcoord.client.synchronous import Client
from raftcoord.drills.points import Point, PointReporter
from raftcoord.drills.program_drivers import DRIVERS, execute, execute_async, finished
from raftcoord.errors import Aborted, InDoubt
from raftcoord.types import TxId

CENTS: Final = 10
ACCOUNT: Final = "1"


class ProgramOutcome(enum.StrEnum):
    """What a program has heard of its transaction."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    IN_DOUBT = "in doubt"
    KILLED = "killed"


class Job(NamedTuple):
    """``drivers``, ``urls``, ``branches``: of the branch that pays, and of the other; ``bank``: in both; ``stop``: a Point."""

    drivers: tuple[str, str]
    urls: tuple[str, str]
    branches: tuple[str, str]
    bank: str
    stop: str


def payment(bank: str, cents: int) -> str:
    return f"UPDATE accounts SET cents = cents + ({cents}) WHERE bank = '{bank}' AND account = '{ACCOUNT}'"


def _stops(stop: str) -> PointReporter:
    """Stops at the point ``stop`` until it is told to go on."""

    def reached(point: Point, txid: TxId) -> None:
        if point == stop:
            _say({"at": point, "pid": os.getpid(), "txid": txid.hex()})
            if not _line():
                os._exit(1)  # the process that was to say "go on" has gone

    return PointReporter(reached)


def pay(config: str, job: Job) -> None:
    with Client.from_config(config) as client:
        connections = [DRIVERS[name].connect(url) for name, url in zip(job.drivers, job.urls, strict=True)]
        client.events.attach(_stops(job.stop), holds=True)
        with client.transaction(timeout=10.0) as tx:
            assert tx.txid is not None  # it is read, and so decided by the nodes
            for connection, branch, cents in zip(connections, job.branches, (-CENTS, CENTS), strict=True):
                execute(tx.enlist(connection, branch), payment(job.bank, cents))


async def pay_async(config: str, job: Job) -> None:
    async with AsyncClient.from_config(config) as client:
        connections = [
            await finished(DRIVERS[name].connect(url)) for name, url in zip(job.drivers, job.urls, strict=True)
        ]
        client.events.attach(_stops(job.stop), holds=True)
        async with client.transaction(timeout=10.0) as tx:
            assert tx.txid is not None
            for connection, branch, cents in zip(connections, job.branches, (-CENTS, CENTS), strict=True):
                await execute_async(await tx.enlist(connection, branch), payment(job.bank, cents))


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
    told, why = ProgramOutcome.COMMITTED, ""
    try:
        if any(DRIVERS[name].asynchronous for name in job.drivers):
            asyncio.run(pay_async(config, job))
        else:
            pay(config, job)
    except Aborted as error:
        told, why = ProgramOutcome.ABORTED, str(error)
    except InDoubt as error:
        told, why = ProgramOutcome.IN_DOUBT, str(error)
    except BaseException as error:  # reported, and then judged by the reader
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
