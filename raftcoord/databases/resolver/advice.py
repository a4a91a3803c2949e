"""What an operator is told: which right is missing, and what may have happened to a branch that is gone."""

from __future__ import annotations

from typing import Final

from raftcoord.databases.steps import SqlError

_MEND: Final = {
    "42501": "only the user that prepared a branch, or a superuser, may end it: put that user into the resource's url",
    "0A000": "a branch is ended in the database in which it was prepared: put that database into the resource's url",
    "55006": "another session is ending it at this moment",
    "1142": "grant that user SELECT, INSERT and DELETE on raftcoord_marks: raftcoord doctor shows the statement",
    "1143": "grant that user SELECT, INSERT and DELETE on raftcoord_marks: raftcoord doctor shows the statement",
    "1227": "MySQL lists prepared branches only to users with that right: GRANT XA_RECOVER_ADMIN ON *.* TO the resource's user",
    "1401": "MySQL lists prepared branches only to users with that right: GRANT XA_RECOVER_ADMIN ON *.* TO the resource's user",
    "1044": "grant the resource's user that database, or correct the url",
}
"""By SQLSTATE or error number; never by a text."""


def explained(error: SqlError) -> str:
    """The database's own words, and what to do if that is known."""
    mend = _MEND.get(error.code)
    return f"{error}; {mend}" if mend else str(error)


def suspected(dialect: str, where: str) -> str:
    """The record of a branch that the ledger calls committed, and that is neither prepared nor marked."""
    what = f"committed in the ledger; in {where} it is neither prepared nor marked: rolled back by hand, or lost with a backup"
    if dialect == "mariadb":
        return f"{what}; or the server holds it unlisted until it is restarted: restart it before anything is mended by hand"
    if dialect == "postgresql":
        return f"{what} or a failover; or committed before raftcoord.marks was made. Compare it with the other branches"
    return f"{what}. Compare it with the other branches"
