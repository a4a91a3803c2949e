"""Whether the foreign keys that SQLite checks at COMMIT hold at the end of a branch.

SQLite counts their violations while the program works, and shows the count to nobody before COMMIT. A branch is taken back
before that, and its rows are carried out with foreign keys off. So what COMMIT would find is looked for when the work is proven:
references to nothing by the rows that it writes, and to the rows that it takes away.

Owed: a branch whose COMMIT would have failed is never voted for. A row that refers to nothing and did so before is no reason.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from raftcoord.databases.sqlite.rows import (
    RowsChange,
    SqlTable,
    Value,
    Work,
    parameters,
    pieces,
    quoted,
    stored,
    table_of,
    under,
    values_of,
)
from raftcoord.databases.steps import NotPossible, Statement, Steps

_DEFERRED: Final = re.compile(r"\bDEFERRED\b", re.IGNORECASE)
_INTEGER: Final = re.compile("INT", re.IGNORECASE)
"""In the declared type of a column with integer affinity (sqlite.org/datatype3.html, section 3.1)."""


class ForeignKey(NamedTuple):
    """``columns`` of table ``child`` refer to ``keys`` of table ``parent``."""

    child: str
    columns: tuple[str, ...]
    parent: str
    keys: tuple[str, ...]


class Look(NamedTuple):
    """What is asked before the work is carried out, and again after it: ``before`` are the rows that were found."""

    foreign_key: ForeignKey
    question: Statement
    before: frozenset[tuple[Value, ...]]


def deferred() -> Steps[list[ForeignKey]]:
    """The keys that a COMMIT of this connection would check. In the branch's transaction."""
    if (yield Statement("PRAGMA foreign_keys", reads=True)).rows != [(1,)]:
        return []
    all_of_them = (yield Statement("PRAGMA defer_foreign_keys", reads=True)).rows == [(1,)]
    found = yield Statement(
        'SELECT m.name, m.sql, f.id, f."table", f."from", f."to" FROM main.sqlite_master AS m, '
        "pragma_foreign_key_list(m.name) AS f WHERE m.type = 'table' ORDER BY m.name, f.id, f.seq",
        reads=True,
    )
    made: dict[tuple[str, int], ForeignKey] = {}
    for child, sql, number, parent, column, key in found.rows:
        if all_of_them or _DEFERRED.search(sql):
            known = made.get((child, number), ForeignKey(child, (), parent, ()))
            keys = known.keys if key is None else (*known.keys, key)
            made[child, number] = known._replace(columns=(*known.columns, column), keys=keys)
    return list(made.values())


def look(work: Work, foreign_keys: Sequence[ForeignKey]) -> Steps[list[Look]]:
    """Before the work is carried out: what is to be asked, and the answers now."""
    looks = []
    for each in foreign_keys:
        for change in work.changes:
            if change.table.name.lower() == each.child.lower():
                for some in pieces(change.keys, len(change.table.key)):
                    where, params = under(change.table, some, "c.")
                    looks.append((yield from _asked(each, change.table, where, params)))
            if change.table.name.lower() == each.parent.lower():
                whole = each if each.keys else each._replace(keys=(yield from _primary_key(each.parent)))
                child = yield from table_of(each.child)
                for some in pieces(change.deleted, len(change.table.key)):
                    if gone := (yield from _gone(change, some, whole)):
                        where, params = yield from _referring(whole, gone)
                        looks.append((yield from _asked(whole, child, where, params)))
    return looks


def check(looks: Sequence[Look]) -> Steps[None]:
    """After it: raise NotPossible if a reference to nothing has come."""
    for each in looks:
        if (yield from _answer(each.question)) - each.before:
            child, _, parent, _ = each.foreign_key
            raise NotPossible(
                f"FOREIGN KEY constraint failed: rows of table {child!r} refer to rows that {parent!r} does not have"
            )


def _asked(key: ForeignKey, child: SqlTable, where: str, params: tuple[object, ...]) -> Steps[Look]:
    """The rows of the child that refer to nothing, by the parent's rules: a unary plus leaves affinity and collation to it."""
    whole = key if key.keys else key._replace(keys=(yield from _primary_key(key.parent)))
    pairs = zip(whole.keys, whole.columns, strict=True)
    same = " AND ".join(f"p.{quoted(parent)} = +c.{quoted(column)}" for parent, column in pairs)
    some = " AND ".join(f"c.{quoted(column)} IS NOT NULL" for column in whole.columns)
    names = [*(f"c.{name}" for name in child.key_in_sql()), *(f"c.{quoted(column)}" for column in whole.columns)]
    question = Statement(
        f"SELECT {', '.join(map(stored, names))} FROM {child.in_sql()} AS c WHERE {where} AND {some} "
        f"AND NOT EXISTS (SELECT 1 FROM main.{quoted(whole.parent)} AS p WHERE {same})",
        params,
        reads=True,
    )
    return Look(whole, question, (yield from _answer(question)))


def _answer(question: Statement) -> Steps[frozenset[tuple[Value, ...]]]:
    found = yield question
    return frozenset(tuple(values_of(row)) for row in found.rows)


def _gone(change: RowsChange, deleted: list[tuple[Value, ...]], key: ForeignKey) -> Steps[list[tuple[Value, ...]]]:
    """What a child may refer to now and cannot any more, among the rows ``deleted``."""
    where, params = under(change.table, deleted)
    names = ", ".join(stored(quoted(name)) for name in key.keys)
    read = yield Statement(f"SELECT {names} FROM {change.table.in_sql()} WHERE {where}", params, reads=True)
    columns = [name.lower() for name in change.table.columns]
    if any(name.lower() not in columns for name in key.keys):  # a generated column: it is not among what is written
        return [tuple(values_of(row)) for row in read.rows]
    places = [len(change.table.key) + columns.index(name.lower()) for name in key.keys]
    come = {tuple(row[place] for place in places) for row in change.inserted}
    return [values for row in read.rows if (values := tuple(values_of(row))) not in come]


def _referring(key: ForeignKey, gone: list[tuple[Value, ...]]) -> Steps[tuple[str, tuple[object, ...]]]:
    """The condition for a child's row to refer to one of ``gone``: exact for integers, and every row where it could not be."""
    if len(key.columns) > 1 or not all(type(values[0]) is int for values in gone):
        return "1", ()
    read = yield Statement(f"PRAGMA main.table_info({quoted(key.child)})", reads=True)
    declared = next((row[2] for row in read.rows if row[1].lower() == key.columns[0].lower()), "")
    if not _INTEGER.search(declared):
        return "1", ()
    texts, params = parameters([values[0] for values in gone])
    return f"c.{quoted(key.columns[0])} IN ({', '.join(texts)})", params


def _primary_key(table: str) -> Steps[tuple[str, ...]]:
    read = yield Statement(f"PRAGMA main.table_info({quoted(table)})", reads=True)
    return tuple(row[1] for row in sorted(read.rows, key=lambda row: int(row[5])) if row[5])
