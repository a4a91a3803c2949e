"""Entries of the log: the codec of commands, whichever table they belong to.

One entry carries a batch: everything that one node had to propose in one tick.

    entry   = [FORMAT, origin, boot, seq, [command, ...]]
    command = [kind, field, ...]                          the fields of the NamedTuple, in order

``origin``, ``boot`` and ``seq`` name the batch: the node that proposed it, that node's incarnation (random, 64 bits) and
a counter. The node that finds its own name in an applied entry answers those who wait for it. An entry without commands
is a barrier.

A committed entry that this code cannot read was written by a newer version, or is not what was written: the reader
halts (hazard H9: an entry that is skipped by one node and applied by another is a divergence). Every command here is
idempotent, so a batch may be proposed again when its fate is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, NoReturn

import msgpack

from raftcoord.core.tables import TABLES
from raftcoord.core.tables.table import Command, unreadable
from raftcoord.errors import LocalProtocolError, check

FORMAT: Final = 1

KINDS: Final[dict[int, type[Command]]] = {
    number: kind.type for number, kind in sorted(pair for table in TABLES for pair in table.commands.items())
}
"""8 was never given."""
check(len(KINDS) == sum(len(table.commands) for table in TABLES), "two commands have one number")
_KIND_OF: Final[dict[type[Command], int]] = {kind: number for number, kind in KINDS.items()}


_packb = msgpack.Packer(use_bin_type=True, autoreset=True).pack


def encode_command(command: Command) -> bytes:
    """One command as MessagePack. Encoded when proposed, so that the bytes of a batch are known as it gathers."""
    return _packb((_KIND_OF[type(command)], *command))  # type: ignore[no-any-return]


def encode_entry(origin: int, boot: int, seq: int, commands: Sequence[bytes]) -> bytes:
    """An entry from commands that are encoded already."""
    head = _packb((FORMAT, origin, boot, seq))
    return b"".join((b"\x95", head[1:], _array_head(len(commands)), *commands))


def _array_head(length: int) -> bytes:
    if length < 16:
        return bytes((0x90 | length,))
    if length < 1 << 16:
        return b"\xdc" + length.to_bytes(2, "big")
    raise LocalProtocolError(f"an entry of {length} commands: at most 65535 fit; propose fewer at a time")


class Sealed(NamedTuple):
    """An entry whose name is read and whose commands are not yet."""

    origin: int
    boot: int
    seq: int
    rows: tuple[Any, ...]

    def commands(self) -> tuple[Command, ...]:
        """The commands. Raises Halt for anything that this version would not have written."""
        return tuple(_decode_command(row) for row in self.rows)


def open_entry(data: bytes, items_max: int = (1 << 16) - 1) -> Sealed:
    """The entry that ``data`` writes. Raises Halt for anything that this version would not have written.

    ``items_max``: of one array. A header alone makes the parser reserve room, and headers can be nested.
    """
    try:
        value = msgpack.unpackb(
            data,
            use_list=False,
            strict_map_key=True,
            object_hook=_no_map,
            max_array_len=items_max,
            max_map_len=0,
            max_ext_len=0,
        )
    except Exception as error:
        raise unreadable(f"not MessagePack ({error})") from None
    match value:
        case (int(form), *_) if form != FORMAT:
            raise unreadable(f"entry format {form}, this version reads {FORMAT}")
        case (int(), int(origin), int(boot), int(seq), tuple(rows)):
            return Sealed(origin, boot, seq, rows)
    raise unreadable("not an entry")


def _no_map(_: object) -> NoReturn:
    raise ValueError("a map, and no command has one")


def _decode_command(row: Any) -> Command:
    if type(row) is not tuple or not row or type(row[0]) is not int:
        raise unreadable("what is no command")
    read = _READERS.get(row[0])
    if read is None:
        raise unreadable(f"command kind {row[0]}")
    command = read(row)
    if command is None:  # not shown: the text of what is nested a thousand deep does not fit on Python's stack
        raise unreadable(f"a malformed command of kind {row[0]}")
    return command


_READERS: Final[dict[int, Callable[[tuple[Any, ...]], Command | None]]] = {
    number: kind.read for number, kind in KINDS.items()
}
