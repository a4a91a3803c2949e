"""The table of operations: all that a node can be asked.

One entry says everything about an operation that both ends must agree on. The node serves what is here, each by one function
(node/desk.py); the client, the participants' worker and other doors ask by it. Another operation is an entry here and a function
there.

Wire. A request is [method, parameters]. The parameters are those of the request in their order; those at the end that
have a default may be left out. A listing takes one map, of which every key may be left out.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import call
from typing import Annotated, Any, Final, Generic, NamedTuple, TypeVar, get_type_hints

from raftcoord import limits
from raftcoord.api import answers, fields
from raftcoord.api.answers import Codec
from raftcoord.errors import LocalProtocolError
from raftcoord.types import BranchesByTxid, Payload, TxId, Verdict

R = TypeVar("R", bound=tuple[Any, ...])
A = TypeVar("A")


class Role(enum.Enum):
    """Who may ask. A client is an operator too, as long as nothing tells the two apart."""

    CLIENT = "client"
    PARTICIPANT = "participant"
    OPERATOR = "operator"


def _named(name: str, *roles: Role) -> Mapping[Role, str]:
    return dict.fromkeys(roles, name)


@dataclass(frozen=True, eq=False)
class Operation(Generic[R, A]):
    """What can be asked. ``request``: its parameters; ``answer``: how that is written and read; ``methods``: who may ask, and
    by which name on the wire.

    ``repeatable``: asking twice gives the same answer, so it may be asked again when its fate is unknown. ``settles``: it may
    decide its txid, so that an unknown fate is InDoubt. ``any_cluster``: also for a node whose cluster has no id yet.
    """

    name: str
    request: type[R]
    answer: Codec[A]
    methods: Mapping[Role, str]
    repeatable: bool = True
    settles: bool = False
    any_cluster: bool = False
    as_map: bool = False
    method: str = field(init=False)
    """Its name on the wire for who is no participant, or is the only one that may ask."""
    names: tuple[str, ...] = field(init=False)
    timeout_at: int = field(init=False)
    """Where its time (ms) is among the parameters; -1: it has none, and the node's own bound counts."""
    _gives: tuple[Callable[[Any], Any], ...] = field(init=False)
    _reads: tuple[Callable[[Any], Any], ...] = field(init=False)
    _defaults: tuple[Any, ...] = field(init=False)
    _count: int = field(init=False)
    write: Callable[[A], Any] = field(init=False)
    """The answer as it is sent."""
    _make: Callable[..., R] = field(init=False)

    def __post_init__(self) -> None:
        request: Any = self.request
        hints = get_type_hints(request, include_extras=True)
        found = [hints[name].__metadata__[0] for name in request._fields]
        put = object.__setattr__
        put(self, "method", next(iter(self.methods.values())))
        put(self, "names", request._fields)
        put(self, "timeout_at", self.names.index("timeout_ms") if "timeout_ms" in self.names else -1)
        put(self, "_gives", tuple(each.give for each in found))
        put(self, "_reads", tuple(each.read for each in found))
        put(self, "_defaults", tuple(request._field_defaults.values()))
        put(self, "_count", len(found))
        put(self, "write", self.answer.write)
        put(self, "_make", partial(tuple.__new__, request))  # a third of the cost of request._make

    def given(self, *values: Any) -> R:
        """The request of what a caller gives for each parameter. LocalProtocolError if one of them is wrong."""
        if len(values) == self._count:
            return self._make(map(call, self._gives, values))
        return self._checked(self._gives, values)

    def encode(self, request: R) -> tuple[Any, ...]:
        """Its parameters on the wire."""
        if self.as_map:
            return (dict(zip(self.names, request, strict=True)),)
        if not self._defaults:
            return request
        end = len(request)
        for value, default in zip(reversed(request), reversed(self._defaults), strict=False):
            if value != default:
                break
            end -= 1
        return request[:end]

    def decode(self, params: list[Any]) -> R:
        """The request that came over the wire. LocalProtocolError if it is none."""
        if self.as_map:
            params = self._of_map(params)
        if len(params) == self._count:  # every decision passes here
            return self._make(map(call, self._reads, params))
        return self._checked(self._reads, params)

    def _checked(self, checks: tuple[Callable[[Any], Any], ...], values: Sequence[Any]) -> R:
        left_out = len(checks) - len(values)
        if not 0 < left_out <= len(self._defaults):
            raise LocalProtocolError(
                f"{len(values)} parameters were given; {self.name} takes [{', '.join(self.names)}]"
            )
        checked = [check(value) for check, value in zip(checks, values, strict=False)]
        return self._make([*checked, *self._defaults[-left_out:]])

    def _of_map(self, params: list[Any]) -> list[Any]:
        if len(params) != 1 or type(params[0]) is not dict or not params[0].keys() <= set(self.names):
            raise LocalProtocolError(f"give {self.name} one map with some of {', '.join(map(repr, self.names))}")
        return [params[0].get(name, default) for name, default in zip(self.names, self._defaults, strict=True)]


