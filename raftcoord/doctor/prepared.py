"""What is prepared in a database: whose it is, for how long, and what has to be done about it.

Owed: a branch of our cluster that nobody finishes is an error, with what the ledger says of it; one of another cluster, or of
another program, is counted and left alone. Never: an end of any of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final, NamedTuple

from raftcoord.databases.steps import PreparedHere
from raftcoord.doctor.findings import Row, Severity
from raftcoord.types import State, TxId

ORPHAN_S: Final = 60.0
"""How long a branch may be prepared (s). A resolver needs about two seconds for what a crashed program has left."""

SHOWN_MAX: Final = 20
"""Branches of one resource that are shown one by one."""

CHECK: Final = "prepared"


class PreparedFound(NamedTuple):
    """What is prepared, as one resource lists it. ``ours``: of any cluster, with its age (s); ``others``: other programs'.

    ``user``: whom the resource connects as, if that one may end its own branches only; ``owners``: who has prepared each.
    """

    ours: list[tuple[PreparedHere, float]]
    others: list[str]
    user: str = ""
    owners: Mapping[str, str] = {}


def questions(found: PreparedFound, cluster: str) -> list[TxId]:
    """The transactions that the ledger is to be asked for."""
    stale = [each.gid.txid for each, age_s in found.ours if each.gid.cluster == cluster and age_s >= ORPHAN_S]
    return list(dict.fromkeys(stale))[:SHOWN_MAX]


def judge(
    resource: str, named: frozenset[str], found: PreparedFound, cluster: str, states: Mapping[TxId, State | None]
) -> list[Row]:
    """The rows of ``resource``. ``named``: all resources; ``cluster``: our id, "" if no node told; ``states``: the ledger's."""
    subject = f"resource {resource}"
    rows: list[Row] = []
    if found.user:
        what = f"user {found.user} is no superuser: it can end what {found.user} has prepared, and nothing else"
        mend = f"let the programs connect as {found.user} too, or name a superuser in the url"
        rows.append(Row(subject, "rights", Severity.NOTE, what, mend))
    clusters = Counter(each.gid.cluster for each, _ in found.ours)
    if not cluster:
        if clusters:
            what = (
                f"{clusters.total()} prepared, of cluster {', '.join(clusters)}; which is this one's no node could tell"
            )
            rows.append(Row(subject, CHECK, Severity.NOTE, what))
    else:
        mine = [(each, age_s) for each, age_s in found.ours if each.gid.cluster == cluster]
        rows += _ours(subject, resource, named, mine, found, states)
        rows += [_of_another(subject, other, number, found) for other, number in clusters.items() if other != cluster]
    if found.others:
        names = ", ".join(repr(name) for name in found.others[:3])
        more = f" and {len(found.others) - 3} more" if len(found.others) > 3 else ""
        what = f"{len(found.others)} prepared by other programs ({names}{more}): not raftcoord's, and not touched"
        rows.append(Row(subject, "other programs", Severity.NOTE, what))
    return rows


def _ours(
    subject: str,
    resource: str,
    named: frozenset[str],
    mine: list[tuple[PreparedHere, float]],
    found: PreparedFound,
    states: Mapping[TxId, State | None],
) -> list[Row]:
    stale = [
        (each, age_s)
        for each, age_s in mine
        if age_s >= ORPHAN_S and (each.gid.branch == resource or each.gid.branch not in named)
    ]
    fresh = sum(age_s < ORPHAN_S for _, age_s in mine)
    what = f"{fresh} of this cluster, for less than {ORPHAN_S:.0f} s" if fresh else "nothing of this cluster"
    rows = [Row(subject, CHECK, Severity.OK, what)]
    for each, age_s in stale[:SHOWN_MAX]:
        state = states.get(each.gid.txid)
        what = (
            f"{each.gid} is prepared for {_span(age_s)} and holds its locks; "
            f"{'the nodes could not be asked' if state is None else f'the ledger says {state}'}"
        )
        rows.append(Row(subject, "orphan", Severity.ERROR, *_advice(each, what, resource, found)))
    if len(stale) > SHOWN_MAX:
        rows.append(
            Row(subject, "orphan", Severity.ERROR, f"{len(stale) - SHOWN_MAX} more", "raftcoord resource ls shows all")
        )
    return rows


def _advice(each: PreparedHere, what: str, resource: str, found: PreparedFound) -> tuple[str, str]:
    owner = found.owners.get(str(each.gid), "")
    if each.gid.branch != resource:
        return what, f"name its resource, {each.gid.branch!r}, in cluster.yaml, and start the resolver again"
    if not each.here:
        return what, f"put its database, {each.database!r}, into the url of the resource, and start the resolver again"
    if found.user and owner and owner != found.user:
        return (
            f"{what}; user {owner} has prepared it, and {found.user} may not end it",
            f"put user {owner} or a superuser into the url of the resource, and start the resolver again",
        )
    return what, "raftcoord resolver run --once, which says why if it cannot finish it"


def _of_another(subject: str, cluster: str, number: int, found: PreparedFound) -> Row:
    oldest = max(age_s for each, age_s in found.ours if each.gid.cluster == cluster)
    what = f"{number} of cluster {cluster}, the oldest for {_span(oldest)}: not this one's, and not touched"
    return Row(subject, "other clusters", Severity.NOTE, what)


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
