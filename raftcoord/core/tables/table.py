"""What a table of the ledger is: the protocol between a table and the rooms that replicate, store, copy and check it.

A table is one file in this folder and one entry in the list (``__init__.py``). It brings

    commands   number in the log -> ``CommandKind``: a NamedTuple with its decoder and its bounds, and the rule that applies it
    rows       what of it is stored in an SQL table of its name, and how a row is written, read and proved
    fields     what of it is stored beside rows, as JSON

and the simulator compares it with a model of the same name in sim/models/, which shares no rule with it.

Owed by every rule: it is total (hazard H9), it depends on nothing but the commands before it, and it is idempotent, because a
batch is proposed again when its fate is not known. What it changes in memory it notes in ``pending``, to be stored in one commit
with the applied index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, NamedTuple, Protocol, Self, TypeVar
from zlib import crc32

import msgpack

from raftcoord import limits
from raftcoord.errors import Halt, LocalProtocolError
from raftcoord.types import BranchesByTxid, TxId

_pack = msgpack.Packer().pack
_unpackb = msgpack.unpackb


class Done(NamedTuple):
    """The answer of most rules: whether the command changed anything."""

    changed: bool


CHANGED: Final = Done(True)
UNCHANGED: Final = Done(False)

# -- commands -----------------------------------------------------------------------------------------------------


class Command(Protocol):
    """A replicated command: a NamedTuple, whose fields are what the log holds of it."""

    def __iter__(self) -> Iterator[Any]:
        """The fields in order."""

    def excess(self, horizon_ms_max: int) -> str:
        """What of it is beyond its bound, or "". Asked before it is in any log: what is replicated could not be taken back.

        ``horizon_ms_max``: the latest time to which the horizon may move.
        """

    @classmethod
    def read(cls, row: tuple[Any, ...]) -> Self | None:
        """The command that the log holds as ``row``, whose first value is the number of its kind. None: no release wrote it."""


class CommandKind(NamedTuple):
    """A kind of command. ``rule(table, command, term, index)`` applies it, which stands in the log at (term, index)."""

    type: type[Any]
    rule: Callable[[Any, Any, int, int], Any]


def beyond(command: Command) -> str:
    """What ``excess`` says of a command with a field that is too long, too large or negative."""
    return f"a {type(command).__name__} with a field beyond its bound"


def unreadable(what: str) -> Halt:
    """The error for what a log holds that this version cannot read."""
    return Halt(
        f"the log holds what this version cannot read: {what}. The log was written by a newer version of raftcoord; "
        "start this node with that version"
    )


def txid_of(raw: bytes) -> TxId:
    """The txid of a row. Raises Halt if it is none."""
    try:
        return TxId(raw)
    except LocalProtocolError as error:
        raise unreadable(str(error)) from None


def are_texts(values: Any) -> bool:
    """Whether a field of a row is a list of texts."""
    if type(values) is not tuple:
        return False
    return all(type(value) is str for value in values)


def pairs_within(pairs: BranchesByTxid) -> bool:
    """Whether these are so many branches of each transaction as one may have, and names."""
    return all(
        len(branches) <= limits.BRANCHES_MAX and all(len(branch) <= limits.NAME_LENGTH_MAX for branch in branches)
        for _, branches in pairs
    )


def pairs_of(rows: tuple[Any, ...]) -> BranchesByTxid:
    """The pairs of a row. Raises Halt if they are none."""
    return tuple(_pair(row) for row in rows)


def _pair(row: Any) -> tuple[TxId, tuple[str, ...]]:
    if type(row) is tuple and len(row) == 2 and type(row[0]) is bytes and are_texts(row[1]):
        return txid_of(row[0]), row[1]
    raise unreadable("a malformed acknowledgement")


# -- what is stored -----------------------------------------------------------------------------------------------


class Many(NamedTuple):
    """For a table of which only a part is in memory: the newest rows by key, and those that are ``pinned``.

    ``pinned``: which others are loaded at a start, in SQL from "WHERE" or "INDEXED BY" on;
    ``forgettable``: the condition in SQL for those that ``TableChange.forget_below`` deletes.
    """

    pinned: str
    forgettable: str


class Rows(NamedTuple):
    """How items are stored as rows of the SQL table that has the table's name, in node.db and in a copy.

    ``sql`` makes it, to the letter; ``indexes``: name -> SQL, in node.db alone; ``since``: the first format of node.db with it.
    ``columns``: the first ``keys`` are the key, the last is a checksum. ``pack(item)`` gives a row. ``is_right(*row)``: whether
    its checksum is. ``unpack(*row)``: the item of a right row; it may raise what msgpack raises. ``key``: the key columns for the
    key of an item. ``called(*row)``: how an error names the row.
    """

    sql: str
    columns: tuple[str, ...]
    keys: int
    pack: Callable[[Any], tuple[Any, ...]]
    is_right: Callable[..., bool]
    unpack: Callable[..., Any]
    key: Callable[[Any], tuple[bytes, ...]]
    called: Callable[..., str]
    since: int
    indexes: Mapping[str, str] = {}
    many: Many | None = None


def keyed_records(
    name: str,
    columns: tuple[str, ...],
    *,
    key: Callable[[Any], tuple[bytes, ...]],
    write: Callable[[Any], tuple[tuple[bytes, ...], Sequence[Any]]],
    read: Callable[..., Any],
    called: Callable[..., str],
    since: int,
) -> Rows:
    """Rows of a key and a record in MessagePack: what most tables need.

    ``columns``: of the key; all but the last hold values of one length, so that they cannot be mistaken for each other.
    ``write(item)``: key and fields; ``read(*key columns, fields)``: the item. ``called``: see Rows.
    """

    def crc(keys: tuple[bytes, ...], record: bytes) -> int:
        so_far = 0
        for part in keys:
            so_far = crc32(part, so_far)
        return crc32(record, so_far ^ len(keys[-1]))

    def pack(item: Any) -> tuple[Any, ...]:
        keys, fields = write(item)
        record = _pack(fields)
        return (*keys, record, crc(keys, record))

    primary = " BLOB PRIMARY KEY" if len(columns) == 1 else " BLOB"
    keyed = f", PRIMARY KEY({', '.join(columns)})" if len(columns) > 1 else ""
    made = ", ".join(f"{column}{primary}" for column in columns)
    return Rows(
        sql=f"CREATE TABLE {name}({made}, record BLOB NOT NULL, crc INTEGER NOT NULL{keyed}) WITHOUT ROWID",
        columns=(*columns, "record", "crc"),
        keys=len(columns),
        pack=pack,
        is_right=lambda *row: crc(row[:-2], row[-2]) == row[-1],
        unpack=lambda *row: read(*row[:-2], _unpackb(row[-2], use_list=False)),
        key=key,
        called=called,
        since=since,
    )


def hex_of(txid: object) -> str:
    """How an error names a txid, or what is damaged in its place."""
    return txid.hex() if isinstance(txid, bytes) else repr(txid)


def _as_it_is(value: Any) -> Any:
    return value


class TableField(NamedTuple):
    """A value beside the rows. ``default``: before any command; ``write``, ``read``: to JSON and back (ValueError if it is none).

    ``epoch``: given if it has a row of its own in node.db, because it is long and changes seldom; the others are written with
    every commit. It numbers its values, from 1: every commit has the number, so that a row which was lost or is old is missed.
    """

    default: Any
    epoch: Callable[[Any], int] | None = None
    write: Callable[[Any], Any] = _as_it_is
    read: Callable[[Any], Any] = _as_it_is


def _nothing_older(key: Any) -> Any:
    return None


@dataclass(frozen=True, slots=True)
class Part:
    """What is stored of one table. Of one with ``Many``: the rows at or above ``floor`` and those that are pinned.

    ``older`` gives any stored item by its key, or None; it must show every change that was confirmed with ``stored``.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[Any] = ()
    floor: bytes = b""
    older: Callable[[Any], Any] = field(default=_nothing_older, compare=False)


