"""Run a participant in a process of its own, and kill -9 that process after its last answer.

It owes the conformance suite a real end of a process: no handler, no flush, no close. It kills only the process that it
started, or rather: that process kills itself.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgpack

from raftcoord.participants.interface import Participant
from raftcoord.processes.commands import python
from raftcoord.types import Payload, TxId, VoteKind

Step = tuple[str, bytes, Payload]
"""("join", cluster, None), ("prepare", txid, payload), ("commit", txid, None) or ("abort", txid, None)."""

_DONE = b"every step is answered"
_TIMEOUT_S = 60


def run_and_kill(importable: str, directory: Path, steps: list[Step]) -> None:
    """Take the steps in a new process, which then dies of SIGKILL. AssertionError if it did not get that far."""
    done = subprocess.run(
        python("raftcoord.participants.crash", importable, str(directory)),
        input=msgpack.packb(steps),
        capture_output=True,
        check=False,
        timeout=_TIMEOUT_S,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)},
    )
    if done.returncode != -signal.SIGKILL or not done.stdout.endswith(_DONE):
        raise AssertionError(f"{importable} failed before it was killed:\n{done.stderr.decode(errors='replace')}")


def main(importable: str, directory: str) -> None:
    """The process: take the steps that stand on stdin, then die."""
    module, _, attribute = importable.partition(":")
    make: Any = importlib.import_module(module)
    for name in attribute.split("."):
        make = getattr(make, name)
    participant: Participant = make(Path(directory))
    for verb, argument, payload in msgpack.unpackb(sys.stdin.buffer.read()):
        _take(participant, verb, argument, payload)
    os.write(1, _DONE)
    os.kill(os.getpid(), signal.SIGKILL)


def _take(participant: Participant, verb: str, argument: bytes, payload: Payload) -> None:
    match verb:
        case "join":
            participant.join(argument.decode())
        case "prepare":
            vote = participant.prepare(TxId(argument), payload)
            if vote.kind is not VoteKind.YES:
                raise SystemExit(f"a good payload was answered {vote.kind.name}: {vote.reason}")
        case "commit":
            participant.commit(TxId(argument))
        case "abort":
            participant.abort(TxId(argument))


if __name__ == "__main__":
    main(*sys.argv[1:])
