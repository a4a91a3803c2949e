"""The protocol of asking as a table: what this node knows, what comes of what it does, and what it then tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from raftcoord import limits
from raftcoord.core import asking, damage
from raftcoord.core.asking import Confirm, Known, Propose, Question
from raftcoord.core.machine import Ledger
from raftcoord.core.tables.damages import Heuristic
from raftcoord.core.tables.decisions import Complete, Decide
from raftcoord.core.tables.horizon import Lower, Retire
from raftcoord.core.tables.table import Command
from raftcoord.errors import (
    ForgottenTxid,
    FutureTxid,
    InDoubt,
    LocalProtocolError,
    NotKnown,
    RaftcoordError,
    TxidUsed,
    Unavailable,
)
from raftcoord.types import State, TxId, Verdict

NOW_MS = 1_750_000_000_000
T = TxId.new(NOW_MS, bytes(10))
COMMIT, ABORT = Verdict.COMMIT, Verdict.ABORT
COMMITTED, ABORTED, UNDECIDED, FORGOTTEN = State.COMMITTED, State.ABORTED, State.UNDECIDED, State.FORGOTTEN


class Here:
    """What one node has applied."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.applied_term = 3
        self.applied_index = 0

    def apply(self, command: Command) -> Any:
        self.applied_index += 1
        return self.ledger.apply(command, self.applied_term, self.applied_index)


def decide(verdict: Verdict, *branches: str) -> Command:
    return Decide(T, verdict, branches, "", "", NOW_MS)


RETIRED = (decide(COMMIT, "a"), Complete(((T, ("a",)),)), Retire(NOW_MS + 1))
MOVED = (Retire(NOW_MS + 9),)
LOWERED = [Lower(NOW_MS + 9, NOW_MS - 9, "ann", NOW_MS), decide(COMMIT, "a")]
"""By an operator, and then a transaction began."""
DAMAGED = (decide(COMMIT, "a"), Heuristic(T, "a", "gone", NOW_MS))


class Asked(NamedTuple):
    """``known``: applied before; ``ask``; ``does``: each step, and what comes of it; ``told``: a state, a value, or an error."""

    known: tuple[Command, ...]
    ask: Callable[[Here], Question[Any]]
    does: tuple[tuple[type, Any], ...]
    told: Any


def status(branch: str | None = None) -> Callable[[Here], Question[Any]]:
    return lambda here: asking.status(here, T, branch)


def resolve(branch: str | None = None) -> Callable[[Here], Question[Any]]:
    return lambda here: asking.resolve(here, T, NOW_MS, branch)


def complete(*branches: str) -> Callable[[Here], Question[Any]]:
    return lambda here: asking.complete(here, T, branches or None)


def report(branch: str = "a") -> Callable[[Here], Question[Any]]:
    return lambda here: damage.report(here, T, branch, "gone", NOW_MS, 10_000)


def acknowledge(branch: str = "a") -> Callable[[Here], Question[Any]]:
    return lambda here: damage.acknowledge(here, T, branch, "ann", NOW_MS)


def close(*connected: str) -> Callable[[Here], Question[Any]]:
    return lambda here: damage.close(here, ((T, ("a",)),), "ann", "sold", NOW_MS, lambda name: name in connected)


MAJORITY, NOBODY = (3, 9), Unavailable("no majority")
APPLIED = "applied"
LOST = NotKnown()

