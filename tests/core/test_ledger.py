"""The ledger's rules, and that where a decision is kept never changes an answer."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shelf import Shelf

from raftcoord import limits
from raftcoord.core.machine import Ledger
from raftcoord.core.tables.damages import SETTLED, Acknowledge, Damage, Heuristic, Settle
from raftcoord.core.tables.decisions import Close, Closing, Complete, Decide, Decision, Decisions, Result, Standing
from raftcoord.core.tables.founding import Enroll, Found
from raftcoord.core.tables.horizon import LOWERED, Lower, Retire
from raftcoord.core.tables.participants import Bind, Binding
from raftcoord.core.tables.table import Changes, Command, Done
from raftcoord.errors import Halt
from raftcoord.types import State, TxId, Verdict, first_txid_of

T0_MS = 1_700_000_000_000
ABORT, COMMIT = Verdict.ABORT, Verdict.COMMIT


def txid_at(ms: int, number: int = 0) -> TxId:
    return TxId.new(T0_MS + ms, number.to_bytes(10, "big"))


def a_decide(
    txid: TxId,
    verdict: Verdict = COMMIT,
    branches: Iterable[str] = (),
    reason: str = "",
    branch: str = "",
    at_ms: int = 0,
) -> Decide:
    return Decide(txid, verdict, tuple(branches), reason, branch, at_ms)


class Applied(Ledger):
    """A ledger that numbers what it applies."""

    last_index = 1

    def do(self, command: Command) -> Any:
        self.last_index += 1
        return self.apply(command, 1, self.last_index)


T = txid_at(0)


# -- write once -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", Verdict)
@pytest.mark.parametrize("second", Verdict)
def test_the_first_decision_stands(first: Verdict, second: Verdict) -> None:
    ledger = Applied()
    made = ledger.do(a_decide(T, first, reason="mine"))
    told = ledger.do(a_decide(T, second, ["x"], reason="yours"))
    assert (made.first, told.first) == (True, False)
    assert made.decision == told.decision
    assert told.state is (State.COMMITTED if first else State.ABORTED)
    assert ledger.state(T) is told.state


def test_late_commit_loses_to_presumed_abort() -> None:
    ledger = Applied()
    ledger.do(a_decide(T, ABORT, reason="presumed"))
    assert ledger.do(a_decide(T, COMMIT, ["a", "b"])).state is State.ABORTED
    assert ledger.open_count == 0


def test_a_decision_knows_its_log_entry_and_everything_that_was_proposed() -> None:
    ledger = Ledger()
    standing = ledger.apply(a_decide(T, ABORT, ["a"], "too little money", "b", 77), term=3, index=9)
    assert standing.decision == Decision(T, ABORT, ("a",), ("a",), "too little money", "b", 77, 3, 9)
    assert standing.decision.state is State.ABORTED


def test_a_branch_named_twice_is_one_branch() -> None:
    decision = Applied().do(a_decide(T, COMMIT, ["b", "a", "b"])).decision
    assert decision.branches == decision.outstanding == ("b", "a")


def test_absence_is_undecided_and_never_aborted() -> None:
    assert Ledger().state(T) is State.UNDECIDED
    assert Ledger().decision(T) is None


# -- complete ---------------------------------------------------------------------------------------------------------


def test_a_decision_is_complete_when_every_branch_has_acknowledged() -> None:
    ledger = Applied()
    ledger.do(a_decide(T, COMMIT, ["a", "b"]))
    assert ledger.do(Complete(((T, ("a",)),))) == Done(True)
    assert [d.outstanding for d in ledger.open_decisions()] == [("b",)]
    assert ledger.do(Complete(((T, ("b", "a")),))) == Done(True)
    assert ledger.open_count == 0
    known = ledger.decision(T)
    assert known is not None
    assert (known.branches, known.outstanding) == (("a", "b"), ())


@pytest.mark.parametrize(
    "acks",
    [(), ((txid_at(1), ("a",)),), ((T, ()),), ((T, ("nobody",)),)],
    ids=["nothing", "unknown txid", "no branch", "unknown branch"],
)
def test_an_acknowledgement_of_nothing_changes_nothing(acks: Any) -> None:
    ledger = Applied()
    ledger.do(a_decide(T, COMMIT, ["a"]))
    ledger.take_changes()
    assert ledger.do(Complete(acks)) == Done(False)
    assert ledger.changed_count == 0


def test_a_repeated_acknowledgement_changes_nothing() -> None:
    ledger = Applied()
    ledger.do(a_decide(T, COMMIT, ["a"]))
    assert ledger.do(Complete(((T, ("a",)), (T, ("a",))))) == Done(True)
    assert ledger.do(Complete(((T, ("a",)),))) == Done(False)


# -- the horizon ------------------------------------------------------------------------------------------------------


def test_what_is_finished_and_older_than_the_horizon_is_forgotten() -> None:
    ledger = Applied()
    ledger.do(a_decide(T, COMMIT))
    ledger.do(a_decide(txid_at(1), ABORT))
    ledger.do(a_decide(txid_at(2), COMMIT))
    assert ledger.do(Retire(T0_MS + 2)) == Done(True)
    assert [ledger.state(txid_at(ms)) for ms in range(3)] == [State.FORGOTTEN, State.FORGOTTEN, State.COMMITTED]
    assert ledger.memory_count == 1


def test_the_horizon_is_exact_to_the_millisecond() -> None:
    newest_before = TxId.new(T0_MS - 1, b"\xff" * 10)
    oldest_at = TxId.new(T0_MS, b"\x00" * 10)
    ledger = Applied()
    for txid in (newest_before, oldest_at):
        ledger.do(a_decide(txid, ABORT))
    ledger.do(Retire(T0_MS))
    assert ledger.state(newest_before) is State.FORGOTTEN
    assert ledger.state(oldest_at) is State.ABORTED


def test_a_commit_with_an_outstanding_branch_is_never_retired() -> None:
    ledger = Applied()
    ledger.do(a_decide(T, COMMIT, ["a", "b"]))
    ledger.do(Complete(((T, ("a",)),)))
    ledger.do(Retire(T0_MS + 1_000_000))
    assert ledger.state(T) is State.COMMITTED
    assert ledger.do(a_decide(T, ABORT)).state is State.COMMITTED
    assert [d.outstanding for d in ledger.open_decisions()] == [("b",)]


def test_an_abort_is_retired_whoever_is_outstanding() -> None:
    ledger = Applied()
    ledger.do(a_decide(T, ABORT, ["a", "b"]))
    ledger.do(Retire(T0_MS + 1))
    assert ledger.state(T) is State.FORGOTTEN
    assert ledger.open_count == 0
    assert ledger.do(Complete(((T, ("a",)),))) == Done(False)


def test_the_last_acknowledgement_behind_the_horizon_forgets_the_commit() -> None:
    ledger = Applied()
    ledger.do(a_decide(T, COMMIT, ["a", "b"]))
    ledger.do(Retire(T0_MS + 1))
    ledger.do(Complete(((T, ("a",)),)))
    assert ledger.state(T) is State.COMMITTED
    ledger.do(Complete(((T, ("b",)),)))
    assert ledger.state(T) is State.FORGOTTEN
    assert (ledger.open_count, ledger.memory_count) == (0, 0)
    changes = ledger.take_changes()
    assert changes["decisions"].forget_below == first_txid_of(T0_MS + 1), "the disk must forget it too"


@pytest.mark.parametrize("verdict", Verdict)
def test_nothing_new_is_decided_behind_the_horizon(verdict: Verdict) -> None:
    ledger = Applied()
    ledger.do(Retire(T0_MS + 1))
    ledger.take_changes()
    assert ledger.do(a_decide(T, verdict, ["a"])) == Standing(State.FORGOTTEN, None, False)
    assert ledger.changed_count == 0
    assert ledger.state(T) is State.FORGOTTEN


def test_the_horizon_never_moves_back() -> None:
    ledger = Applied()
    assert ledger.do(Retire(T0_MS)) == Done(True)
    assert ledger.do(Retire(T0_MS)) == Done(False)
    assert ledger.do(Retire(T0_MS - 1)) == Done(False)
    assert ledger.horizon_ms == T0_MS


def test_the_last_millisecond_that_a_txid_can_bear_can_be_retired() -> None:
    latest = TxId.new((1 << 48) - 2, b"\xff" * 10)
    ledger = Applied()
    ledger.do(a_decide(latest, ABORT))
    ledger.do(Retire((1 << 48) - 1))
    assert ledger.state(latest) is State.FORGOTTEN


def test_a_horizon_in_the_future_can_be_lowered_and_what_was_forgotten_stays_forgotten() -> None:
    ledger = Applied()
    ledger.do(a_decide(T, COMMIT))
    ledger.do(Retire(T0_MS + 1_000))
    assert ledger.do(a_decide(txid_at(5), COMMIT)).state is State.FORGOTTEN
    assert ledger.do(Lower(T0_MS + 1_000, T0_MS + 10, "anna", T0_MS + 7)) == Done(True)
    assert ledger.horizon_ms == T0_MS + 10
    for forgotten in (T, txid_at(5), txid_at(9)):
        assert ledger.do(a_decide(forgotten, COMMIT)).state is State.FORGOTTEN
    assert ledger.do(a_decide(txid_at(10), COMMIT)).state is State.COMMITTED
    (record,) = ledger.damages()
    assert (record.txid.ms, record.branch, record.acknowledged_by) == (T0_MS + 7, LOWERED, "anna")


@pytest.mark.parametrize(("was", "to"), [(999, 10), (1_001, 10), (1_000, 1_000), (1_000, 1_001)])
def test_a_horizon_is_lowered_from_where_it_is_and_down(was: int, to: int) -> None:
    ledger = Applied()
    ledger.do(Retire(T0_MS + 1_000))
    assert ledger.do(Lower(T0_MS + was, T0_MS + to, "anna", 1)) == Done(False)
    assert ledger.horizon_ms == T0_MS + 1_000


@pytest.mark.parametrize(("open_at", "lowered"), [(9, True), (10, False), (999, False), (1_000, True)])
def test_a_horizon_is_not_lowered_below_an_open_decision_that_is_older_than_it(open_at: int, lowered: bool) -> None:
    ledger = Applied()
    ledger.do(a_decide(txid_at(open_at), COMMIT, ["a"]))
    ledger.do(Retire(T0_MS + 1_000))
    assert ledger.do(Lower(T0_MS + 1_000, T0_MS + 10, "anna", 1)) == Done(lowered)
    assert ledger.state(txid_at(open_at)) is State.COMMITTED


# -- the cluster's id, damage -----------------------------------------------------------------------------------------


def test_the_cluster_is_founded_once() -> None:
    ledger = Applied()
    assert ledger.do(Found("00112233aabbccdd")) == Done(True)
    assert ledger.do(Found("ffffffffffffffff")) == Done(False)
    assert ledger.cluster == "00112233aabbccdd"


ONE, OTHER = "01" * 16, "02" * 16


def test_the_last_identity_that_is_enrolled_under_a_name_stands() -> None:
    ledger = Applied()
    before = ledger.enrolled
    assert ledger.do(Enroll("n3", ONE)) == Done(True)
    assert ledger.do(Enroll("n3", ONE)) == Done(False)
    assert ledger.do(Enroll("n3", OTHER)) == Done(True)
    assert ledger.do(Enroll("n1", ONE)) == Done(True)
    assert (ledger.enrolled, before) == ({"n3": OTHER, "n1": ONE}, {})
    assert ledger.changed_count == 1
    assert ledger.take_changes()["founding"].fields == {"enrolled": ledger.enrolled}


def test_no_more_names_are_enrolled_than_a_cluster_may_have_nodes() -> None:
    ledger, most = Applied(), max(limits.NODES_ALLOWED)
    assert all(ledger.do(Enroll(f"n{number}", ONE)) == Done(True) for number in range(most))
    assert ledger.do(Enroll("one-more", ONE)) == Done(False)
    assert ledger.do(Enroll("n0", OTHER)) == Done(True)
    assert len(ledger.enrolled) == most


def test_a_name_is_bound_to_the_first_state_and_changed_by_nobody_but_an_operator() -> None:
    ledger = Applied()
    before = ledger.participants
    assert ledger.do(Bind("a", ONE, "", "", 5)) == Done(True)
    assert ledger.do(Bind("a", ONE, "", "", 6)) == Done(False)
    assert ledger.do(Bind("a", OTHER, "", "", 7)) == Done(False)
    assert ledger.do(Bind("a", OTHER, OTHER, "ops", 8)) == Done(False)
    assert (dict(ledger.participants), before) == ({"a": Binding("a", ONE, "", 5, "")}, {})
    assert ledger.do(Bind("a", OTHER, ONE, "ops", 9)) == Done(True)
    assert ledger.do(Bind("a", OTHER, ONE, "ops", 9)) == Done(False), "proposed again, because its fate was not known"
    assert ledger.participants["a"] == Binding("a", OTHER, "ops", 9, ONE)
    assert ledger.changed_count == 1
    assert ledger.take_changes()["participants"].puts == {"a": Binding("a", OTHER, "ops", 9, ONE)}


def test_a_name_that_is_forgotten_is_free() -> None:
    ledger = Applied()
    assert ledger.do(Bind("a", "", "", "ops", 1)) == Done(False)
    ledger.do(Bind("a", ONE, "", "", 1))
    assert ledger.do(Bind("a", "", OTHER, "ops", 2)) == Done(False)
    assert ledger.do(Bind("a", "", ONE, "ops", 3)) == Done(True)
    assert not ledger.participants
    assert list(ledger.take_changes()["participants"].deletes) == ["a"]
    assert ledger.do(Bind("a", OTHER, "", "", 4)) == Done(True)


def test_no_more_participants_are_bound_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PARTICIPANTS_MAX", 3)
    ledger = Applied()
    assert all(ledger.do(Bind(f"p{number}", ONE, "", "", 1)) == Done(True) for number in range(3))
    assert ledger.do(Bind("one-more", ONE, "", "", 1)) == Done(False)
    assert ledger.do(Bind("p0", OTHER, ONE, "ops", 1)) == Done(True)


def test_damage_is_recorded_once_and_acknowledged_once() -> None:
    ledger = Applied()
    assert ledger.do(Acknowledge(T, "a", "anna", 1)) == Done(False)
    assert ledger.do(Heuristic(T, "a", "rolled back by hand", 5)) == Done(True)
    assert ledger.do(Heuristic(T, "a", "something else", 6)) == Done(False)
    assert ledger.do(Acknowledge(T, "a", "anna", 7)) == Done(True)
    assert ledger.do(Acknowledge(T, "a", "ben", 8)) == Done(False)
    assert list(ledger.damages()) == [Damage(T, "a", "rolled back by hand", 5, "anna")]


def test_a_branch_of_a_commit_is_closed_by_an_operator_and_the_decision_stays_for_ever() -> None:
    ledger = Applied()
    ledger.do(a_decide(T, COMMIT, ["a", "b", "c"]))
    assert ledger.do(Close(((T, ("a", "x")),), "ops", "sold", 5)) == Done(True)
    assert ledger.do(Close(((T, ("a",)),), "dev", "again", 6)) == Done(False)
    made = ledger.decision(T)
    assert made is not None
    assert (made.outstanding, made.closed) == (("b", "c"), (Closing("a", "ops", "sold", 5),))
    ledger.do(Complete(((T, ("b", "c", "a")),)))
    assert ledger.open_count == 0
    ledger.do(Retire(T.ms + 1))
    assert ledger.state(T) is State.COMMITTED
    assert ledger.decision(T) == made._replace(outstanding=())
    assert ledger.do(a_decide(T, ABORT)).state is State.COMMITTED


@pytest.mark.parametrize("decided", [None, ABORT])
def test_what_is_not_a_branch_of_a_commit_cannot_be_closed(decided: Verdict | None) -> None:
    ledger = Applied()
    if decided is not None:
        ledger.do(a_decide(T, decided, ["a"]))
    before = ledger.decision(T)
    assert ledger.do(Close(((T, ("a",)),), "ops", "gone", 5)) == Done(False)
    assert ledger.decision(T) == before
    assert ledger.state(T) is (State.UNDECIDED if decided is None else State.ABORTED)


def test_what_is_complete_cannot_be_closed_and_is_forgotten() -> None:
    ledger = Applied()
    ledger.do(a_decide(T, COMMIT, ["a"]))
    ledger.do(Complete(((T, ("a",)),)))
    assert ledger.do(Close(((T, ("a",)),), "ops", "gone", 5)) == Done(False)
    ledger.do(Retire(T.ms + 1))
    assert ledger.state(T) is State.FORGOTTEN


def test_open_decisions_are_found_from_an_index_on() -> None:
    ledger = Applied()
    made = [txid_at(number, number) for number in range(6)]
    for txid in made:
        ledger.do(a_decide(txid, COMMIT, ["a", "b"]))
    ledger.do(Complete(((made[1], ("a",)), (made[4], ("a", "b")))))
    assert [d.txid for d in ledger.open_since(4)] == [made[3], made[5]]
    assert [d.txid for d in ledger.open_since(0)] == [*made[:4], made[5]]
    assert ledger.open_since(ledger.last_index) == []
    assert ledger.open_decision(made[4]) is None


def test_settled_damage_closes_its_branch_and_is_forgotten_behind_the_horizon() -> None:
    ledger, other = Applied(), txid_at(50)
    for txid in (T, other):
        ledger.do(a_decide(txid, COMMIT, ["a", "b"]))
        ledger.do(Heuristic(txid, "a", "rolled back by hand", 5))
    assert ledger.damages_unseen == 2
    assert ledger.do(Settle(((T, ("a", "b")),), "ops", 7)) == Done(True)
    assert ledger.do(Settle(((T, ("a", "b")),), "dev", 8)) == Done(False)
    assert ledger.damages_unseen == 1
    assert ledger.damage(T, "a") == Damage(T, "a", "rolled back by hand", 5, "ops", 7)
    assert ledger.decision(T).outstanding == ("b",)  # type: ignore[union-attr]
    assert ledger.decision(T).closed == (Closing("a", "ops", SETTLED, 7),)  # type: ignore[union-attr]
    ledger.take_changes()
    ledger.do(Retire(T.ms + 1))
    assert [damage.txid for damage in ledger.damages()] == [other]
    assert list(ledger.take_changes()["damages"].deletes) == [(T, "a")]
    assert ledger.state(T) is State.COMMITTED, "the branch may come back, and must hear COMMIT"
    ledger.do(Complete(((T, ("b",)),)))
    ledger.do(Retire(T.ms + 2))
    assert ledger.state(T) is State.COMMITTED


def test_damage_that_nobody_settled_is_never_forgotten() -> None:
    """Neither is what an older release acknowledged: the record is all that tells its branch not to roll back."""
    ledger = Applied()
    ledger.do(a_decide(T, COMMIT, ["a"]))
    ledger.do(Heuristic(T, "a", "gone", 5))
    ledger.do(Retire(T.ms + 1))
    assert ledger.damage(T, "a") is not None
    ledger.do(Acknowledge(T, "a", "anna", 6))
    ledger.do(Complete(((T, ("a",)),)))
    ledger.do(Settle(((T, ("a",)),), "ops", 7))
    ledger.do(Retire(T.ms + 2))
    assert ledger.damage(T, "a") == Damage(T, "a", "gone", 5, "anna")


def test_damage_of_an_abort_is_settled_and_its_branch_is_waited_for_no_longer() -> None:
    ledger = Applied()
    ledger.do(a_decide(T, ABORT, ["a"]))
    ledger.do(Heuristic(T, "a", "it was committed by hand", 5))
    assert ledger.do(Settle(((T, ("a",)),), "ops", 7)) == Done(True)
    assert ledger.open_count == 0
    assert ledger.state(T) is State.ABORTED
    ledger.do(Retire(T.ms + 1))
    assert (ledger.state(T), list(ledger.damages())) == (State.FORGOTTEN, [])


def test_something_that_is_no_command_halts() -> None:
    with pytest.raises(Halt, match="no rule"):
        Ledger().apply("commit", 1, 2)  # type: ignore[arg-type]


# -- where it is kept makes no difference -----------------------------------------------------------------------------

POOL = [txid_at(10 * (i // 2), i) for i in range(12)]
"""Six milliseconds with two transactions each."""

txids = st.sampled_from(POOL)
branches = st.lists(st.sampled_from(["a", "b", "c"]), max_size=3).map(tuple)
commands = st.one_of(
    st.builds(a_decide, txids, st.sampled_from(Verdict), branches),
    st.builds(a_decide, txids, st.sampled_from(Verdict), branches),
    st.builds(Complete, st.lists(st.tuples(txids, branches), max_size=3).map(tuple)),
    st.builds(Retire, st.integers(T0_MS - 5, T0_MS + 70)),
    st.builds(Retire, st.sampled_from([T0_MS + 30, T0_MS + 70])),
    st.builds(
        Lower,
        st.sampled_from([T0_MS + 30, T0_MS + 70]),
        st.sampled_from([T0_MS + 5, T0_MS + 20, T0_MS + 50]),
        st.just("anna"),
        st.integers(0, 9),
    ),
    st.builds(Found, st.sampled_from(["00112233aabbccdd", "ffffffffffffffff"])),
    st.builds(Heuristic, txids, st.sampled_from(["a", "b"]), st.just("by hand"), st.integers(0, 9)),
    st.builds(Enroll, st.sampled_from(["n1", "n2"]), st.sampled_from([ONE, OTHER])),
    st.builds(
        Bind,
        st.sampled_from(["a", "b"]),
        st.sampled_from([ONE, OTHER, ""]),
        st.sampled_from([ONE, OTHER, ""]),
        st.just("x"),
        st.just(1),
    ),
    st.builds(Acknowledge, txids, st.sampled_from(["a", "b"]), st.just("anna"), st.integers(0, 9)),
    st.builds(Close, st.tuples(st.tuples(txids, branches)), st.just("ops"), st.just("gone"), st.just(3)),
    st.builds(Settle, st.tuples(st.tuples(txids, branches)), st.sampled_from(["ops", "anna"]), st.integers(0, 9)),
)


class Disk(Shelf):
    """And up to which log index."""

    index = 1

    def write(self, changes: Changes, index: int) -> None:
        self.store(changes)
        self.index = index


def same(one: Ledger, other: Ledger) -> None:
    for txid in POOL:
        assert one.decision(txid) == other.decision(txid)
        assert one.state(txid) == other.state(txid)
    assert {d.txid: d for d in one.open_decisions()} == {d.txid: d for d in other.open_decisions()}
    assert one.open_count == other.open_count
    assert (one.cluster, one.horizon_ms, one.enrolled) == (other.cluster, other.horizon_ms, other.enrolled)
    assert set(one.damages()) == set(other.damages())
    assert one.damages_unseen == other.damages_unseen == sum(not damage.acknowledged_by for damage in other.damages())
    assert sorted(one.open_since(0)) == sorted(one.open_decisions())
    assert one.participants == other.participants


@given(st.lists(commands, max_size=40), st.integers(1, 4), st.randoms(use_true_random=False))
def test_a_ledger_that_sheds_stores_late_and_restarts_answers_as_one_that_keeps_everything(
    history: list[Command], keep: int, rng: random.Random
) -> None:
    """Seldom-stored, half-remembered, restarted at any store: the same answer to every command."""
    model, disk = Ledger(), Disk()
    ledger = disk.ledger(keep)
    waiting: list[tuple[Changes, int]] = []
    log: list[tuple[Command, Result]] = []
    for index, command in enumerate(history, 2):
        log.append((command, model.apply(command, 1, index)))
        assert ledger.apply(command, 1, index) == log[-1][1]
        same(ledger, model)
        if rng.random() < 0.4 and not waiting:
            waiting.append((ledger.take_changes(), index))
        if waiting and rng.random() < 0.5:
            changes, upto = waiting.pop()
            disk.write(changes, upto)
            same(ledger, model)
            ledger.stored(changes)
            same(ledger, model)
        if rng.random() < 0.3:
            ledger[Decisions].keep_newest(keep, disk.index)
            same(ledger, model)
        if rng.random() < 0.2:  # a crash: what was not stored is applied again from the log
            waiting.clear()
            ledger = disk.ledger(keep)
            for again in range(disk.index + 1, index + 1):
                repeated, answer = log[again - 2]
                assert ledger.apply(repeated, 1, again) == answer
            same(ledger, model)


def test_an_open_commit_from_before_the_floor_is_forgotten_like_any_other() -> None:
    """It was loaded at start beside the newest; once complete and behind the horizon no node may know it any more."""
    disk = Disk()
    before = Applied()
    before.do(a_decide(txid_at(0), COMMIT, ["a"]))
    before.do(a_decide(txid_at(1), COMMIT))
    disk.write(before.take_changes(), before.last_index)
    after = disk.ledger(keep=1)
    for ledger in (before, after):
        ledger.apply(Complete(((txid_at(0), ("a",)),)), 1, 4)
        ledger.apply(Retire(T0_MS + 1), 1, 5)
    assert after.state(txid_at(0)) is before.state(txid_at(0)) is State.FORGOTTEN


def test_shedding_waits_until_everything_that_would_go_is_stored() -> None:
    disk, ledger = Disk(), Applied()
    for i in range(4):
        ledger.do(a_decide(POOL[i]))
    ledger[Decisions].keep_newest(1, ledger.last_index)
    assert ledger.memory_count == 4, "changes wait to be taken"
    changes = ledger.take_changes()
    ledger[Decisions].keep_newest(1, ledger.last_index - 2)
    assert ledger.memory_count == 4, "one that would go is not stored"
    disk.write(changes, ledger.last_index)
    ledger.stored(changes)
    ledger[Decisions].keep_newest(1, ledger.last_index)
    assert (ledger.memory_count, ledger[Decisions].floor) == (1, POOL[3])
    ledger[Decisions].keep_newest(0, ledger.last_index)
    assert ledger.memory_count == 0
    assert ledger[Decisions].floor > POOL[3]


def test_what_changes_again_while_it_is_being_stored_is_known_as_it_is() -> None:
    disk, before = Disk(), Applied()
    before.do(a_decide(T, COMMIT, ["a", "b"]))
    before.do(a_decide(txid_at(1)))
    disk.write(before.take_changes(), before.last_index)
    ledger = disk.ledger(keep=1)
    assert ledger[Decisions].floor > T
    ledger.apply(Complete(((T, ("a",)),)), 1, 4)
    taken = ledger.take_changes()
    ledger.apply(Complete(((T, ("b",)),)), 1, 5)
    disk.write(taken, 4)
    ledger.stored(taken)
    known = ledger.decision(T)
    assert known is not None
    assert known.outstanding == ()


def test_changes_are_taken_once() -> None:
    ledger = Applied()
    ledger.do(a_decide(T, COMMIT, ["a"]))
    ledger.do(Found("00112233aabbccdd"))
    assert ledger.changed_count == 2
    assert bool(ledger.take_changes())
    assert ledger.changed_count == 0
    assert not ledger.take_changes()
