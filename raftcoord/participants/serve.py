"""Run a participant as a process: ``serve(participant, "till", Config.load("cluster.yaml"))``.

It owes a clean end: SIGTERM and SIGINT let the running batch finish and its answers go out. It does not close the
participant; the caller that opened it does.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from raftcoord import lifeline, logs, private
from raftcoord.config import Config
from raftcoord.env import Env
from raftcoord.errors import ConfigError, LocalProtocolError, RaftcoordError
from raftcoord.participants.interface import Participant
from raftcoord.participants.sqlite import SqliteParticipant
from raftcoord.participants.worker import Worker
from raftcoord.types import checked_name

_log: Final = logging.getLogger("raftcoord.participants")

_AMOUNT: Final = re.compile(r"-?[0-9]{1,19}", re.ASCII)


def _print(ready: str) -> None:
    print(ready, flush=True)


def serve(participant: Participant, name: str, config: Config, on_ready: Callable[[str], None] = _print) -> None:
    """Serve until SIGTERM or SIGINT. ``on_ready`` gets one line with ``ready`` when the first node has admitted the participant.

    Blocks. What stops it is one sentence on stderr and the end of the process (SystemExit): exit code 2 if something is set up
    wrongly, such as a state of another cluster, else 1. Whatever else the participant's ``run`` raised goes on as it is.
    """
    try:
        run(participant, name, config, on_ready)
    except RaftcoordError as error:
        print(f"raftcoord participant {name}: {error}", file=sys.stderr, flush=True)
        sys.exit(2 if isinstance(error, ConfigError | LocalProtocolError) else 1)


def run(participant: Participant, name: str, config: Config, on_ready: Callable[[str], None] = _print) -> None:
    """``serve`` for a caller that handles errors: raises WrongCluster, StorageError, or what the participant's ``run`` raised."""
    asyncio.run(_serve(participant, name, config, on_ready))


def serve_accounts(
    db: Path, name: str, config: Config, accounts: Mapping[str, int], on_ready: Callable[[str], None] = _print
) -> None:
    """``serve`` a SqliteParticipant on the file ``db``, logging to stderr. ``accounts``: opened the first time for this file."""
    checked_name(name, "participant")
    lifeline.watch()
    os.umask(private.UMASK)
    logs.to_stderr("%(asctime)s %(levelname)s %(message)s")
    participant = SqliteParticipant(db)
    try:
        if accounts and not participant.open_accounts_once(accounts):
            _log.info("accounts were opened in %s before: --open is left alone", db)
        run(participant, name, config, on_ready)
    finally:
        participant.close()


def accounts_of(options: Iterable[str]) -> dict[str, int]:
    """The accounts that the options ``--open KEY=AMOUNT`` write. Raises ConfigError."""
    accounts: dict[str, int] = {}
    for text in options:
        key, amount = _account(text)
        if key in accounts:
            raise ConfigError(f"--open {text}: the account {key!r} is given twice; keep one of the two")
        accounts[key] = amount
    return accounts


def _account(text: str) -> tuple[str, int]:
    key, equals, amount = text.rpartition("=")
    if not key or not equals or _AMOUNT.fullmatch(amount) is None:
        raise ConfigError(f"--open {text}: write KEY=AMOUNT with an integer amount (cents), such as --open alice=10000")
    return key, int(amount)


async def _serve(participant: Participant, name: str, config: Config, on_ready: Callable[[str], None]) -> None:
    addresses = [node.client for node in config.nodes]
    worker = Worker(participant, name, addresses, Env.real(), cluster_name=config.cluster)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop)
    loop.add_signal_handler(signal.SIGHUP, logs.on_hangup, worker.stop)
    announcing = loop.create_task(_announce(worker, name, on_ready))
    try:
        await worker.run()
    finally:
        announcing.cancel()


async def _announce(worker: Worker, name: str, on_ready: Callable[[str], None]) -> None:
    await worker.ready.wait()
    on_ready(f"raftcoord participant {name} ready")