TABLE: dict[str, Asked] = {
    # what is recorded is final: at once, by any node
    "status of a commit": Asked((decide(COMMIT, "a"),), status(), (), COMMITTED),
    "status of an abort": Asked((decide(ABORT),), status(), (), ABORTED),
    "resolve of a commit": Asked((decide(COMMIT, "a"),), resolve(), (), COMMITTED),
    # what lies below the horizon is forgotten when that was confirmed: it may have been lowered
    "status of what is forgotten": Asked(RETIRED, status(), ((Confirm, MAJORITY),), FORGOTTEN),
    "resolve of what is forgotten": Asked(RETIRED, resolve(), ((Confirm, MAJORITY),), FORGOTTEN),
    "resolve of what is forgotten without a majority": Asked(RETIRED, resolve(), ((Confirm, NOBODY),), Unavailable),
    "status behind a lowered horizon": Asked(MOVED, status(), ((Confirm, LOWERED),), COMMITTED),
    "resolve behind a lowered horizon": Asked(MOVED, resolve(), ((Confirm, LOWERED),), COMMITTED),
    "a branch that asks behind a lowered horizon": Asked(MOVED, status("a"), ((Confirm, LOWERED),), COMMITTED),
    "a branch that resolves behind a lowered horizon": Asked(MOVED, resolve("a"), ((Confirm, LOWERED),), COMMITTED),
    "resolve of what is undecided behind a lowered horizon": Asked(
        MOVED, resolve(), ((Confirm, LOWERED[:1]), (Propose, APPLIED)), ABORTED
    ),
    # absence proves nothing until a barrier was passed
    "status of nothing": Asked((), status(), ((Confirm, MAJORITY),), UNDECIDED),
    "status of what this node lacked": Asked((), status(), ((Confirm, decide(COMMIT, "a")),), COMMITTED),
    "status without a majority": Asked((), status(), ((Confirm, NOBODY),), Unavailable),
    # what is undecided is aborted, and told is what the ledger answers
    "resolve of nothing": Asked((), resolve(), ((Propose, APPLIED),), ABORTED),
    "resolve that lost to a commit": Asked((), resolve(), ((Propose, decide(COMMIT, "a")),), COMMITTED),
    "resolve that is not confirmed": Asked((), resolve(), ((Propose, LOST),), InDoubt),
    # what a branch has to do
    "a branch of the commit": Asked((decide(COMMIT, "a"),), status("a"), (), COMMITTED),
    "a branch that the commit does not name": Asked((decide(COMMIT, "a"),), status("b"), (), ABORTED),
    "a branch of what is forgotten": Asked(RETIRED, status("a"), ((Confirm, MAJORITY),), ABORTED),
    "a branch of what is forgotten with damage on record": Asked(
        (Heuristic(T, "a", "gone", NOW_MS), Retire(NOW_MS + 1)), status("a"), ((Confirm, MAJORITY),), FORGOTTEN
    ),
    "a branch of what is undecided": Asked((), status("a"), ((Confirm, MAJORITY),), UNDECIDED),
    "a branch that resolves": Asked((), resolve("a"), ((Propose, APPLIED),), ABORTED),
    "a branch that resolves a commit without it": Asked((), resolve("b"), ((Propose, decide(COMMIT, "a")),), ABORTED),
    # completing
    "complete": Asked((decide(COMMIT, "a", "b"),), complete("a"), ((Propose, APPLIED),), None),
    "complete all": Asked((decide(COMMIT, "a", "b"),), complete(), ((Propose, APPLIED),), None),
    "complete again": Asked((decide(COMMIT, "a"), Complete(((T, ("a",)),))), complete("a"), (), None),
    "complete what this node lacked": Asked(
        (), complete("a"), ((Confirm, decide(COMMIT, "a")), (Propose, APPLIED)), None
    ),
    "complete what is forgotten": Asked(RETIRED, complete("a"), ((Confirm, MAJORITY),), None),
    "complete what is undecided": Asked((), complete("a"), ((Confirm, MAJORITY),), LocalProtocolError),
    "complete without a majority": Asked((), complete("a"), ((Confirm, NOBODY),), Unavailable),
    "complete a branch that is none": Asked((decide(COMMIT, "a"),), complete("b"), (), LocalProtocolError),
    "complete that is not confirmed": Asked((decide(COMMIT, "a"),), complete(), ((Propose, LOST),), InDoubt),
    # damage
    "report": Asked((decide(COMMIT, "a"),), report(), ((Propose, APPLIED),), None),
    "report again": Asked(DAMAGED, report(), (), None),
    "report of what is undecided": Asked((), report(), ((Confirm, MAJORITY),), LocalProtocolError),
    "report without a majority": Asked((), report(), ((Confirm, NOBODY),), Unavailable),
    "report of no branch": Asked((decide(COMMIT, "a"),), report("b"), (), LocalProtocolError),
    "report that is not confirmed": Asked((decide(COMMIT, "a"),), report(), ((Propose, LOST),), InDoubt),
    "acknowledge": Asked(DAMAGED, acknowledge(), ((Confirm, MAJORITY), (Propose, APPLIED)), "ann"),
    "acknowledge nothing": Asked((), acknowledge(), ((Confirm, MAJORITY),), LocalProtocolError),
    "acknowledge without a majority": Asked(DAMAGED, acknowledge(), ((Confirm, NOBODY),), Unavailable),
    "acknowledge that is not confirmed": Asked(DAMAGED, acknowledge(), ((Confirm, MAJORITY), (Propose, LOST)), InDoubt),
    # closing
    "close": Asked((decide(COMMIT, "a"),), close(), ((Confirm, MAJORITY), (Propose, APPLIED)), 1),
    "close what has acknowledged": Asked(
        (decide(COMMIT, "a"), Complete(((T, ("a",)),))), close(), ((Confirm, MAJORITY),), 0
    ),
    "close who is connected": Asked((decide(COMMIT, "a"),), close("a"), ((Confirm, MAJORITY),), LocalProtocolError),
    "close of an abort": Asked((decide(ABORT, "a"),), close(), ((Confirm, MAJORITY),), LocalProtocolError),
    "close that is not confirmed": Asked(
        (decide(COMMIT, "a"),), close(), ((Confirm, MAJORITY), (Propose, LOST)), Unavailable
    ),
}