EMPTY: Final = Part()


@dataclass(slots=True)
class TableChange:
    """What of one table is to be stored, in one commit and in this order: what came ``before``, deletes, puts, forget_below.

    ``puts``: items by their key; ``deletes``: keys; ``forget_below``: delete what is below it and forgettable; ``fields``: the
    new values.
    """

    puts: dict[Any, Any] = field(default_factory=dict)
    deletes: dict[Any, None] = field(default_factory=dict)
    forget_below: bytes | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    before: TableChange | None = None

    @property
    def count(self) -> int:
        """How many things are to be stored."""
        others = (self.forget_below is not None) + (self.before is not None)
        return len(self.puts) + len(self.deletes) + len(self.fields) + others


Changes = Mapping[str, TableChange]
"""By the name of the table; those without a change are not in it."""

NO_CHANGES: Final[Changes] = {}

# -- the table ----------------------------------------------------------------------------------------------------

T = TypeVar("T", bound="Table")


class Tables(Protocol):
    """The ledger as a table sees it: the tables that the list has before its own, and, when a rule runs, all of them."""

    def __getitem__(self, table: type[T]) -> T:
        """The table of that class."""

    def __iter__(self) -> Iterator[Table]:
        """Every table."""


class Table:
    """See the module's head. ``stored``: what a node starts with."""

    name: ClassVar[str]
    commands: ClassVar[dict[int, CommandKind]] = {}
    rows: ClassVar[Rows | None] = None
    fields: ClassVar[dict[str, TableField]] = {}

    def __init__(self, ledger: Tables, stored: Part) -> None:
        self.ledger = ledger
        self.pending = TableChange()

    def take_change(self) -> TableChange:
        """What has changed since the last call."""
        taken, self.pending = self.pending, TableChange()
        return taken

    def stored(self, change: TableChange) -> None:
        """``change`` is on disk: ``Part.older`` shows it from now on."""

    def forget_before(self, bound: bytes) -> None:
        """The horizon has moved: what is finished, and of a txid below ``bound``, is forgotten."""

    def shed(self, stored_index: int, rows_max: int) -> None:
        """Memory may be freed of what is on disk: every change up to log index ``stored_index`` is.

        Of a table with ``Many``, half of ``rows_max`` rows stay in memory once there are more than that.
        """

    @classmethod
    def check_change(cls, before: Mapping[str, Any], change: TableChange) -> None:
        """Raise Halt if ``change`` must not be stored after a state whose fields were ``before``: its maker has a bug."""
