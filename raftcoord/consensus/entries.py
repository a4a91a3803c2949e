"""Entries that are not applied yet, decoded once: where they come in.

An entry that could not be applied would halt every node that has it in its log, at each start. So a node that appends one that a
peer sent opens it first, and refuses what no node would have written: that closes the peer's connection and changes nothing.
What was opened is kept until it is applied, so that nothing is decoded twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, NoReturn

from raftcoord import limits
from raftcoord.consensus.engine import MEMBERS, NO_OP, REGULAR, Arriving, Log
from raftcoord.consensus.proposals import Batch
from raftcoord.core.commands import Sealed, open_entry
from raftcoord.core.tables.members import Members, decode, follows
from raftcoord.core.tables.table import Command
from raftcoord.errors import Halt, RemoteProtocolError, check

KEPT_MAX: Final = 4_096
"""Entries that are kept opened: more than are ever on their way. A node that is further behind decodes the rest again."""


class Opened(NamedTuple):
    """An entry: the bytes that the log holds, and what they say. ``batch``: of this node, if it wrote them."""

    data: bytes
    commands: Sequence[Command]
    batch: Batch | None


def acceptable(entry: bytes, horizon_ms_max: int = limits.TIME_MS_MAX) -> tuple[Command, ...]:
    """The commands of an entry that a peer sends to be appended. RemoteProtocolError if it must not be.

    ``horizon_ms_max``: the latest time to which the horizon may move.
    """
    return _commands(_open(entry), horizon_ms_max)


def opened(data: bytes, name: tuple[int, int], flying: Mapping[int, Batch], horizon_ms_max: int) -> Opened | None:
    """What a leader sends as ``data``, or None if it holds no commands. RemoteProtocolError if it must not be appended.

    ``name``: this node and its boot; ``flying``: its batches that wait for their entry, by their seq.
    """
    if data == NO_OP or data[:1] == MEMBERS:  # the latter was looked at by the one who opens many
        return None
    if data[:1] != REGULAR:
        _refuse("an entry of a kind that this version does not know")
    entry = data[1:]
    sealed = _open(entry)
    batch = flying.get(sealed.seq) if (sealed.origin, sealed.boot) == name else None
    if batch is None:  # somebody else's, or ours proposed twice and answered before
        return Opened(data, _commands(sealed, horizon_ms_max), None)
    if batch.entry != entry:
        _refuse("another entry under the name of one that this node proposed")
    return Opened(data, batch.commands, batch)


def reopened(data: bytes, name: tuple[int, int], flying: Mapping[int, Batch]) -> Opened:
    """An entry that was in the log when this node started, or came when too many were kept. Halt if it cannot be applied."""
    sealed = open_entry(data[1:])
    batch = flying.get(sealed.seq) if (sealed.origin, sealed.boot) == name else None
    if batch is None:
        return Opened(data, sealed.commands(), None)
    check(batch.entry == data[1:], "the log has another entry under the name of one that this node proposed")
    return Opened(data, batch.commands, batch)


class Kept:
    """Opened entries of ``log`` by their index, from when they come in until they are applied."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._opened: dict[int, Opened] = {}

    def open(
        self,
        arriving: Arriving,
        name: tuple[int, int],
        flying: Mapping[int, Batch],
        horizon_ms_max: int,
        members_before: Callable[[int], Members | None],
    ) -> list[tuple[int, int, Members]]:
        """Open what a leader sends and the log does not hold yet; return the sets of members in it: (index, term, set).

        RemoteProtocolError as for ``opened``. ``members_before(index)``: the set in force before that entry, if it is known.
        """
        sets: list[tuple[int, int, Members]] = []
        before = members_before(arriving.entries[0][1]) if arriving.fits else None
        for data, index, term in arriving.entries:
            entry = opened(data, name, flying, horizon_ms_max)
            if entry is not None:
                self.put(index, entry)
            elif data[:1] == MEMBERS:
                before = _next_members(data, before)
                sets.append((index, term, before))
        return sets

    def put(self, index: int, entry: Opened) -> None:
        """``entry`` is the log's entry ``index``, or will be if the log takes it."""
        if len(self._opened) >= KEPT_MAX:  # what was refused by the log, or truncated, is never taken
            self._opened = {at: kept for at, kept in self._opened.items() if self._is_in_log(at, kept)}
        if len(self._opened) < KEPT_MAX:
            self._opened[index] = entry

    def _is_in_log(self, index: int, kept: Opened) -> bool:
        return self._log.term_at(index) is not None and self._log.between(index - 1, index)[0][0] is kept.data

    def take(self, index: int, data: bytes) -> Opened | None:
        """The entry ``index``, which the log holds as ``data``; None if it was not kept and must be decoded."""
        kept = self._opened.pop(index, None)
        return kept if kept is not None and kept.data is data else None


def _open(entry: bytes) -> Sealed:
    if len(entry) > limits.ENTRY_BYTES_MAX + limits.PAYLOAD_BYTES_MAX:
        _refuse(f"an entry of {len(entry)} bytes")
    try:
        sealed = open_entry(entry, limits.ENTRY_ITEMS_MAX)
    except Halt as error:
        _refuse(f"an entry that cannot be applied: {error}")
    if len(sealed.rows) > limits.ENTRY_COMMANDS_MAX:
        _refuse(f"an entry of {len(sealed.rows)} commands; at most {limits.ENTRY_COMMANDS_MAX} are allowed")
    return sealed


def _next_members(data: bytes, before: Members | None) -> Members:
    """The set that an entry holds. ``before``: the one that it must follow by one step; None: not known here."""
    members = decode(data[1:])
    if members is None:
        _refuse("a set of members that this version cannot read")
    if before is not None and not follows(before, members):
        _refuse(f"the members of epoch {members.epoch}, which are not one step after those of epoch {before.epoch}")
    return members


def _commands(sealed: Sealed, horizon_ms_max: int) -> tuple[Command, ...]:
    try:
        commands = sealed.commands()
    except Halt as error:
        _refuse(f"an entry that cannot be applied: {error}")
    for command in commands:
        if wrong := command.excess(horizon_ms_max):
            _refuse(f"an entry with {wrong}")
    return commands


def _refuse(what: str) -> NoReturn:
    raise RemoteProtocolError(
        f"a peer sent {what}; nothing of it was taken: run the same raftcoord release on every node"
    ) from None