def came_of(here: Here, step: Confirm | Propose, result: Any) -> Any:
    """What is sent back for ``step``. A command, or a list of them: other nodes', which the ledger got before."""
    if isinstance(result, RaftcoordError):
        return result
    for command in result if type(result) is list else ():
        here.apply(command)
    if isinstance(result, tuple) and type(result) is not tuple:
        here.apply(result)  # type: ignore[arg-type]
    if isinstance(step, Propose):
        return here.apply(step.command)
    return (here.applied_term, here.applied_index)


@pytest.mark.parametrize("asked", TABLE.values(), ids=TABLE)
def test_what_is_done_and_what_is_told(asked: Asked) -> None:
    here = Here()
    for command in asked.known:
        here.apply(command)
    question, told, failed = asked.ask(here), None, None
    steps = list(asked.does)
    try:
        step = next(question)
        while True:
            kind, result = steps.pop(0)
            assert type(step) is kind
            came = came_of(here, step, result)
            step = question.throw(came) if isinstance(came, RaftcoordError) else question.send(came)
    except StopIteration as end:
        told = end.value
    except RaftcoordError as error:
        failed = error
    assert not steps
    if isinstance(asked.told, type):
        assert type(failed) is asked.told
        return
    assert failed is None
    if isinstance(told, Known):
        assert told.state is asked.told
        assert (told.term, told.index) <= (here.applied_term, here.applied_index)
    else:
        assert getattr(told, "acknowledged_by", told) == asked.told


CLOCKS = limits.ClockBounds()


def test_a_txid_begins_once_and_within_the_bounds_of_time() -> None:
    here = Here()
    asking.check_new(here, T, (), NOW_MS, CLOCKS)
    asking.check_new(here, T, (), NOW_MS - limits.ClockBounds.future_ms_max, CLOCKS)
    for running, now_ms, refusal in (
        ((T,), NOW_MS, TxidUsed),
        ((), NOW_MS - limits.ClockBounds.future_ms_max - 1, FutureTxid),
    ):
        with pytest.raises(refusal):
            asking.check_new(here, T, running, now_ms, CLOCKS)
    here.apply(decide(COMMIT, "a"))
    with pytest.raises(TxidUsed) as caught:
        asking.check_new(here, T, (), NOW_MS, CLOCKS)
    assert caught.value.recorded == (COMMITTED, "", "", 3, 1)
    for command in (Complete(((T, ("a",)),)), Retire(NOW_MS + 1)):
        here.apply(command)
    with pytest.raises(ForgottenTxid):
        asking.check_new(here, T, (), NOW_MS, CLOCKS)


def test_what_is_too_far_in_the_future_to_be_kept_is_not_aborted() -> None:
    here, far = Here(), TxId.new(NOW_MS + limits.DECIDE_FUTURE_MS_MAX + 1, bytes(10))
    with pytest.raises(FutureTxid):
        next(asking.resolve(here, far, NOW_MS))
    assert type(next(asking.resolve(here, far, NOW_MS + 1))) is Propose


def test_the_ledger_is_looked_at_anew_after_a_step() -> None:
    """A copy may have taken its place meanwhile."""
    here = Here()
    question = asking.status(here, T)
    assert next(question) == Confirm()
    here.ledger = Ledger()
    here.apply(decide(COMMIT, "a"))
    with pytest.raises(StopIteration) as end:
        question.send((3, 9))
    assert end.value.value.state is COMMITTED


def test_a_commit_of_other_branches_is_another_transaction() -> None:
    here = Here()
    decision = here.apply(decide(COMMIT, "a", "b")).decision
    assert not asking.is_other(decision, ("b", "a"))
    assert asking.is_other(decision, ("a",))
    assert not asking.is_other(decision._replace(verdict=ABORT), ())
