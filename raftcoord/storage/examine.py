"""Looking at a file before trusting it.

Owes: reads only, and reads everything: header, schema, structure and order (PRAGMA integrity_check),
every checksum. A file that passes holds what was written to it. Never writes, and never lets SQLite
write: a damaged file stays as it was found, for a person who wants to know why.

What it cannot see: a data directory that was put back whole from an older copy.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from raftcoord.core.tables.table import Rows
from raftcoord.errors import ConfigError, CorruptionError
from raftcoord.storage.reading import Reading
from raftcoord.storage.records import UNREADABLE, epoch_of, log_crc, meta_crc, read_field
from raftcoord.storage.schema import FORMAT, NODE_DB_ID, OLDER_FORMATS, PAGE_BYTES, schema, stored_tables

_HEADER_BYTES: Final = 100

Refuse = Callable[[str], CorruptionError]
T = TypeVar("T")


def check_header(path: Path, application_id: int, refuse: Refuse) -> None:
    """Compare the file's header with what is always there (https://sqlite.org/fileformat2.html, section 1.3).

    Raises ConfigError for a newer format. SQLite itself would take a changed version byte for "read-only", a changed
    encoding for other text, and a short file for an empty database.
    """
    with path.open("rb") as file:
        raw = file.read(_HEADER_BYTES)
    if len(raw) < _HEADER_BYTES or not raw.startswith(b"SQLite format 3\x00"):
        raise refuse("it is not a SQLite database" if raw else "it is empty")
    found_format = int.from_bytes(raw[60:64], "big")
    if raw[68:72] == application_id.to_bytes(4, "big") and found_format > FORMAT:
        raise _newer(path, found_format)
    journal = 2 if application_id == NODE_DB_ID else 1  # 2: write-ahead log
    fixed = (
        (16, PAGE_BYTES.to_bytes(2, "big") + bytes((journal, journal, 0, 64, 32, 32))),
        (44, bytes((0, 0, 0, 4)) + bytes(8)),  # schema format, default cache size, auto-vacuum
        (56, bytes((0, 0, 0, 1))),  # UTF-8
        (64, bytes(4)),
        (68, application_id.to_bytes(4, "big") + bytes(20)),
    )
    known = found_format in (FORMAT, *OLDER_FORMATS)
    if not known or any(raw[at : at + len(expected)] != expected for at, expected in fixed):
        raise refuse("its header is not what raftcoord writes")


def _newer(path: Path, found_format: int) -> ConfigError:
    return ConfigError(
        f"{path} has format {found_format}, and this release of raftcoord reads format {FORMAT}: a newer release wrote it; "
        "start the node with that release"
    )


class Examination:
    """One file under examination: a read-only connection to it, and the error to refuse it with."""

    def __init__(self, path: Path, connection: sqlite3.Connection, application_id: int, refuse: Refuse) -> None:
        self._path = path
        self._connection = connection
        self._application_id = application_id
        self._refuse = refuse

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def schema(self) -> int:
        """The tables are, to the letter, those of schema.py for its format, which is returned.

        The format is asked for once more: a change of it that is still in node.db-wal is not in the header.
        """
        [(form,)] = self._connection.execute("PRAGMA user_version").fetchall()
        if form > FORMAT:
            raise _newer(self._path, form)
        rows = self._connection.execute("SELECT name, sql FROM sqlite_schema").fetchall()
        if dict(rows) != {name.encode(): sql.encode() for name, sql in schema(self._application_id, form).items()}:
            raise self._refuse("its tables are not those that raftcoord makes")
        return int(form)

    def structure(self) -> None:
        """SQLite finds its pages, cells and free lists consistent, and the index in agreement with its table.

        quick_check would not look at the index: one flipped bit there hides decisions from the list of the open ones.
        """
        [(verdict,)] = self._connection.execute("PRAGMA integrity_check(1)").fetchall()
        if verdict != b"ok":
            raise self._refuse(f"integrity_check says {verdict.decode(errors='replace')!r}")

    def meta_keys(self, known: Collection[str]) -> None:
        """Its table meta has none but the ``known`` rows: another one would be forgotten without a word."""
        for (key,) in self._connection.execute("SELECT key FROM meta").fetchall():
            if key not in {one.encode() for one in known}:
                raise self._refuse(f"its table meta has a row {key!r}, which raftcoord does not write")

    def meta(self, key: str, read: Callable[[bytes], T]) -> T:
        """The row ``key`` of meta, decoded by ``read``."""
        rows = self._connection.execute("SELECT value, crc FROM meta WHERE key = ?", (key,)).fetchall()
        try:
            [(value, crc)] = rows
            if meta_crc(key, value) == crc:
                return read(value)
        except UNREADABLE:
            pass
        raise self._refuse(f"the row '{key}' of its table meta is missing or has a wrong checksum")

    def field(self, name: str, epoch: int) -> Any:
        """What is in the row ``name`` of meta, or None if there is no such row.

        ``epoch``: of that, by the row 'state'; 0: it knows of none, or an earlier release wrote it.
        """
        if not epoch and not self._connection.execute("SELECT 1 FROM meta WHERE key = ?", (name,)).fetchall():
            return None
        value = self.meta(name, partial(read_field, name))
        found = epoch_of(name, value)
        if epoch and found != epoch:
            raise self._refuse(
                f"the row '{name}' of its table meta has the {name} of epoch {found}, and those of epoch {epoch} were stored"
            )
        return value

    def log(self) -> tuple[int, int]:
        """The first and the last index of the log, every row of which is right and none of which is missing."""
        first = last = 0
        for index, term, data, crc in self._connection.execute("SELECT idx, term, data, crc FROM log ORDER BY idx"):
            if last and index != last + 1:
                raise self._refuse(f"log entries {last + 1} to {index - 1} are missing")
            if not _right(lambda: log_crc(index, term, data) == crc):  # noqa: B023 - called at once
                raise self._refuse(f"log entry {index} has a wrong checksum")
            first, last = first or index, index
        if not first:
            raise self._refuse("its log is empty")
        return first, last

    def tables(self, form: int, reading: Reading) -> None:
        """Every row of the tables of the ledger, in a file of format ``form``, is right."""
        for name, rows in stored_tables(form).items():
            self._keys(name, rows.columns[0])
            if rows.many is not None:
                self._many(name, rows, reading)
                continue
            for row in self._connection.execute(f"SELECT {', '.join(rows.columns)} FROM {name}"):
                if not _right(lambda: rows.is_right(*row) and rows.unpack(*row)):  # noqa: B023 - called at once
                    raise self._refuse(f"{rows.called(*row)} has a wrong checksum")

    def _keys(self, table: str, key: str) -> None:
        """The keys of ``table`` are all of type BLOB. Text reads the same here and sorts lower: a look-up would miss such a row.

        The order is known to be right, so the first key speaks for all.
        """
        first = self._connection.execute(f"SELECT typeof({key}), {key} FROM {table} ORDER BY {key} LIMIT 1").fetchall()
        if first and first[0][0] != b"blob":
            raise self._refuse(f"a key in its table {table} is not what was written: {first[0][1]!r}")

    def _many(self, name: str, rows: Rows, reading: Reading) -> None:
        """Of a table with many rows, the checksums: what they hold is looked at when it is needed."""
        [(total,)] = self._connection.execute(f"SELECT count(*) FROM {name}").fetchall()
        reading.begin(name, total)
        is_right = rows.is_right
        row: tuple[object, ...] = (b"",) * len(rows.columns)
        select = f"SELECT {', '.join(rows.columns)} FROM {name} ORDER BY {', '.join(rows.columns[: rows.keys])}"
        try:
            for reading.done, row in enumerate(self._connection.execute(select), 1):
                if not is_right(*row):
                    raise self._refuse(f"{rows.called(*row)} has a wrong checksum")
        except UNREADABLE:
            raise self._refuse(f"{rows.called(*row)} is not what was written") from None


def _right(holds: Callable[[], object]) -> bool:
    """Whether a check holds; one that cannot even be computed, because a value has another type, does not."""
    try:
        return bool(holds())
    except UNREADABLE:
        return False
