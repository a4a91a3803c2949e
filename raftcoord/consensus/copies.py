"""Copies of the ledger, for a peer that needs log entries which are compacted (DESIGN section 3; replaces H5 and H7).

The leader copies its node.db, sends the copy in chunks, each acknowledged before the next, and a checksum of the whole. The
receiver writes a file and has it installed in one commit, or not at all. A copy that breaks off is dropped on both sides and
begun again when the leader meets that peer's gap the next time.

    copy_begin  [term, index, index_term, bytes, crc32]
    copy_chunk  [offset, data]
    copy_end    []                                       answered when it is installed
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from raftcoord.consensus.disk import ledger_of
from raftcoord.consensus.engine import NUMBER_MAX
from raftcoord.consensus.group import Group
from raftcoord.consensus.host import Errand
from raftcoord.consensus.leaps import check_copy
from raftcoord.consensus.peers import Peers
from raftcoord.errors import (
    ConfigError,
    CorruptionError,
    Halt,
    RaftcoordError,
    RemoteProtocolError,
    StorageError,
    Unavailable,
)
from raftcoord.foreign import shown
from raftcoord.limits import NodeBounds
from raftcoord.rpc.connection import Connection
from raftcoord.storage.node_db import NodeDb, SnapshotInfo, Stored
from raftcoord.storage.room import check_room

_NUMBERS: Final = re.compile(r"[0-9][0-9,]*")

log: Final = logging.getLogger("raftcoord.consensus")


class Outgoing:
    """The copies that a leader sends; at most one to each peer at a time. ``name``: of this node, for its log."""

    def __init__(self, db: NodeDb, directory: Path, name: str, peers: Peers, bounds: NodeBounds) -> None:
        self._db = db
        self._bounds: Final = bounds
        self._directory = directory
        self._name = name
        self._peers = peers
        self._sending: dict[int, asyncio.Task[None]] = {}
        self._again_at: dict[int, float] = {}
        self._failures: dict[int, int] = {}  # one after the other
        self._said: dict[int, str] = {}  # why the last copy broke off, as it was logged

    def serve(self, behind: set[int], term: int | None) -> None:
        """Begin a copy for each of ``behind`` that can be reached; ``term`` None: this node does not lead. Empties the set."""
        loop = asyncio.get_running_loop()
        for node in behind if term is not None else ():
            if node not in self._sending and loop.time() >= self._again_at.get(node, 0.0):
                conn = self._peers.connection(node)
                if conn is not None and term is not None:
                    work = self._copy(node, conn, term)
                    self._sending[node] = loop.create_task(work, name=f"copy for {self._peers.name_of(node)}")
        behind.clear()

    async def stop(self) -> None:
        """Break off."""
        tasks = list(self._sending.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _copy(self, node: int, conn: Connection, term: int) -> None:
        peer = self._peers.name_of(node)
        try:
            index = await self._send(conn, peer, term)
            log.info("%s: node %s has installed the copy of the ledger up to index %d", self._name, peer, index)
            self._failures.pop(node, None)
            self._said.pop(node, None)
        except Exception as error:
            self._broke_off(node, str(error) if isinstance(error, RaftcoordError) else repr(error))
        finally:
            doubled = self._bounds.copy_retry_ms_min * 2 ** min(self._failures.get(node, 0), 16)
            pause_ms = min(doubled, self._bounds.copy_retry_ms_max)
            self._again_at[node] = asyncio.get_running_loop().time() + pause_ms / 1000
            del self._sending[node]

    async def _send(self, conn: Connection, peer: str, term: int) -> int:
        """Send a copy over ``conn``; return its index. Raises what broke it off."""
        path = self._directory / f"copy-for-{peer}.tmp"
        loop = asyncio.get_running_loop()
        try:
            info = await loop.run_in_executor(None, self._db.snapshot_to, path)
            log.info("sending %s a copy of the ledger up to index %d, %d bytes", peer, info.index, info.bytes)
            await conn.request("copy_begin", [term, info.index, info.term, info.bytes, info.crc32])
            with path.open("rb") as file:
                offset = 0
                while chunk := await loop.run_in_executor(None, file.read, self._bounds.copy_chunk_bytes):
                    await conn.request("copy_chunk", [offset, chunk])
                    offset += len(chunk)
            if await conn.request("copy_end", []) is not True:
                raise CorruptionError(f"node {peer} refused the copy; its log says why")
            return info.index
        finally:
            path.unlink(missing_ok=True)

    def _broke_off(self, node: int, why: str) -> None:
        """It is said once for each reason, whatever numbers are in it."""
        self._failures[node] = self._failures.get(node, 0) + 1
        reason = _NUMBERS.sub("", why)
        if self._said.get(node) != reason:
            self._said[node] = reason
            peer = self._peers.name_of(node)
            log.warning(
                "%s: the copy of the ledger for node %s broke off: %s; it is tried again, at last once a minute",
                self._name,
                peer,
                shown(why),
            )


def _refuse_without_room(directory: Path, size: int) -> None:
    try:
        check_room(directory, size, "the copy of the ledger that a leader sends")
    except StorageError as error:
        raise Unavailable(str(error)) from None


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value <= NUMBER_MAX


class Incoming:
    """The copy that a node is receiving; at most one."""

    def __init__(self, directory: Path) -> None:
        self._path: Final = directory / "copy-incoming.tmp"
        self._sender = 0
        self._info: SnapshotInfo | None = None
        self._received = 0

    def begin(self, sender: int, params: list[Any], check: Callable[[int, int, int], None]) -> int:
        """Start over with this copy; return the sender's term. ``check(term, index, index_term)`` raises what refuses it."""
        match params:
            case [int(term), int(index), int(index_term), int(size), int(crc)] if all(map(_is_number, params)):
                check(term, index, index_term)
                # Once as the file that comes in, and once as the ledger that it becomes.
                _refuse_without_room(self._path.parent, 2 * size)
                self._path.write_bytes(b"")
                self._sender, self._received = sender, 0
                self._info = SnapshotInfo(index=index, term=index_term, bytes=size, crc32=crc)
                return term
        raise RemoteProtocolError("a malformed copy_begin")

    def chunk(self, sender: int, params: list[Any]) -> None:
        """Add a chunk, which must be the next one."""
        info = self._expect(sender)
        match params:
            case [int(offset), bytes(data)] if (
                type(offset) is int and offset == self._received and offset + len(data) <= info.bytes
            ):
                self._append(data)
                self._received += len(data)
                return
        self.drop()
        raise RemoteProtocolError("a copy_chunk that is not the next one")

    def end(self, sender: int) -> tuple[Path, SnapshotInfo]:
        """The whole file and what it must be."""
        info = self._expect(sender)
        if self._received != info.bytes:
            self.drop()
            raise RemoteProtocolError(f"a copy of {info.bytes} bytes of which {self._received} were sent")
        self._info = None
        return self._path, info

    def drop(self) -> None:
        """Forget it."""
        self._info = None
        self._path.unlink(missing_ok=True)

    def _append(self, data: bytes) -> None:
        try:
            with self._path.open("ab") as file:
                file.write(data)
        except OSError as error:
            self.drop()
            raise Unavailable(
                f"this node cannot write the copy: {error.strerror}; free some room on its disk"
            ) from error

    def _expect(self, sender: int) -> SnapshotInfo:
        if self._info is None or self._sender != sender:
            raise RemoteProtocolError("a part of a copy that was not begun")
        return self._info


