"""A participant of which several instances run: they share one database, on a machine of its own that never fails.

Owed: whatever one instance answers, every other one knows from then on, as is asked of instances that share their state.
It is the SQLite participant, opened for each call and closed again. A locked account is a no at once: nobody waits for another.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from raftcoord.env import Env
from raftcoord.participants.interface import Participant
from raftcoord.participants.sqlite import SqliteParticipant
from raftcoord.types import Payload, TxId, Vote


class Vault(Participant):
    """One instance. ``path``: of the database that all share; ``accounts``: what it holds at first."""

    def __init__(self, path: Path, env: Env, accounts: Mapping[str, int]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._open: Callable[[], SqliteParticipant] = lambda: SqliteParticipant(
            path, wall_ms=env.wall_ms, entropy=env.rng.randbytes
        )
        with self._opened() as made:
            made.open_accounts_once(accounts)

    @contextmanager
    def _opened(self) -> Iterator[SqliteParticipant]:
        made = self._open()
        try:
            yield made
        finally:
            made.close()

    def total(self) -> int:
        """The sum of all committed amounts."""
        with self._opened() as made:
            return made.total()

    def identity(self) -> str:
        """That of the database."""
        with self._opened() as made:
            return made.identity()

    def join(self, cluster: str) -> None:
        """As SqliteParticipant's."""
        with self._opened() as made:
            made.join(cluster)

    def prepare(self, txid: TxId, payload: Payload) -> Vote:
        """As SqliteParticipant's."""
        with self._opened() as made:
            return made.prepare(txid, payload)

    def commit(self, txid: TxId) -> None:
        """As SqliteParticipant's."""
        with self._opened() as made:
            made.commit(txid)

    def abort(self, txid: TxId) -> None:
        """As SqliteParticipant's."""
        with self._opened() as made:
            made.abort(txid)

    def prepared(self) -> Collection[TxId]:
        """Of all instances."""
        with self._opened() as made:
            return made.prepared()
