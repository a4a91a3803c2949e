"""What Django works on while a SQLite file of its is in a block: the Recorder, spoken to in Django's way.

Django brings its own cursor class, for %s in place of ?. The Recorder takes no foreign cursor, so the translation is done here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from django.db.backends.sqlite3.base import SQLiteCursorWrapper

from raftcoord.databases.sqlite.recorder import Recorder


class Recorded:
    """Stands for Django's sqlite3.Connection in a block."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def cursor(self, factory: object = None) -> RecordedCursor:
        """A cursor that takes %s, whatever class Django asks for."""
        return RecordedCursor(self._recorder.cursor())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._recorder, name)


class RecordedCursor:
    """A cursor of the Recorder that takes %s and %(name)s."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def execute(self, query: str, params: Any = None) -> RecordedCursor:
        """As Django's."""
        names = list(params) if isinstance(params, Mapping) else None
        sql = query if params is None else SQLiteCursorWrapper.convert_query(self, query, param_names=names)
        self._cursor.execute(sql, () if params is None else params)
        return self

    def executemany(self, query: str, param_list: Iterable[Any]) -> RecordedCursor:
        """As Django's."""
        rows = list(param_list)
        if not rows:
            return self
        names = list(rows[0]) if isinstance(rows[0], Mapping) else None
        self._cursor.executemany(SQLiteCursorWrapper.convert_query(self, query, param_names=names), rows)
        return self

    def __iter__(self) -> Iterator[Any]:
        return iter(self._cursor)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)
