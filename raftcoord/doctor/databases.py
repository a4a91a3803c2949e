"""One resource, looked at over a session of its own.

Owed: whatever is wrong becomes a row, and nothing is raised. It blocks, for as long as the database does: call it in a thread.
Never: a statement that changes anything; a password in a row.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from raftcoord.databases.drivers import connect
from raftcoord.databases.resource_config import ResourceConfig
from raftcoord.databases.session import DriverSession
from raftcoord.databases.steps import INIT, ConnectionLost, LoginRefused, PreparedHere, SqlError, Statement
from raftcoord.doctor import disks, prepared
from raftcoord.doctor.findings import REACHABLE, Row, Severity
from raftcoord.doctor.prepared import PreparedFound
from raftcoord.errors import ConfigError

LOGIN: Final = "login"
SECOND_LOOK_S: Final = 1.0
"""Pause before a branch without an age is looked for again (s): a live program commits within milliseconds."""


class DatabaseLook(NamedTuple):
    """The rows, and what is prepared there, for a caller that knows the ledger; None if that could not be seen."""

    rows: list[Row]
    found: PreparedFound | None


def look(resource: ResourceConfig, now_ms: Callable[[], int]) -> DatabaseLook:
    """Everything about ``resource``. ``now_ms``: the wall clock."""
    subject = f"resource {resource.name}"
    try:
        where, url = resource.shown(), resource.url()
    except ConfigError as error:
        mend = "export the variable that it names, or correct the resource in cluster.yaml"
        return DatabaseLook([Row(subject, "url", Severity.ERROR, str(error), mend)], None)
    try:
        session = connect(url)
    except ConfigError as error:
        mend = "install the driver, or correct the resource in cluster.yaml, as it says"
        return DatabaseLook([Row(subject, "url", Severity.ERROR, resource.scrub(str(error)), mend)], None)
    except LoginRefused as error:
        what = f"{where}: {resource.scrub(str(error))}"
        mend = "correct user, password and database of the url in cluster.yaml, or the variable that it names"
        return DatabaseLook([Row(subject, LOGIN, Severity.ERROR, what, mend)], None)
    except ConnectionLost as error:
        return DatabaseLook([unreachable(resource.name, f"{where}: {resource.scrub(str(error))}")], None)
    rows: list[Row] = []
    try:
        return DatabaseLook(rows, _look(session, resource.name, where, url, now_ms, rows))
    except ConnectionLost as error:
        rows.append(unreachable(resource.name, f"{where}: {resource.scrub(str(error))}"))
    except SqlError as error:
        what = f"{where} refuses to be looked at: {resource.scrub(session.database.explained(error))}"
        mend = "give the user of the url that right; the resolver needs it as well"
        rows.append(Row(subject, "rights", Severity.ERROR, what, mend))
    finally:
        session.close()
    return DatabaseLook(rows, None)


def unreachable(name: str, why: str) -> Row:
    """The row of a resource that does not answer."""
    mend = "start the database, or correct the url in cluster.yaml"
    return Row(f"resource {name}", REACHABLE, Severity.ERROR, why, mend)


def _look(
    session: DriverSession, name: str, where: str, url: str, now_ms: Callable[[], int], rows: list[Row]
) -> PreparedFound | None:
    subject, database = f"resource {name}", session.database
    checks = database.checks
    ((version,),) = session.execute(Statement(checks.version, reads=True, outside=True)).rows
    rows.append(Row(subject, REACHABLE, Severity.OK, f"{where}, {checks.runs} {version}"))
    if (path := database.place.file(url)) is not None:
        rows += _file(subject, path)
    findings = session.run(checks.check())
    for finding in findings:
        verdict = Severity.ERROR if finding.fatal else Severity.WARNING
        mend = f"{INIT} {name}" if finding.mend == INIT else finding.mend
        rows.append(Row(subject, "set-up", verdict, finding.what, mend))
    if not findings:
        rows.append(Row(subject, "set-up", Severity.OK, "settings, rights and marks are as they should be"))
    return PreparedFound(
        _aged(session, now_ms),
        session.run(checks.others()),
        session.run(checks.limited_user()),
        session.run(checks.preparers()),
    )


def _aged(session: DriverSession, now_ms: Callable[[], int]) -> list[tuple[PreparedHere, float]]:
    """What is prepared, with its age: the database's own, or else that of its transaction, which began before.

    What is so old by its transaction alone is looked for twice: it may have been prepared this moment.
    """
    listed = session.run(session.dialect.list_prepared(None))
    aged = [(each, _age_s(each, now_ms())) for each in listed]
    if any(each.age_s is None and age_s >= prepared.ORPHAN_S for each, age_s in aged):
        time.sleep(SECOND_LOOK_S)
        still = {each.gid for each in session.run(session.dialect.list_prepared(None))}
        aged = [(each, age_s) for each, age_s in aged if each.gid in still]
    return aged


def _age_s(each: PreparedHere, now_ms: int) -> float:
    return max(0.0, (now_ms - each.gid.txid.ms) / 1000) if each.age_s is None else each.age_s


def _file(subject: str, path: Path) -> list[Row]:
    """A file is as good as its directory, where its journal lies."""
    rows = disks.look(subject, path.parent)
    if not os.access(path, os.W_OK):
        mend = f"chown or chmod it for the user that runs the resolver: {path}"
        rows.append(Row(subject, "rights", Severity.ERROR, f"{path} cannot be written by this user", mend))
    return rows
