"""What a paying program has begun and was told: a file of JSON lines that outlives kill -9 of the program.

A line stands in the operating system's memory before what it speaks of is done (``begin``), or before anything follows from it
(``told``). It owes the program that comes after it every transaction whose outcome is not known, and the audit a witness. It is
not synced: the machine does not fall in a drill.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from raftcoord.drills.client_history import Told
from raftcoord.types import State, TxId


class Begun(NamedTuple):
    """A program is about to pay order ``order_id`` as ``txid``."""

    txid: TxId
    order_id: int


class HeldInCommit(NamedTuple):
    """A program has its decision to commit ``txid``, has committed neither side, and waits to be killed."""

    txid: TxId


class LeftToResolver(NamedTuple):
    """A program has its decision to commit ``txid``, and leaves the commits to the resolver."""

    txid: TxId


Entry = Begun | Told | HeldInCommit | LeftToResolver
_KINDS: Final[dict[str, type[Entry]]] = {kind.__name__: kind for kind in (Begun, Told, HeldInCommit, LeftToResolver)}


class Journal:
    """Writes to ``path``; what an earlier program has left half written there is cut off."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        os.ftruncate(self._file, path.read_bytes().rfind(b"\n") + 1)

    def write(self, entry: Entry) -> None:
        """One line; it outlives this process when this returns."""
        row = entry._asdict() | {"txid": str(entry.txid)}
        os.write(self._file, json.dumps({type(entry).__name__: row}).encode() + b"\n")


class JournalReader:
    """Reads ``path`` as it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0

    def new(self) -> Iterator[Entry]:
        """The entries since the last time; none while there is no file."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read)
                lines = file.read()
        except FileNotFoundError:
            return
        whole = lines[: lines.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            yield _entry(line)


def _entry(line: bytes) -> Entry:
    ((kind, row),) = json.loads(line).items()
    row["txid"] = TxId.parse(row["txid"])
    if row.get("state") is not None:
        row["state"] = State(row["state"])
    return _KINDS[kind](**row)
