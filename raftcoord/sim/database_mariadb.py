"""A simulated MariaDB: XA as it is, with what must not be believed of it.

The session that prepared a branch keeps it from all others (1397) until the server has noticed its end. For a moment after that,
XA COMMIT may answer 1397 all the same, or OK, and the branch is then neither committed nor listed until the server is restarted.
"""

from __future__ import annotations

from typing import Final

from raftcoord.databases.mariadb.dialect import XAER_NOTA, XAER_OUTSIDE, XAER_RMFAIL
from raftcoord.databases.steps import Result, SqlError
from raftcoord.sim.database import SimBranch, SimConnection, SimServer, done, rows, table

_HAUNTED_S: Final = 2.0
"""For how long after the end of a session MariaDB may answer wrongly for what that had prepared (s)."""

_QUESTION_RATE: Final = 0.3
_UNLISTED_RATE: Final = 0.5
"""How often it does then: 1397, or OK without effect. Far longer and more often than a real one."""


class MariaDbServer(SimServer):
    """See the module's head."""

    kind = "mariadb"

    def _xa_start(self, connection: SimConnection, gtrid: str, bqual: str) -> Result:
        if connection.branch is not None:
            prepared = connection.branch.gid in self.prepared
            raise SqlError(XAER_RMFAIL if prepared else XAER_OUTSIDE, "a transaction is open")
        connection.branch = SimBranch(f"{gtrid}.{bqual}", connection)
        return done(0)

    def _whose(self, connection: SimConnection) -> Result:
        return rows(self.owner_rows())

    def _mark(self, connection: SimConnection, gid: str) -> Result:
        self.begun(connection).marked = gid
        return done(1)

    def _xa_own(self, connection: SimConnection, gid: str) -> SimBranch:
        branch = connection.branch
        if branch is None or branch.gid != gid:
            raise SqlError(XAER_NOTA, "XAER_NOTA")
        return branch

    def _xa_end(self, connection: SimConnection, gtrid: str, bqual: str) -> Result:
        branch = self._xa_own(connection, f"{gtrid}.{bqual}")
        if branch.ended:
            raise SqlError(XAER_RMFAIL, "XAER_RMFAIL")
        branch.ended = True
        return done(0)

    def _xa_prepare(self, connection: SimConnection, gtrid: str, bqual: str) -> Result:
        branch = self._xa_own(connection, f"{gtrid}.{bqual}")
        if not branch.ended or branch.gid in self.prepared:
            raise SqlError(XAER_RMFAIL, "XAER_RMFAIL")
        return self.prepare(branch)

    def _xa_one_phase(self, connection: SimConnection, gtrid: str, bqual: str) -> Result:
        branch = self._xa_own(connection, f"{gtrid}.{bqual}")
        connection.branch = None
        return self.commit(branch, connection.by)

    def _xa_commit(self, connection: SimConnection, gtrid: str, bqual: str) -> Result:
        branch = self._xa_prepared(connection, f"{gtrid}.{bqual}")
        if branch.owner is None and self._is_haunted(branch, _UNLISTED_RATE):
            branch.listed = False
            self.on_unlisted(self, branch.gid)
            return done(0)
        return self.commit(branch, connection.by)

    def _xa_rollback(self, connection: SimConnection, gtrid: str, bqual: str) -> Result:
        gid = f"{gtrid}.{bqual}"
        if connection.branch is not None and connection.branch.gid == gid:
            branch, connection.branch = connection.branch, None
            return self.roll_back(branch, connection.by)
        return self.roll_back(self._xa_prepared(connection, gid), connection.by)

    def _xa_prepared(self, connection: SimConnection, gid: str) -> SimBranch:
        """What is prepared under ``gid``, if this session may end it now."""
        branch = self.prepared.get(gid)
        if branch is None or not branch.listed or branch.owner not in (None, connection):
            raise SqlError(XAER_NOTA, "XAER_NOTA: Unknown XID")
        if branch.owner is None and self._is_haunted(branch, _QUESTION_RATE):
            raise SqlError(XAER_NOTA, "XAER_NOTA: Unknown XID")
        if branch.owner is connection:
            connection.branch = None
        return branch

    def _is_haunted(self, branch: SimBranch, rate: float) -> bool:
        return self.loop.now < branch.gone_at + _HAUNTED_S and self.rng.random() < rate

    def _xa_recover(self, connection: SimConnection) -> Result:
        listed = [branch.gid.rpartition(".") for branch in self.prepared.values() if branch.listed]
        return rows([(1, len(gtrid), len(bqual), gtrid + bqual) for gtrid, _, bqual in listed])


_XID: Final = r"'([^']+)','([^']+)'"
MariaDbServer.statements = table(
    (rf"XA START {_XID}$", MariaDbServer._xa_start),
    (rf"XA END {_XID}$", MariaDbServer._xa_end),
    (rf"XA PREPARE {_XID}$", MariaDbServer._xa_prepare),
    (rf"XA COMMIT {_XID} ONE PHASE$", MariaDbServer._xa_one_phase),
    (rf"XA COMMIT {_XID}$", MariaDbServer._xa_commit),
    (rf"XA ROLLBACK {_XID}$", MariaDbServer._xa_rollback),
    (r"XA RECOVER$", MariaDbServer._xa_recover),
    (r"SELECT gid FROM raftcoord_marks WHERE gid >= 'is\.' AND gid < 'is/'$", MariaDbServer._whose),
    (r"INSERT INTO raftcoord_marks \(gid\) VALUES \('([^']+)'\)$", MariaDbServer._mark),
    (r"INSERT IGNORE INTO raftcoord_marks \(gid\) VALUES \('([^']+)'\)$", MariaDbServer.add_mark),
)
