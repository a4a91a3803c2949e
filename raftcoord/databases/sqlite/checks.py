"""What the doctor asks of a SQLite file."""

from __future__ import annotations

from raftcoord.databases.database import Checks
from raftcoord.databases.sqlite import file
from raftcoord.databases.steps import Finding, NotPossible, Steps


class SqliteChecks(Checks):
    version = "SELECT sqlite_version()"
    runs = "SQLite"

    def check(self) -> Steps[list[Finding]]:
        """Whether the file suits."""
        try:
            yield from file.suits()
        except NotPossible as error:
            what, _, mend = str(error).partition("; ")
            return [Finding(what, mend or "use a file", True)]
        return []
