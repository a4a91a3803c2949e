"""What a SQLite branch has changed, as rows: read before it is taken back, carried out again as they were, and proven.

Theory of operation. While a branch is open, triggers in the file (file.py) write down the key of every row that it
touches. At prepare the rows under those keys are read twice: as the branch left them, and as they were before it. The difference
is the work: keys to delete, rows to insert. No statement is repeated, so neither random() nor a setting nor a function of the
program has a say in what is committed.

    before    a digest of the rows under those keys; if it is another at the replay, somebody has changed them: nothing is done
    after     a digest of what they are to be; if it is another after the replay, it is rolled back

Values stay as they are stored: a text is read and written as its bytes, so that no encoding and no text_factory touches it.
The program's own triggers are dropped for the replay and made again in the same transaction: what they did is among the rows.

Owed: after ``carry_out`` the touched rows are exactly what the branch left, or SqlError is raised and the caller rolls back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import islice
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import msgpack
from msgpack import ExtType

from raftcoord.databases.steps import NotPossible, SqlError, Statement, Steps

REPLAY_FAILED: Final = "RAFTCOORD_REPLAY"
"""The code of an SqlError that is no passing trouble: the prepared rows cannot be carried out as they were."""

KEY_COLUMNS_MAX: Final = 8
"""Of the primary key of a table WITHOUT ROWID; the journal of touched rows has as many columns."""

_FORMAT: Final = 2
_TEXT: Final = 1
_PARAMETERS_MAX: Final = 500
"""In one statement; SQLite takes 999 by default in old versions."""

_ROWIDS: Final = ("rowid", "oid", "_rowid_")
_VIRTUAL_GENERATED, _STORED_GENERATED = 2, 3
_T = TypeVar("_T")

Value: TypeAlias = int | float | bytes | ExtType | None
"""As it is stored; a text is an ExtType of its bytes in the encoding of the file."""


class SqlTable(NamedTuple):
    """How a table's rows are named and read.

    ``key``: the rowid, by a name that is no column's, or the columns of the primary key.
    ``columns`` are written; ``derived`` are generated and stored, and only compared.
    """

    name: str
    key: tuple[str, ...]
    by_rowid: bool
    columns: tuple[str, ...]
    derived: tuple[str, ...]

    def in_sql(self) -> str:
        """For a statement."""
        return f"main.{quoted(self.name)}"

    def key_in_sql(self) -> tuple[str, ...]:
        """A rowid is not quoted: SQLite would take an unknown name in quotes for a text."""
        return self.key if self.by_rowid else tuple(map(quoted, self.key))

    def key_of(self, row: Sequence[Value]) -> tuple[Value, ...]:
        """Of a row as ``rows_under`` reads it."""
        return tuple(row[: len(self.key)])


class RowsChange(NamedTuple):
    """What a branch does to one table, and what it finds there before and leaves behind."""

    table: SqlTable
    keys: list[tuple[Value, ...]]
    before: bytes
    deleted: list[tuple[Value, ...]]
    inserted: list[tuple[Value, ...]]
    after: bytes


class Work(NamedTuple):
    """All that a branch does. ``sequence``: the rows of sqlite_sequence for a table, as it is to be: one, or none."""

    changes: list[RowsChange]
    sequence: list[tuple[str, list[Any]]]

    def pack(self) -> bytes:
        """As it is stored."""
        packed: bytes = msgpack.packb([_FORMAT, self.changes, self.sequence])
        return packed

    @classmethod
    def unpack(cls, stored: bytes) -> Work:
        """Read back. Raises SqlError if it cannot be."""
        try:
            read = msgpack.unpackb(stored, use_list=False, strict_map_key=True)
            if read[0] != _FORMAT:
                raise ValueError("it was prepared by another version of raftcoord, which alone can finish it")
            changes = [
                RowsChange(SqlTable(*table), list(keys), before, list(deleted), list(inserted), after)
                for table, keys, before, deleted, inserted, after in read[1]
            ]
            return cls(changes, list(read[2]))
        except Exception as error:
            raise SqlError(REPLAY_FAILED, f"the prepared branch cannot be read: {error}") from None


class RowsLeft(NamedTuple):
    """One table as the branch left it. ``more``: how many rows it has made more than it has taken away, by the triggers."""

    table: SqlTable
    keys: list[tuple[Value, ...]]
    rows: set[bytes]
    more: int


class Touched(NamedTuple):
    """What the branch has touched, as it left it; to be compared with what was there before."""

    tables: list[RowsLeft]
    sequence: dict[str, list[Any]] | None


def touched() -> Steps[Touched]:
    """Read it, at the end of the branch and in its transaction. Raises NotPossible for a table that cannot be carried out."""
    names = yield Statement(
        "SELECT tbl, sum(o0 IS NULL) - sum(n0 IS NULL) FROM main.raftcoord_touched GROUP BY tbl ORDER BY tbl",
        reads=True,
    )
    tables = []
    for name, more in names.rows:
        table = yield from table_of(name)
        keys = yield from _keys_of(table)
        rows = yield from rows_under(table, keys)
        counted = yield Statement(
            f"SELECT count(*) FROM {table.in_sql()} WHERE ({', '.join(table.key_in_sql())}) IN ({_journal(table)})",
            (name,),
            reads=True,
        )
        _check(table, counted.rows[0][0] == len(rows))
        tables.append(RowsLeft(table, keys, rows, more))
    return Touched(tables, (yield from _sequence()))


def work_of(end: Touched) -> Steps[Work]:
    """The work, now that the branch is taken back: what leads from what is here to ``end``."""
    changes = []
    for table, keys, after, more in end.tables:
        before = yield from rows_under(table, keys)
        _check(table, len(after) - len(before) == more)
        gone, come = sorted(before - after), sorted(after - before)
        if gone or come:
            changes.append(
                RowsChange(
                    table,
                    keys,
                    digest(before),
                    [table.key_of(_unpacked(row)) for row in gone],
                    [_unpacked(row) for row in come],
                    digest(after),
                )
            )
    now = yield from _sequence()
    if end.sequence is None or now is None:
        return Work(changes, [])
    names = {
        change.table.name for change in changes
    }  # to insert a row may move a sequence that the branch did not move
    names |= {name for name, rows in end.sequence.items() if now.get(name) != rows}
    return Work(changes, [(name, end.sequence.get(name, [])) for name in sorted(names)])


def carry_out(work: Work) -> Steps[None]:
    """Make the rows what the branch left. In a transaction, with foreign keys and checks off: they held when it was prepared."""
    for change in work.changes:
        try:
            yield from _carry_out(change)
        except SqlError as error:
            if error.code == REPLAY_FAILED:
                raise
            raise _failed(change, f"cannot be written: {error}") from None
    for name, seqs in work.sequence:
        yield Statement("DELETE FROM main.sqlite_sequence WHERE name = ?", (name,))
        for seq in seqs:
            yield Statement("INSERT INTO main.sqlite_sequence (name, seq) VALUES (?, ?)", (name, seq))


def _carry_out(change: RowsChange) -> Steps[None]:
    table = change.table
    if digest((yield from rows_under(table, change.keys))) != change.before:
        raise _failed(change, "are not as they were when the branch was prepared")
    triggers = yield Statement(
        "SELECT name, sql FROM main.sqlite_master WHERE type = 'trigger' AND tbl_name = ? COLLATE NOCASE "
        "AND substr(name, 1, 10) <> 'raftcoord_' ORDER BY rowid",
        (table.name,),
        reads=True,
    )
    for name, _ in triggers.rows:
        yield Statement(f"DROP TRIGGER main.{quoted(name)}")
    for some in pieces(change.deleted, len(table.key)):
        where, params = under(table, some)
        yield Statement(f"DELETE FROM {table.in_sql()} WHERE {where}", params)
    names = (*table.key, *map(quoted, table.columns)) if table.by_rowid else tuple(map(quoted, table.columns))
    for some in pieces([_written(table, row) for row in change.inserted], len(names)):
        texts, given = zip(*(_in_sql(row) for row in some), strict=True)
        values = ", ".join(f"({text})" for text in texts)
        yield Statement(
            f"INSERT INTO {table.in_sql()} ({', '.join(names)}) VALUES {values}",
            tuple(value for params in given for value in params),
        )
    for _, sql in triggers.rows:
        yield Statement(sql)
    if digest((yield from rows_under(table, change.keys))) != change.after:
        raise _failed(change, "would not be what the branch has left")


def rows_under(table: SqlTable, keys: Iterable[tuple[Value, ...]]) -> Steps[set[bytes]]:
    """The rows that there are of those keys, packed: first the key, then the columns, then what is derived."""
    columns = table.columns + table.derived
    found: set[bytes] = set()
    chosen = ", ".join([*map(stored, table.key_in_sql()), *(stored(quoted(column)) for column in columns)])
    for some in pieces(keys, len(table.key)):
        where, params = under(table, some)
        read = yield Statement(f"SELECT {chosen} FROM {table.in_sql()} WHERE {where}", params, reads=True)
        found.update(_packed(values_of(row)) for row in read.rows)
    return found


def digest(rows: set[bytes]) -> bytes:
    """Of the rows, in no order."""
    return sha256(b"".join(sorted(rows))).digest()


def table_of(name: str) -> Steps[SqlTable]:
    """As the file describes it now. Raises NotPossible if its rows cannot be told apart."""
    found = yield Statement(f"PRAGMA main.table_xinfo({quoted(name)})", reads=True)
    columns = tuple(row[1] for row in found.rows if row[6] not in (_VIRTUAL_GENERATED, _STORED_GENERATED))
    derived = tuple(row[1] for row in found.rows if row[6] == _STORED_GENERATED)
    key = tuple(row[1] for row in sorted(found.rows, key=lambda row: int(row[5])) if row[5])
    taken = {row[1].lower() for row in found.rows}
    free = next((word for word in _ROWIDS if word not in taken), None)
    if free is None:
        raise NotPossible(
            f"table {name!r} has columns called rowid, oid and _rowid_, which hide what its rows are told apart by; rename one"
        )
    try:
        yield Statement(f"SELECT {free} FROM main.{quoted(name)} LIMIT 0", reads=True)
    except SqlError:
        if len(key) > KEY_COLUMNS_MAX:
            raise NotPossible(
                f"table {name!r} is WITHOUT ROWID, and its primary key has {len(key)} columns; at most {KEY_COLUMNS_MAX} are "
                "supported"
            ) from None
        return SqlTable(name, key, False, columns, derived)
    return SqlTable(name, (free,), True, columns, derived)


def parameters(values: Sequence[Value]) -> tuple[list[str], tuple[Any, ...]]:
    """``values`` for SQL: an expression for each, and what is bound to them."""
    texts = ["CAST(? AS TEXT)" if isinstance(value, ExtType) else "?" for value in values]
    return texts, tuple(value.data if isinstance(value, ExtType) else value for value in values)


def quoted(name: str) -> str:
    """As SQL names it."""
    return '"' + name.replace('"', '""') + '"'


def _check(table: SqlTable, holds: bool) -> None:
    """What the triggers have seen must be all, and must be found by the keys that they wrote down."""
    if not holds:
        raise NotPossible(f"not all rows of table {table.name!r} that it has changed could be found again")


def _journal(table: SqlTable) -> str:
    """The keys that the triggers wrote down, each once; ?1 is the table's name."""
    sides = [", ".join(f"{side}{number}" for number in range(len(table.key))) for side in "on"]
    return " UNION ".join(
        f"SELECT {names} FROM main.raftcoord_touched WHERE tbl = ?1 AND {names[:2]} IS NOT NULL" for names in sides
    )


