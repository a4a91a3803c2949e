"""Several banks in one process: ``python -m raftcoord.drills.banks --config cluster.yaml --name banks-1 bank-aa=aa.db ...``.

Fourteen participants as fourteen processes would keep a small machine busy with switching between them. Each bank here is
a participant of its own, with its own worker, thread and database; only the process is shared, and kill -9 of it kills all.

It prints ``raftcoord participant NAME ready`` on stdout once every bank has been admitted by a node, logs to stderr, and
ends on SIGTERM or SIGINT. Exit codes: 0 stopped, 1 failed with one sentence on stderr, 2 usage.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from raftcoord import lifeline
from raftcoord.config import Config
from raftcoord.env import Env
from raftcoord.errors import ConfigError, RaftcoordError
from raftcoord.participants.sqlite import SqliteParticipant
from raftcoord.participants.worker import Worker


def main(arguments: list[str] | None = None) -> int:
    """Run the banks until they are stopped; the process's exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m raftcoord.drills.banks", description="Several banks in one process."
    )
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--name", required=True, help="what the ready line calls them")
    parser.add_argument("banks", nargs="+", metavar="BANK=DB", help="a bank and its SQLite file")
    options = parser.parse_args(arguments)
    lifeline.watch()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        banks = dict(_bank(text) for text in options.banks)
        asyncio.run(_serve(Config.load(options.config), options.name, banks))
    except RaftcoordError as error:
        print(f"raftcoord participant {options.name}: {error}", file=sys.stderr)
        return 1
    return 0


def _bank(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise ConfigError(f"{text!r} is not a bank; write BANK=DB, such as bank-aa=bank-aa.db")
    return name, Path(path)


async def _serve(config: Config, name: str, banks: Mapping[str, Path]) -> None:
    addresses = [node.client for node in config.nodes]
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        workers = []
        for bank, path in banks.items():
            participant = stack.enter_context(contextlib.closing(SqliteParticipant(path)))
            workers.append(Worker(participant, bank, addresses, Env.real()))

        def stop() -> None:
            for worker in workers:
                worker.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        await _run(workers, name)


async def _run(workers: list[Worker], name: str) -> None:
    """All of them, until all are stopped or one fails, which is the error."""
    serving = [asyncio.create_task(worker.run()) for worker in workers]
    announcing = asyncio.create_task(_announce(workers, name))
    try:
        done, _ = await asyncio.wait(serving, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        announcing.cancel()
        for worker in workers:
            worker.stop()
        await asyncio.wait(serving)


async def _announce(workers: list[Worker], name: str) -> None:
    for worker in workers:
        await worker.ready.wait()
    print(f"raftcoord participant {name} ready", flush=True)


if __name__ == "__main__":
    sys.exit(main())
