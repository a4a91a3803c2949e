"""The client port: one door to the desk, for clients and participants over RPC.

Owed: who says hello is of this cluster, and a participant serves the state that goes by its name. What is asked is decoded by the
table of operations and answered by the desk. Never: a meaning of an operation.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from raftcoord import limits
from raftcoord.api.operations import Operation, Role
from raftcoord.env import Env
from raftcoord.errors import LocalProtocolError, RemoteProtocolError, Unavailable
from raftcoord.events import Refused
from raftcoord.limits import NodeBounds
from raftcoord.node import namesakes
from raftcoord.node.admission import Admission
from raftcoord.node.agreement import Agreement
from raftcoord.node.desk import Desk, Served
from raftcoord.node.endpoint import NotDone, NoVote, OnTold, OnVote
from raftcoord.node.sessions import ParticipantSession, Sessions
from raftcoord.rpc import codes
from raftcoord.rpc.codes import RpcError, unknown_method
from raftcoord.rpc.connection import Connection
from raftcoord.types import Payload, TxId, Verdict, Vote, VoteKind, checked_name

_CLIENT: Final = (Role.CLIENT, Role.OPERATOR)
_PARTICIPANT: Final = (Role.PARTICIPANT,)
_INSTANCE_LENGTH_MAX: Final = 64


_METHOD: Final = {Verdict.COMMIT: "commit", Verdict.ABORT: "abort"}
_NOT_SENT: Final = frozenset({codes.UNAVAILABLE, codes.OVERLOADED})
"""Answers to prepare after which nothing is prepared: it was not sent, or was refused before anything was done."""


class RpcEndpoint:
    """A participant that dialed in. With ``busy_from`` requests to answer it is busy."""

    __slots__ = ("_busy_from", "_conn")

    def __init__(self, conn: Connection, busy_from: int) -> None:
        self._conn = conn
        self._busy_from = busy_from

    def __str__(self) -> str:
        return self._conn.peername

    @property
    def gone(self) -> bool:
        return self._conn.closed

    @property
    def busy(self) -> bool:
        return self._conn.open_calls >= self._busy_from

    @property
    def waiting(self) -> int:
        return self._conn.open_calls

    def ask(self, txid: TxId, payload: Payload, timeout_ms: int, voted: OnVote) -> None:
        self._conn.call("prepare", [txid, payload, timeout_ms], partial(_voted, voted))

    def tell(self, txid: TxId, verdict: Verdict, told: OnTold) -> None:
        self._conn.call(_METHOD[verdict], [txid], partial(_told, told))

    def close(self, reason: str) -> None:
        self._conn.close(reason)


def _voted(voted: OnVote, error: RpcError | None, result: Any) -> None:
    if error is None:
        match result:
            case [(0 | 1 | 2) as kind, str(reason)] if type(kind) is int:  # not True, which equals 1
                voted(Vote(VoteKind(kind), reason[: limits.REASON_LENGTH_MAX]))
            case _:
                voted(NoVote(f"it answered {str(result)[:60]!r}, which is not a vote"))
    elif error.code in _NOT_SENT:
        voted(Vote.no(error.message))
    else:
        voted(NoVote(error.message))


def _told(told: OnTold, error: RpcError | None, result: Any) -> None:
    if error is not None:
        told(NotDone(error.code, error.message))
    elif result is not True:
        told(NotDone(codes.INTERNAL, f"it answered {str(result)[:60]!r} and not true"))
    else:
        told(None)


class Caller:
    """Who asks over a connection. ``methods``: what it may ask."""

    __slots__ = ("_conn", "methods", "name", "session")

    def __init__(self, conn: Connection, methods: dict[str, Served], session: ParticipantSession | None = None) -> None:
        self._conn = conn
        self.methods = methods
        self.session = session
        self.name = "" if session is None else session.name

    @property
    def gone(self) -> bool:
        """Whether no answer reaches it any more."""
        return self._conn.closed

    @property
    def unread(self) -> bool:
        """Whether it does not read what was answered."""
        return self._conn.paused


class ClientPort:
    """The handler of every connection on the client port."""

    def __init__(
        self,
        desk: Desk,
        agreement: Agreement,
        sessions: Sessions,
        admission: Admission,
        env: Env,
        bounds: NodeBounds,
        *,
        node: str,
        cluster_name: str,
    ) -> None:
        self._desk = desk
        self._agreement = agreement
        self._sessions = sessions
        self._admission = admission
        self._env = env
        self._prepares_max: Final = bounds.prepares_open_max
        self._events = agreement.events
        self._node = node
        self._cluster_name = cluster_name

    def on_open(self, conn: Connection) -> None:
        """Nothing is due before the hello."""

    def on_hello(self, conn: Connection, role: str, details: dict[str, Any]) -> dict[str, Any]:
        """Clients are welcome at any time; participants once the cluster has its id, which they remember."""
        other = namesakes.of_another_cluster(details, self._agreement.ledger.cluster, self._cluster_name)
        if role == "participant":
            self._participant(conn, details, other)
        elif role == "client":
            namesakes.refuse_client(other)
            conn.expendable = True
            conn.context = Caller(conn, self._desk.methods(_CLIENT))
        else:
            raise LocalProtocolError(
                f"role {role[:60]!r} is not served on this port; it serves 'client' and 'participant'"
            )
        ledger = self._agreement.ledger
        return {
            "node": self._node,
            "cluster": ledger.cluster,
            "cluster_name": self._cluster_name,
            "wall_ms": self._env.wall_ms(),
            "horizon_ms": ledger.horizon_ms,
        }

    def _participant(self, conn: Connection, details: dict[str, Any], other: str) -> None:
        name = checked_name(details.get("name"), "participant")
        instance = details.get("instance")
        if type(instance) is not str or not 0 < len(instance) <= _INSTANCE_LENGTH_MAX:
            raise LocalProtocolError(
                f"the hello of a participant needs 'instance': 1 to {_INSTANCE_LENGTH_MAX} characters, random at each start"
            )
        if not self._agreement.ledger.cluster:
            raise Unavailable(
                "the cluster is not founded yet: a majority of the nodes must be up; dial again in a moment"
            )
        if other:
            namesakes.note_participant(name, other)
            conn.context = Caller(conn, {})
            return
        self._sessions.check_free(name)
        identity = self._admission.check(name, details.get("identity"))
        session = self._sessions.add(name, instance, RpcEndpoint(conn, self._prepares_max), identity)
        conn.context = Caller(conn, self._desk.methods(_PARTICIPANT), session)

    def on_request(self, conn: Connection, request_id: int, method: str, params: list[Any]) -> None:
        """Answered here or from a callback. A RaftcoordError that is raised is the answer."""
        caller: Caller = conn.context
        served = caller.methods.get(method)
        if served is None:
            raise LocalProtocolError(str(unknown_method(method)))
        operation, serve = served
        try:
            serve(operation.decode(params), caller, partial(self._answer, conn, request_id, operation))
        except Exception as error:
            self._refused(operation, error)
            raise

    def on_notify(self, conn: Connection, method: str, params: list[Any]) -> None:
        """Nobody notifies a node."""
        raise RemoteProtocolError(f"the notification {method[:60]!r}: none is known here")

    def on_closed(self, conn: Connection, reason: str) -> None:
        """A participant's session ends with its connection; a client's transactions go on."""
        caller = conn.context
        if isinstance(caller, Caller) and caller.session is not None:
            self._sessions.remove(caller.session, reason)

    def _answer(self, conn: Connection, request_id: int, operation: Operation[Any, Any], result: Any) -> None:
        if isinstance(result, Exception):
            self._refused(operation, result)
            conn.failed(request_id, operation.name, result)
        else:
            conn.reply(request_id, operation.write(result))

    def _refused(self, operation: Operation[Any, Any], error: Exception) -> None:
        if self._events.wanted:
            self._events.tell(Refused(operation.name, error))