class Installing:
    """Takes the copy that a leader sends, and puts it in the place of the ledger of ``group()``. ``installed``: it has."""

    def __init__(
        self, db: NodeDb, directory: Path, name: str, group: Callable[[], Group], installed: Callable[[], None]
    ) -> None:
        self._db = db
        self._name = name
        self._group = group
        self._on_installed = installed
        self._incoming = Incoming(directory)
        self._whole: tuple[SnapshotInfo, Path, Callable[[Any], None]] | None = None

    @property
    def is_due(self) -> bool:
        """Whether a whole copy has come and is not installed."""
        return self._whole is not None

    def hear(self, sender: int, step: str, params: list[Any], reply: Callable[[Any], None]) -> None:
        """A step of a copy; ``reply`` once. Raises Unavailable if it cannot be taken now, RemoteProtocolError if ever."""
        group = self._group()
        if not group.raft.admitted:  # H16
            raise Unavailable("this node takes no part yet; raftcoord status says whom it waits for")
        if step == "copy_begin":
            if self._whole is not None:  # from the very file that a second copy would be written to
                raise Unavailable("this node is installing a copy of the ledger already; send another one later")
            term = self._incoming.begin(sender, params, self._check)
            if term < group.raft.term:
                self._incoming.drop()
                raise Unavailable(
                    "the leader of an older term sent a copy of its ledger; the new leader's is taken instead"
                )
            reply(True)
        elif step == "copy_chunk":
            self._incoming.chunk(sender, params)
            reply(True)
        else:
            path, info = self._incoming.end(sender)
            self._whole = (info, path, reply)

    def _check(self, term: int, index: int, index_term: int) -> None:
        group = self._group()
        check_copy(term, index, index_term, group.raft.term, group.applied_index)

    def errand(self) -> Errand | None:
        """Install what has come, if it is still needed."""
        if self._whole is None:
            return None
        info, path, reply = self._whole
        if not self._group().needs_copy(info.index, info.term):
            self._end()
            reply(True)
            return None
        log.info("%s: installing a copy of the ledger up to index %d", self._name, info.index)

        def work() -> Stored:
            try:
                self._db.install(path, info)
            finally:
                path.unlink(missing_ok=True)  # here, as the node may stop meanwhile
            return self._db.load()

        return Errand(work, lambda stored, error: self._installed(stored, error, reply))

    def _installed(self, stored: Stored | None, error: BaseException | None, reply: Callable[[Any], None]) -> None:
        self._end()
        if isinstance(error, CorruptionError | ConfigError):  # H5: refused whole, and what was here still stands
            log.error("%s: refused a copy of the ledger: %s", self._name, error)
            reply(False)
            return
        if error is not None or stored is None:
            raise error or Halt("the copy of the ledger vanished")
        self._group().installed(ledger_of(stored), stored.applied_index, stored.applied_term)
        self._on_installed()
        reply(True)

    def _end(self) -> None:
        self._whole = None
        self._incoming.drop()