def _keys_of(table: SqlTable) -> Steps[list[tuple[Value, ...]]]:
    names = [f"o{number}" for number in range(len(table.key))]
    read = yield Statement(
        f"SELECT {', '.join(map(stored, names))} FROM ({_journal(table)})", (table.name,), reads=True
    )
    return [tuple(values_of(row)) for row in read.rows]


def _sequence() -> Steps[dict[str, list[Any]] | None]:
    """The rows of sqlite_sequence by table; None: no table of this file has AUTOINCREMENT."""
    there = yield Statement("SELECT 1 FROM main.sqlite_master WHERE name = 'sqlite_sequence'", reads=True)
    if not there.rows:
        return None
    read = yield Statement("SELECT name, seq FROM main.sqlite_sequence ORDER BY rowid", reads=True)
    rows: dict[str, list[Any]] = {}
    for name, seq in read.rows:
        rows.setdefault(name, []).append(seq)
    return rows


def stored(name: str) -> str:
    """Two columns of a result: the value with the bytes of a text, and whether it is one."""
    return f"CASE typeof({name}) WHEN 'text' THEN CAST({name} AS BLOB) ELSE {name} END, typeof({name}) = 'text'"


def values_of(row: Sequence[Any]) -> list[Value]:
    """Of a row whose columns were chosen by ``stored``."""
    return [ExtType(_TEXT, value) if is_text else value for value, is_text in zip(row[::2], row[1::2], strict=True)]


