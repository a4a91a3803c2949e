"""One worker of the transfers: programs that pay the same orders, each when the one before was killed.

Owed: what is paid is known from the journal alone. Never: two programs on one journal.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from raftcoord.drills.crashes_payer import read_journal, write_orders
from raftcoord.drills.orders import Order
from raftcoord.errors import RaftcoordError


class Worker:
    """One program after the other, on the same journal."""

    def __init__(
        self, number: int, directory: Path, orders: list[Order], command: Callable[[Path, Path], list[str]]
    ) -> None:
        self.number = number
        self.journal = directory / f"worker-{number}.journal"
        self.log = directory / f"worker-{number}.log"
        self._orders = directory / f"worker-{number}.orders"
        write_orders(self._orders, orders)
        self._command = command(self.journal, self._orders)
        self._process: subprocess.Popen[bytes] | None = None
        self._read_bytes = 0
        self._paid = 0

    def start(self) -> None:
        """Another program; the one before must have ended."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        """kill -9, also of one that has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def is_running(self) -> bool:
        """Whether a program runs."""
        return self._process is not None and self._process.poll() is None

    def ended(self) -> bool:
        """Whether all is paid. Raises RaftcoordError if it ended otherwise."""
        assert self._process is not None
        code = self._process.poll()
        if code:
            last = self.log.read_text(errors="replace").strip().splitlines()[-1:]
            raise RaftcoordError(f"program {self.number} has ended with {code}: {' '.join(last)}")
        return code == 0

    def paid(self) -> int:
        """How many orders are paid, by the journal; only what is new in it is read."""
        entries = read_journal(self.journal, self._read_bytes)
        self._read_bytes += sum(len(str(entry)) for entry in entries)
        self._paid += sum(entry.word.paid for entry in entries)
        return self._paid
