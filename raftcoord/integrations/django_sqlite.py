"""What Django works on while a SQLite file of its is in a block: the Recorder, spoken to in Django's way.

Theory of operation. Django brings its own cursor class, for %s in place of ?, and its own SQL functions. The Recorder
takes no foreign cursor, so the translation is done here. And a statement that needs one of those functions could be carried out
again only by Django: if the program dies, the resolver could never finish the branch, and the file would stay frozen. So
each statement that may change something is first explained by a connection without those functions.

Owed: a statement that the resolver cannot repeat is refused before it is carried out.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from django.db.backends.sqlite3.base import SQLiteCursorWrapper

from raftcoord.errors import LocalProtocolError
from raftcoord.resources.recorder import Recorder

_CHANGES_NOTHING: Final = re.compile(r"\s*(SELECT|VALUES|EXPLAIN|PRAGMA|SAVEPOINT|RELEASE|ROLLBACK)\b", re.IGNORECASE)


class Recorded:
    """Stands for Django's sqlite3.Connection ``raw`` in a block. ``close`` it before ``raw`` is used again."""

    def __init__(self, recorder: Recorder, raw: sqlite3.Connection) -> None:
        self._recorder = recorder
        path = next(file for _, name, file in raw.execute("PRAGMA database_list") if name == "main")
        self._plain = sqlite3.connect(
            f"file:{path.replace('%', '%25').replace('?', '%3f').replace('#', '%23')}?mode=ro", uri=True
        )
        self._plain.execute(
            "SELECT 1 FROM sqlite_master"
        ).close()  # it knows the schema from now on, and needs no lock again

    def cursor(self, factory: object = None) -> RecordedCursor:
        """A cursor that takes %s, whatever class Django asks for."""
        return RecordedCursor(self, self._recorder.cursor())

    def check_repeatable(self, sql: str, params: Any) -> None:
        """Raise LocalProtocolError if ``sql`` needs what only Django's connection has."""
        if _CHANGES_NOTHING.match(sql):
            return
        try:
            self._plain.execute(f"EXPLAIN {sql}", params).close()
        except sqlite3.Error as error:
            raise LocalProtocolError(
                f"this statement has no place in a SQLite branch, because nobody but Django could repeat it after a crash "
                f"({error}): compute the value in Python. Nothing was changed by it"
            ) from None

    def close(self) -> None:
        """Hang up the connection that explains."""
        self._plain.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._recorder, name)


class RecordedCursor:
    """A cursor of the Recorder that takes %s and %(name)s."""

    def __init__(self, recorded: Recorded, cursor: Any) -> None:
        self._recorded = recorded
        self._cursor = cursor

    def execute(self, query: str, params: Any = None) -> RecordedCursor:
        """As Django's."""
        names = list(params) if isinstance(params, Mapping) else None
        sql = query if params is None else SQLiteCursorWrapper.convert_query(self, query, param_names=names)
        given = () if params is None else params
        self._recorded.check_repeatable(sql, given)
        self._cursor.execute(sql, given)
        return self

    def executemany(self, query: str, param_list: Iterable[Any]) -> RecordedCursor:
        """As Django's."""
        rows = list(param_list)
        if not rows:
            return self
        names = list(rows[0]) if isinstance(rows[0], Mapping) else None
        sql = SQLiteCursorWrapper.convert_query(self, query, param_names=names)
        self._recorded.check_repeatable(sql, rows[0])
        self._cursor.executemany(sql, rows)
        return self

    def __iter__(self) -> Iterator[Any]:
        return iter(self._cursor)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)