def _packed(row: Sequence[Value]) -> bytes:
    packed: bytes = msgpack.packb(row)
    return packed


def _unpacked(row: bytes) -> tuple[Value, ...]:
    values: tuple[Value, ...] = msgpack.unpackb(row, use_list=False)
    return values


def _written(table: SqlTable, row: tuple[Value, ...]) -> tuple[Value, ...]:
    """Of a row as it was read, what is written: of a table WITHOUT ROWID the key is among the columns."""
    return row[0 if table.by_rowid else len(table.key) : len(table.key) + len(table.columns)]


def under(table: SqlTable, keys: Sequence[tuple[Value, ...]], prefix: str = "") -> tuple[str, tuple[Any, ...]]:
    """The condition for a row to have one of those keys, by the collation of the key. ``prefix``: of the names."""
    each = [parameters(key) for key in keys]
    params = tuple(value for _, given in each for value in given)
    names = [prefix + name for name in table.key_in_sql()]
    if len(names) == 1:
        return f"{names[0]} IN ({', '.join(texts[0] for texts, _ in each)})", params
    values = ", ".join(f"({', '.join(texts)})" for texts, _ in each)
    return f"({', '.join(names)}) IN (VALUES {values})", params


def _in_sql(values: Sequence[Value]) -> tuple[str, tuple[Any, ...]]:
    texts, params = parameters(values)
    return ", ".join(texts), params


def pieces(rows: Iterable[_T], width: int) -> Iterator[list[_T]]:
    """As many at a time as one statement takes. ``width``: parameters of one."""
    waiting = iter(rows)
    while some := list(islice(waiting, max(1, _PARAMETERS_MAX // width))):
        yield some


def _failed(change: RowsChange, what: str) -> SqlError:
    return SqlError(
        REPLAY_FAILED,
        f"rows of table {change.table.name!r} {what}; nothing of the prepared branch is committed yet, and the file stays frozen",
    )