# -- requests -----------------------------------------------------------------------------------------------------

_Txid = Annotated[TxId, fields.TXID]
_Branch = Annotated[str, fields.BRANCH]
_Timeout = Annotated[int, fields.TIMEOUT_MS]
_Who = Annotated[str, fields.WHO]
_Participant = Annotated[str, fields.PARTICIPANT]


class Nothing(NamedTuple):
    """No parameter."""


class OfTxid(NamedTuple):
    """A question about one transaction."""

    txid: _Txid


class OfBranch(NamedTuple):
    """A question about one branch of it."""

    txid: _Txid
    branch: _Branch


class ToDecide(NamedTuple):
    """The outcome that is proposed. ``branches``: who must carry it out; ``reason``: of an abort."""

    txid: _Txid
    verdict: Annotated[Verdict, fields.VERDICT]
    branches: Annotated[tuple[str, ...], fields.BRANCHES]
    reason: Annotated[str, fields.REASON]
    timeout_ms: _Timeout


class ToSubmit(NamedTuple):
    """A transaction to run. ``wait``: "decided" or "completed"."""

    txid: _Txid
    payloads: Annotated[dict[str, Payload], fields.PAYLOADS]
    timeout_ms: _Timeout
    wait: Annotated[str, fields.WAIT]


class ToResolve(NamedTuple):
    """A transaction that is aborted unless it is decided."""

    txid: _Txid
    timeout_ms: _Timeout


class ToResolveBranch(NamedTuple):
    """The same, and what that branch has to do."""

    txid: _Txid
    branch: _Branch
    timeout_ms: _Timeout


class ToComplete(NamedTuple):
    """Who has carried out the outcome; None: all."""

    txid: _Txid
    branches: Annotated[tuple[str, ...] | None, fields.optional(fields.BRANCHES)]


class Listing(NamedTuple):
    """Which transactions are listed: newest first, below ``before``, at most ``limit``."""

    state: Annotated[str | None, fields.KIND] = None
    limit: Annotated[int, fields.up_to(limits.ROWS_MAX)] = 100
    before: Annotated[TxId | None, fields.optional(fields.TXID)] = None


class DamageListing(NamedTuple):
    """How many damages are listed, and of which transaction alone."""

    limit: Annotated[int, fields.up_to(limits.DAMAGES_MAX)] = 100
    txid: Annotated[TxId | None, fields.optional(fields.TXID)] = None


class DamageReport(NamedTuple):
    """What happened to a branch."""

    txid: _Txid
    branch: _Branch
    what: Annotated[str, fields.WHAT]


class ToAcknowledge(NamedTuple):
    """Who has seen the damage of a branch."""

    txid: _Txid
    branch: _Branch
    who: _Who


class ToAcknowledgeAll(NamedTuple):
    """Who has seen all damage of ``branch`` (None: of any) that was reported up to ``upto_ms``."""

    branch: Annotated[str | None, fields.optional(fields.BRANCH)]
    upto_ms: Annotated[int, fields.TIME_MS]
    who: _Who


class ToClose(NamedTuple):
    """Branches that will never come back."""

    branches: Annotated[BranchesByTxid, fields.BRANCHES_BY_TXID]
    who: _Who
    why: Annotated[str, fields.WHY]


class ToChangeMembers(NamedTuple):
    """``step`` ("add", "remove" or "replace") with a node."""

    step: Annotated[str, fields.STEP]
    node: Annotated[str, fields.NODE]


class ToLowerHorizon(NamedTuple):
    """Who does it. ``after_ms``: until when txids were made, by the clock that was furthest ahead (Unix, ms); 0: none was."""

    who: _Who
    after_ms: Annotated[int, fields.TIME_MS]


