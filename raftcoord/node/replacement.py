"""Taking a new node for one whose data is lost (hazard H16; consensus/identity.py says why and when that is safe).

Owed: what is enrolled is an identity that this node has itself refused under that name. Never: for a node that is linked with
the data that is known of it, because it is not lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from raftcoord.core.commands import Enroll
from raftcoord.core.decisions import Result
from raftcoord.errors import LocalProtocolError, NotKnown, RaftcoordError, Unavailable
from raftcoord.node.agreement import Agreement
from raftcoord.types import NodeName, checked_name

MAJORITY_LOST: Final = (
    "If a majority of the nodes has lost its data, nobody can confirm it: stop them, and keep all the files"
)

NOT_CONFIRMED: Final = (
    "no majority has confirmed in time that it takes the new node {0} for the old one; look at raftcoord status and run "
    "`raftcoord node replace {0}` again, that is safe"
)


def replace(
    agreement: Agreement,
    here: str,
    value: object,
    deadline: float,
    done: Callable[[dict[str, Any] | RaftcoordError], None],
) -> None:
    """Enroll the identity that node ``here`` has refused under the name ``value``; ``done`` is told what was enrolled.

    Raises LocalProtocolError for a name that cannot be replaced, and Unavailable if nothing was refused here under it.
    """
    name = checked_name(value, "node")
    if name == here:
        raise Unavailable(f"node {here} cannot enroll itself; ask another node")
    if not agreement.ledger.cluster:
        raise Unavailable(f"node {here} has never taken part, so it knows of nobody's data; ask another node")
    peers = agreement.peers_status()
    peer = peers.get(NodeName(name))
    if peer is None:
        raise LocalProtocolError(
            f"there is no node {name!r} in this cluster; its nodes are {', '.join(sorted([here, *peers]))}"
        )
    if peer["up"]:
        raise LocalProtocolError(
            f"node {name} is linked to node {here} with the data that is known of it, so there is nothing to replace; if it is "
            "to be given up, stop it first and start the new one in an empty directory"
        )
    identity = peer["refused"]
    if not identity:
        raise Unavailable(f"node {here} has refused nobody under the name {name}; start the new node {name} first")

    def enrolled(result: Result | RaftcoordError) -> None:
        if isinstance(result, NotKnown):
            done(Unavailable(f"{NOT_CONFIRMED.format(name)}. {MAJORITY_LOST}"))
        elif isinstance(result, Unavailable):
            done(Unavailable(f"{result}. {MAJORITY_LOST}"))
        elif isinstance(result, RaftcoordError):
            done(result)
        else:
            done({"node": name, "identity": identity, "enrolled_by": here})

    agreement.propose(Enroll(name, identity), deadline, enrolled)
