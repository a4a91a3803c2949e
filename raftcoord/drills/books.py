"""The banks' books: written before the first order, read for the audit.

The audit reads with SQL of its own and not through the participant under audit. It never writes to a bank that has a worker.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from raftcoord.drills.audit import Books
from raftcoord.drills.orders import Opening
from raftcoord.errors import CorruptionError
from raftcoord.participants.sqlite import SqliteParticipant
from raftcoord.types import Branch, State, TxId


def open_banks(directory: Path, opening: Opening) -> dict[Branch, Path]:
    """Create a database for each bank in ``directory``, with its accounts, one commit each; return where they are."""
    paths = {bank: directory / f"{bank}.db" for bank in opening}
    for bank, path in paths.items():
        with closing(SqliteParticipant(path)) as participant:
            participant.open_accounts(opening[bank])
    return paths


def read_books(path: Path) -> Books:
    """What the bank's database at ``path`` holds now, as of one commit. CorruptionError if it cannot be read."""
    try:
        with closing(_connect(path)) as db:
            db.execute("BEGIN")
            balances = dict(db.execute("SELECT key, amount FROM accounts"))
            finished = {
                TxId(txid): State(verdict) for txid, verdict in db.execute("SELECT txid, verdict FROM finished")
            }
            prepared = tuple(TxId(txid) for (txid,) in db.execute("SELECT txid FROM prepared"))
    except sqlite3.Error as error:
        raise CorruptionError(f"the bank's database {path} cannot be read ({error}); keep it and report it") from None
    return Books(balances, finished, prepared)


def prepared_count(paths: Mapping[Branch, Path]) -> int:
    """How many branches are prepared now in all banks together."""
    count = 0
    for path in paths.values():
        with closing(_connect(path)) as db:
            count += int(db.execute("SELECT count(*) FROM prepared").fetchone()[0])
    return count


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=5.0)