class ParticipantListing(NamedTuple):
    """Participants whose names follow ``after``."""

    after: Annotated[str, fields.PARTICIPANT] = ""


class ToReplaceParticipant(NamedTuple):
    """``identity``: of the new state; None: the one that was refused."""

    name: _Participant
    identity: Annotated[str | None, fields.optional(fields.IDENTITY)]
    who: _Who


class ToForgetParticipant(NamedTuple):
    """A participant that does not exist any more."""

    name: _Participant
    who: _Who


# -- the table ----------------------------------------------------------------------------------------------------

_CLIENT, _PARTICIPANT, _OPERATOR = Role.CLIENT, Role.PARTICIPANT, Role.OPERATOR

DECIDE: Final = Operation("decide", ToDecide, answers.SETTLED, _named("decide", _CLIENT), settles=True)
SUBMIT: Final = Operation(
    "submit", ToSubmit, answers.SETTLED, _named("submit", _CLIENT), repeatable=False, settles=True
)
STATUS: Final = Operation("status", OfTxid, answers.KNOWN, _named("status", _CLIENT))
STATUS_OF_BRANCH: Final = Operation("status_of_branch", OfBranch, answers.KNOWN, _named("status", _PARTICIPANT))
RESOLVE: Final = Operation("resolve", ToResolve, answers.SETTLED, _named("resolve", _CLIENT), settles=True)
RESOLVE_BRANCH: Final = Operation(
    "resolve_branch",
    ToResolveBranch,
    answers.SETTLED,
    {_CLIENT: "resolve_branch", _PARTICIPANT: "resolve"},
    settles=True,
)
COMPLETE: Final = Operation("complete", ToComplete, answers.DONE, _named("complete", _CLIENT))
NODE: Final = Operation("node", Nothing, answers.STATUS, _named("node", _CLIENT), any_cluster=True)
TRANSACTIONS: Final = Operation("txns", Listing, answers.ROWS, _named("txns", _CLIENT), as_map=True)
SHOW: Final = Operation("show", OfTxid, answers.ROW_OR_NONE, _named("show", _CLIENT))
DAMAGES: Final = Operation("damages", DamageListing, answers.DAMAGES, _named("damages", _CLIENT), as_map=True)
REPORT_DAMAGE: Final = Operation("report_damage", DamageReport, answers.DONE, _named("report_damage", _CLIENT))
ACKNOWLEDGE: Final = Operation("acknowledge", ToAcknowledge, answers.DAMAGE, _named("acknowledge", _OPERATOR))
ACKNOWLEDGE_ALL: Final = Operation(
    "acknowledge_all", ToAcknowledgeAll, answers.ACKNOWLEDGED, _named("acknowledge_all", _OPERATOR)
)
CLOSE: Final = Operation("close", ToClose, answers.CLOSED, _named("close", _OPERATOR))
CHANGE_MEMBERS: Final = Operation(
    "change_members", ToChangeMembers, answers.RECORD, _named("change_members", _OPERATOR)
)
LOWER_HORIZON: Final = Operation("lower_horizon", ToLowerHorizon, answers.RECORD, _named("lower_horizon", _OPERATOR))
PARTICIPANTS: Final = Operation(
    "participants", ParticipantListing, answers.PARTICIPANTS, _named("participants", _CLIENT)
)
REPLACE_PARTICIPANT: Final = Operation(
    "replace_participant", ToReplaceParticipant, answers.RECORD, _named("replace_participant", _OPERATOR)
)
FORGET_PARTICIPANT: Final = Operation(
    "forget_participant", ToForgetParticipant, answers.RECORD, _named("forget_participant", _OPERATOR)
)

OPERATIONS: Final[tuple[Operation[Any, Any], ...]] = (
    DECIDE,
    SUBMIT,
    STATUS,
    STATUS_OF_BRANCH,
    RESOLVE,
    RESOLVE_BRANCH,
    COMPLETE,
    NODE,
    TRANSACTIONS,
    SHOW,
    DAMAGES,
    REPORT_DAMAGE,
    ACKNOWLEDGE,
    ACKNOWLEDGE_ALL,
    CLOSE,
    CHANGE_MEMBERS,
    LOWER_HORIZON,
    PARTICIPANTS,
    REPLACE_PARTICIPANT,
    FORGET_PARTICIPANT,
)
