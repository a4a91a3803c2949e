"""The forked programs of the crash matrix, seen by the process that started them.

Never: a process of somebody else.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

from raftcoord.drills.crash_program import Job, ProgramOutcome
from raftcoord.errors import RaftcoordError
from raftcoord.processes.commands import python
from raftcoord.types import TxId

ANSWER_S: Final = 60.0
"""How long a program may take to reach its point, or to end (s): a machine may be busy."""


class StoppedAtPoint(NamedTuple):
    """A program that stands at its point."""

    pid: int
    txid: TxId


class ForkServer:
    """A process with the drivers imported, which forks a program for each job: one at a time."""

    def __init__(self, config: Path, modules: Iterable[str], log: Path) -> None:
        command = python("raftcoord.drills.crash_program", str(config), *modules)
        self._unread = b""
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
            )
        self._answer("ready")

    def start(self, job: Job) -> StoppedAtPoint:
        """Run ``job`` until it has reached its point. Raises RaftcoordError if it ends before."""
        self._tell(json.dumps(job._asdict()))
        at = self._answer("at")
        return StoppedAtPoint(at["pid"], TxId.parse(at["txid"]))

    def kill(self, stopped: StoppedAtPoint) -> None:
        os.kill(stopped.pid, signal.SIGKILL)
        self._answer("ended")

    def go_on(self) -> None:
        self._tell("go on")

    def told(self) -> ProgramOutcome:
        """What its transaction has ended with."""
        told = self._answer("told")
        self._answer("ended")
        return ProgramOutcome(told["told"])

    def close(self) -> None:
        """End it, and with it whatever it has forked."""
        self._process.kill()
        self._process.communicate()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def _answer(self, what: str) -> dict[str, Any]:
        read = self._read()
        if what not in read:
            raise RaftcoordError(f"a program of the drill has not done what it was to do: {read.get('failed', read)}")
        return read

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + ANSWER_S
        while b"\n" not in self._unread:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            more = os.read(descriptor, 1 << 16) if ready else b""
            if not more:
                raise RaftcoordError("a program of the drill has ended, or does not answer")
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        read: dict[str, Any] = json.loads(line)
        return read
