"""A simulated PostgreSQL: a prepared branch belongs to nobody, and one that is gone is 42704, whatever became of it."""

from __future__ import annotations

from raftcoord.databases.postgresql.dialect import FAILED_TRANSACTION, NEGATIVE_LENGTH, UNDEFINED_OBJECT
from raftcoord.databases.steps import Result, SqlError
from raftcoord.sim.database import SimBranch, SimConnection, SimServer, done, rows, table


class PostgreSqlServer(SimServer):
    """See the module's head."""

    kind = "postgresql"

    def _set_local(self, connection: SimConnection, gid: str) -> Result:
        self.begun(connection).gid = gid
        return done(0, "SET")

    def _pg_whose(self, connection: SimConnection) -> Result:
        named = "".join(f"<row><gid>{gid}</gid></row>" for (gid,) in self.owner_rows())
        return rows([(100, named)])

    def _pg_mark(self, connection: SimConnection, gid: str) -> Result:
        self._pg_named(connection, gid).marked = gid
        return done(1, "INSERT 0 1")

    def _pg_ask_name(self, connection: SimConnection, gid: str) -> Result:
        self._pg_named(connection, gid)
        return rows([(gid,)])

    def _pg_named(self, connection: SimConnection, gid: str) -> SimBranch:
        branch = connection.branch
        if branch is None or branch.gid != gid:
            raise SqlError(NEGATIVE_LENGTH, "negative substring length not allowed")
        return branch

    def _pg_prepare(self, connection: SimConnection, gid: str) -> Result:
        branch, connection.branch = connection.branch, None
        if branch is None:
            raise SqlError(FAILED_TRANSACTION, "no transaction")
        branch.owner = None
        return self.prepare(branch)

    def _pg_is_prepared(self, connection: SimConnection, gid: str) -> Result:
        return rows([(1,)] if gid in self.prepared else [])

    def _pg_end(self, connection: SimConnection, gid: str) -> SimBranch:
        if gid not in self.prepared:
            raise SqlError(UNDEFINED_OBJECT, f'prepared transaction with identifier "{gid}" does not exist')
        return self.prepared[gid]

    def _pg_commit_prepared(self, connection: SimConnection, gid: str) -> Result:
        return self.commit(self._pg_end(connection, gid), connection.by)

    def _pg_rollback_prepared(self, connection: SimConnection, gid: str) -> Result:
        return self.roll_back(self._pg_end(connection, gid), connection.by)

    def _pg_commit(self, connection: SimConnection) -> Result:
        branch, connection.branch = connection.branch, None
        if branch is not None:
            self.commit(branch, connection.by)
        return done(0, "COMMIT")

    def _pg_rollback(self, connection: SimConnection) -> Result:
        branch, connection.branch = connection.branch, None
        if branch is not None and branch.gid:
            self.roll_back(branch, connection.by)
        return done(0, "ROLLBACK")

    def _pg_list(self, connection: SimConnection, beginning: str) -> Result:
        now = self.loop.now
        return rows(
            [
                (branch.gid, now - branch.prepared_at, self.name, True)
                for branch in self.prepared.values()
                if branch.gid.startswith(beginning)
            ]
        )


PostgreSqlServer.statements = table(
    (r"SET LOCAL raftcoord\.branch = '([^']+)'$", PostgreSqlServer._set_local),
    (r"SELECT current_setting\('max_prepared_transactions'\)::int,", PostgreSqlServer._pg_whose),
    (r"INSERT INTO raftcoord\.marks \(gid\) VALUES \(CASE WHEN .* THEN '([^']+)'", PostgreSqlServer._pg_mark),
    (r"SELECT CASE WHEN .* THEN '([^']+)'", PostgreSqlServer._pg_ask_name),
    (r"PREPARE TRANSACTION '([^']+)'$", PostgreSqlServer._pg_prepare),
    (r"COMMIT PREPARED '([^']+)'$", PostgreSqlServer._pg_commit_prepared),
    (r"ROLLBACK PREPARED '([^']+)'$", PostgreSqlServer._pg_rollback_prepared),
    (r"COMMIT$", PostgreSqlServer._pg_commit),
    (r"ROLLBACK$", PostgreSqlServer._pg_rollback),
    (r"SELECT 1 FROM pg_prepared_xact(?:s|\(\)) WHERE gid = '([^']+)'", PostgreSqlServer._pg_is_prepared),
    (r"SELECT gid::text, .*starts_with\(gid, '([^']+)'\)", PostgreSqlServer._pg_list),
    (r"INSERT INTO raftcoord\.marks \(gid\) VALUES \('([^']+)'\) ON CONFLICT DO NOTHING$", PostgreSqlServer.add_mark),
)
