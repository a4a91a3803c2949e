"""Two-phase commit of one transaction: every order of events for up to three branches, and the rules one by one."""

from __future__ import annotations

import copy
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from raftcoord import limits
from raftcoord.core.protocols.interface import (
    BranchAcknowledged,
    BranchVoted,
    ConnectDeadline,
    Connected,
    Deliver,
    Effect,
    Event,
    Lost,
    PrepareDeadline,
    ProposalNotKnown,
    ProposeDecide,
    Reply,
    ReplyDeadline,
    ReplyInDoubt,
    ReplyTxidUsed,
    SendPrepare,
    Stands,
    Started,
)
from raftcoord.core.protocols.two_phase import (
    BALLOTS,
    MOVES,
    STANDS,
    Ballot,
    Coordinator,
    Meaning,
    Move,
    Phase,
    not_connected,
)
from raftcoord.core.tables.decisions import FORGOTTEN, Decision, Standing
from raftcoord.errors import Halt
from raftcoord.types import State, TxId, Verdict, Vote

TXID = TxId.new(1_700_000_000_000, bytes(10))


def stands(verdict: Verdict, *branches: str, first: bool = True) -> Standing:
    """A recorded decision as the ledger answers it."""
    made = Decision(TXID, verdict, branches, branches, "", "", 0, 3, 7)
    return Standing(made.state, made, first)


# -- every order of events ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """A coordinator, what it has been told, and what it has done so far."""

    coordinator: Coordinator
    asked: frozenset[str] = frozenset()
    answered: frozenset[str] = frozenset()
    connect_deadline: bool = False
    prepare_deadline: bool = False
    proposal: ProposeDecide | None = None
    standing: Standing | None = None
    fate_told: bool = False
    delivered: tuple[Deliver, ...] = ()
    acknowledged: frozenset[str] = frozenset()
    reply_deadline: bool = False
    replies: tuple[Effect, ...] = ()

    def key(self) -> object:
        """Two worlds with the same key have the same future."""
        c = self.coordinator
        return (
            (c.phase, *c.ballots.values(), self.asked, self.answered, self.acknowledged),
            (self.connect_deadline, self.prepare_deadline, self.proposal, self.standing, self.fate_told),
            (self.delivered, self.replies),
        )

    def told(self) -> frozenset[str]:
        return frozenset(branch for deliver in self.delivered for branch in deliver.branches)


@dataclass
class Explorer:
    """Every reachable world, each once; ``ends``: those in which the coordinator is done. What comes later does nothing."""

    branches: tuple[str, ...]
    wait_completed: bool
    seen: set[object] = field(default_factory=set)
    ends: list[World] = field(default_factory=list)

    def explore(self) -> None:
        todo: list[World] = []
        for connected in subsets(self.branches):
            made = World(Coordinator(self.branches, wait_completed=self.wait_completed))
            todo.append(self.after(made, Started(connected)))
        while todo:
            world = todo.pop()
            if world.key() in self.seen:
                continue
            self.seen.add(world.key())
            following = [self.after(world, event) for event in self.possible(world)]
            if world.coordinator.done:
                assert all(after.replies == world.replies and after.delivered == world.delivered for after in following)
                self.ends.append(world)
            else:
                todo += following

    def possible(self, world: World) -> Iterator[Event]:
        for branch in self.branches:
            if branch not in world.asked:
                yield Connected(branch)
            elif branch not in world.answered:
                yield BranchVoted(branch, Vote.yes())
                yield BranchVoted(branch, Vote.no("sold out"))
                yield BranchVoted(branch, Vote.read_only())
                yield Lost(branch, "its connection was lost")
        if not world.connect_deadline:
            yield ConnectDeadline()
        if not world.prepare_deadline:
            yield PrepareDeadline(100)
        if world.proposal is not None and not world.fate_told:
            yield ProposalNotKnown()
            yield from map(Stands, self.standings(world.proposal))
        for branch in world.told() - world.acknowledged:
            yield BranchAcknowledged(branch)
        if world.delivered and not world.reply_deadline:
            yield ReplyDeadline()

    def standings(self, proposal: ProposeDecide) -> Iterator[Standing]:
        yield stands(Verdict.ABORT, *proposal.branches)
        yield stands(Verdict.ABORT, first=False)
        yield stands(Verdict.COMMIT, "somebody-else", self.branches[0], first=False)
        yield FORGOTTEN
        if proposal.verdict is Verdict.COMMIT:
            yield stands(Verdict.COMMIT, *proposal.branches)
            yield stands(Verdict.COMMIT, *reversed(proposal.branches), first=False)

    def after(self, world: World, event: Event) -> World:
        coordinator = clone(world.coordinator)
        ballots_before = dict(coordinator.ballots)
        effects = coordinator.handle(event)
        made = replace(world, coordinator=coordinator)
        match event:
            case BranchVoted(branch) | Lost(branch):
                made = replace(made, answered=made.answered | {branch})
            case ConnectDeadline():
                made = replace(made, connect_deadline=True)
            case PrepareDeadline():
                made = replace(made, prepare_deadline=True)
            case Stands(standing):
                made = replace(made, fate_told=True, standing=standing)
            case ProposalNotKnown():
                made = replace(made, fate_told=True)
            case BranchAcknowledged(branch):
                made = replace(made, acknowledged=made.acknowledged | {branch})
            case ReplyDeadline():
                made = replace(made, reply_deadline=True)
            case Connected(branch) if SendPrepare(branch) not in effects:
                made = replace(made, asked=made.asked | {branch}, answered=made.answered | {branch})
        for effect in effects:
            made = self.check(made, effect, ballots_before)
        return made

    def check(self, world: World, effect: Effect, ballots: dict[str, Ballot]) -> World:
        """The obligations of the module's head."""
        now = world.coordinator.ballots
        match effect:
            case SendPrepare(branch):
                assert world.proposal is None, "a prepare after the proposal"
                assert branch not in world.asked, "a second prepare"
                return replace(world, asked=world.asked | {branch})
            case ProposeDecide(verdict, branches, reason, branch):
                assert world.proposal is None, "a second proposal"
                if verdict is Verdict.COMMIT:
                    assert set(now.values()) <= {Ballot.YES, Ballot.READ_ONLY}
                    assert set(branches) == {b for b, ballot in now.items() if ballot is Ballot.YES}
                    assert (reason, branch) == ("", "")
                else:
                    may = {b for b, ballot in now.items() if ballot in (Ballot.YES, Ballot.ASKED, Ballot.SILENT)}
                    assert set(branches) == may
                    assert set(branches) <= world.asked
                    assert reason
                    assert branch in self.branches
                return replace(world, proposal=effect)
            case Deliver(verdict, branches):
                assert world.standing is not None, "a delivery before anything stands"
                assert world.proposal is not None
                decision = world.standing.decision
                assert set(branches) <= set(world.proposal.branches)
                if verdict is Verdict.COMMIT:
                    assert decision is not None
                    assert decision.verdict is Verdict.COMMIT
                    assert set(branches) == set(decision.branches)
                elif decision is not None and decision.verdict is Verdict.COMMIT:
                    assert not set(branches) & set(decision.branches), "ABORT to a branch of a COMMIT"
                return replace(world, delivered=(*world.delivered, effect))
            case Reply(standing) | ReplyTxidUsed(standing):
                assert standing is world.standing, "an answer that the ledger did not give"
                if self.wait_completed and isinstance(effect, Reply):
                    assert world.told() <= world.acknowledged or world.reply_deadline
                return replace(world, replies=(*world.replies, effect))
            case ReplyInDoubt():
                assert world.standing is None
                return replace(world, replies=(*world.replies, effect))


def clone(coordinator: Coordinator) -> Coordinator:
    made = copy.copy(coordinator)
    made.ballots = dict(coordinator.ballots)
    made._waiting_for = set(coordinator._waiting_for)
    return made


def subsets(names: tuple[str, ...]) -> Iterator[frozenset[str]]:
    for bits in range(1 << len(names)):
        yield frozenset(name for i, name in enumerate(names) if bits >> i & 1)


@pytest.mark.parametrize(
    ("branches", "wait_completed"),
    [(("a",), False), (("a",), True), (("a", "b"), False), (("a", "b"), True), (("a", "b", "c"), False)],
)
def test_every_order_of_events_keeps_the_promises(branches: tuple[str, ...], wait_completed: bool) -> None:
    explorer = Explorer(branches, wait_completed)
    explorer.explore()
    assert explorer.ends
    for end in explorer.ends:
        assert end.coordinator.done
        assert end.proposal is not None
        assert len(end.replies) == 1
        if end.standing is None:
            assert end.replies == (ReplyInDoubt(),)
            assert not end.delivered
        else:
            named = end.standing.decision.branches if end.standing.decision else ()
            owed = set(end.proposal.branches)
            if isinstance(end.replies[0], ReplyTxidUsed):
                owed -= set(named)
            assert end.told() == owed


def test_the_exploration_reaches_every_move_and_every_standing_rule() -> None:
    explorer = Explorer(("a", "b"), wait_completed=True)
    explorer.explore()
    met = {key[0][0] for key in explorer.seen}  # type: ignore[index]
    assert met == set(Phase) - {Phase.NEW}
    proposals = {(end.proposal.verdict, type(end.replies[0])) for end in explorer.ends if end.proposal}
    assert proposals == {(v, r) for v in Verdict for r in (Reply, ReplyTxidUsed, ReplyInDoubt)}


# -- the tables ---------------------------------------------------------------------------------------------------

ANY_EVENT: dict[type, Event] = {
    Started: Started(frozenset({"a"})),
    Connected: Connected("a"),
    BranchVoted: BranchVoted("a", Vote.yes()),
    Lost: Lost("a", "gone"),
    ConnectDeadline: ConnectDeadline(),
    PrepareDeadline: PrepareDeadline(1),
    Stands: Stands(FORGOTTEN),
    ProposalNotKnown: ProposalNotKnown(),
    BranchAcknowledged: BranchAcknowledged("a"),
    ReplyDeadline: ReplyDeadline(),
}


def in_phase(phase: Phase) -> Coordinator:
    made = Coordinator(["a", "b"], wait_completed=True)
    steps: list[Event] = [
        Started(frozenset({"a", "b"})),
        Lost("b", "gone"),
        Stands(stands(Verdict.ABORT, "a", "b")),
        ReplyDeadline(),
    ]
    for event in steps:
        if made.phase is phase:
            break
        made.handle(event)
    assert made.phase is phase
    return made


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("kind", typing.get_args(Event))
def test_an_event_that_the_table_does_not_name_is_a_bug_and_halts(phase: Phase, kind: type) -> None:
    coordinator = in_phase(phase)
    if (phase, kind) in MOVES:
        coordinator.handle(ANY_EVENT[kind])
    else:
        with pytest.raises(Halt, match=f"{phase.value} was given {kind.__name__}"):
            coordinator.handle(ANY_EVENT[kind])
        assert coordinator.phase is phase


def test_every_move_stands_in_the_table_and_every_ballot_can_be_reached() -> None:
    assert set(MOVES.values()) == set(Move)
    assert {Ballot.ABSENT, *BALLOTS.values()} == set(Ballot)
    assert {meaning for _, meaning in STANDS} == set(Meaning)


def test_a_branch_that_is_not_of_the_transaction_cannot_vote() -> None:
    with pytest.raises(Halt, match="'z' said 'yes'"):
        preparing("a").handle(BranchVoted("z", Vote.yes()))


def test_a_branch_cannot_vote_twice() -> None:
    coordinator = preparing("a", "b")
    coordinator.handle(BranchVoted("a", Vote.yes()))
    with pytest.raises(Halt, match="'a' said 'no'"):
        coordinator.handle(BranchVoted("a", Vote.no("after all")))


def test_a_commit_with_our_branches_against_our_abort_proposal_is_somebody_elses() -> None:
    coordinator = preparing("a", "b")
    coordinator.handle(Lost("b", "gone"))
    effects = coordinator.handle(Stands(stands(Verdict.COMMIT, "a", "b", first=False)))
    assert [type(effect) for effect in effects] == [ReplyTxidUsed]


# -- the rules, one by one ----------------------------------------------------------------------------------------


def preparing(*branches: str, wait_completed: bool = False) -> Coordinator:
    made = Coordinator(branches, wait_completed=wait_completed)
    assert made.handle(Started(frozenset(branches))) == [SendPrepare(branch) for branch in branches]
    return made


def proposal(effects: list[Effect]) -> ProposeDecide:
    (effect,) = effects
    assert isinstance(effect, ProposeDecide)
    return effect


def test_all_yes_proposes_commit_of_all() -> None:
    coordinator = preparing("a", "b")
    assert coordinator.handle(BranchVoted("b", Vote.yes())) == []
    assert proposal(coordinator.handle(BranchVoted("a", Vote.yes()))) == ProposeDecide(
        Verdict.COMMIT, ("a", "b"), "", ""
    )


def test_a_read_only_branch_is_released_by_its_vote() -> None:
    coordinator = preparing("a", "b")
    coordinator.handle(BranchVoted("a", Vote.read_only()))
    assert proposal(coordinator.handle(BranchVoted("b", Vote.yes()))).branches == ("b",)


def test_all_read_only_is_recorded_as_a_commit_without_branches() -> None:
    coordinator = preparing("a")
    assert proposal(coordinator.handle(BranchVoted("a", Vote.read_only()))) == ProposeDecide(Verdict.COMMIT, (), "", "")
    standing = stands(Verdict.COMMIT)
    assert coordinator.handle(Stands(standing)) == [Reply(standing)]


def test_a_no_aborts_at_once_and_names_the_branch_and_its_reason() -> None:
    coordinator = preparing("a", "b", "c")
    coordinator.handle(BranchVoted("a", Vote.yes()))
    made = proposal(coordinator.handle(BranchVoted("b", Vote.no("alice has only 5"))))
    assert made == ProposeDecide(Verdict.ABORT, ("a", "c"), "alice has only 5", "b")


def test_a_no_without_a_reason_gets_one() -> None:
    assert "no reason" in proposal(preparing("a").handle(BranchVoted("a", Vote.no("")))).reason


def test_a_lost_vote_may_be_a_yes_so_its_branch_is_told_the_abort() -> None:
    made = proposal(preparing("a", "b").handle(Lost("b", "its connection was lost")))
    assert made.verdict is Verdict.ABORT
    assert made.branches == ("a", "b")
    assert made.reason == "participant 'b' gave no vote: its connection was lost"


def test_a_timed_out_vote_is_a_proposal_to_abort_and_names_who_was_late() -> None:
    coordinator = preparing("a", "b")
    coordinator.handle(BranchVoted("a", Vote.yes()))
    made = proposal(coordinator.handle(PrepareDeadline(4000)))
    assert made == ProposeDecide(Verdict.ABORT, ("a", "b"), "participant 'b' did not vote within 4000 ms", "b")


def test_a_branch_that_was_never_asked_is_not_told_anything() -> None:
    coordinator = Coordinator(["a", "b"])
    assert coordinator.handle(Started(frozenset({"a"}))) == [SendPrepare("a")]
    made = proposal(coordinator.handle(ConnectDeadline()))
    assert made == ProposeDecide(Verdict.ABORT, ("a",), not_connected("b"), "b")


def test_a_participant_that_connects_in_time_is_asked_then() -> None:
    coordinator = Coordinator(["a", "b"])
    coordinator.handle(Started(frozenset({"a"})))
    assert coordinator.handle(Connected("b")) == [SendPrepare("b")]
    assert coordinator.handle(Connected("b")) == []
    assert coordinator.handle(ConnectDeadline()) == []


def test_a_participant_that_connects_after_the_proposal_is_not_asked() -> None:
    coordinator = Coordinator(["a", "b"])
    coordinator.handle(Started(frozenset({"a"})))
    coordinator.handle(ConnectDeadline())
    assert coordinator.handle(Connected("b")) == []


def test_a_yes_that_comes_after_the_abort_was_proposed_changes_nothing() -> None:
    coordinator = preparing("a")
    coordinator.handle(PrepareDeadline(100))
    assert coordinator.handle(BranchVoted("a", Vote.yes())) == []
    standing = stands(Verdict.ABORT, "a")
    assert coordinator.handle(Stands(standing)) == [Reply(standing), Deliver(Verdict.ABORT, ("a",))]


def test_late_commit_loses_to_presumed_abort() -> None:
    coordinator = preparing("a", "b")
    coordinator.handle(BranchVoted("a", Vote.yes()))
    coordinator.handle(BranchVoted("b", Vote.yes()))
    standing = stands(Verdict.ABORT, first=False)
    assert coordinator.handle(Stands(standing)) == [Reply(standing), Deliver(Verdict.ABORT, ("a", "b"))]


def test_a_commit_with_other_branches_is_a_txid_used_twice() -> None:
    coordinator = preparing("a", "b")
    coordinator.handle(BranchVoted("a", Vote.yes()))
    coordinator.handle(BranchVoted("b", Vote.yes()))
    standing = stands(Verdict.COMMIT, "b", "c", first=False)
    assert coordinator.handle(Stands(standing)) == [ReplyTxidUsed(standing), Deliver(Verdict.ABORT, ("a",))]


def test_what_is_forgotten_is_told_as_forgotten_and_the_branches_are_released() -> None:
    coordinator = preparing("a")
    coordinator.handle(BranchVoted("a", Vote.yes()))
    effects = coordinator.handle(Stands(FORGOTTEN))
    assert effects == [Reply(FORGOTTEN), Deliver(Verdict.ABORT, ("a",))]
    assert FORGOTTEN.state is State.FORGOTTEN


def test_a_proposal_of_unknown_fate_is_in_doubt_and_nothing_is_delivered() -> None:
    coordinator = preparing("a")
    coordinator.handle(BranchVoted("a", Vote.yes()))
    assert coordinator.handle(ProposalNotKnown()) == [ReplyInDoubt()]
    assert coordinator.done


def test_a_caller_who_waits_for_completion_is_answered_after_the_last_acknowledgement() -> None:
    coordinator = preparing("a", "b", wait_completed=True)
    coordinator.handle(BranchVoted("a", Vote.yes()))
    coordinator.handle(BranchVoted("b", Vote.yes()))
    standing = stands(Verdict.COMMIT, "a", "b")
    assert coordinator.handle(Stands(standing)) == [Deliver(Verdict.COMMIT, ("a", "b"))]
    assert coordinator.handle(BranchAcknowledged("b")) == []
    assert coordinator.handle(BranchAcknowledged("b")) == []
    assert coordinator.handle(BranchAcknowledged("a")) == [Reply(standing)]


def test_a_caller_who_waits_for_completion_is_answered_what_stands_at_the_deadline() -> None:
    coordinator = preparing("a", wait_completed=True)
    coordinator.handle(BranchVoted("a", Vote.yes()))
    standing = stands(Verdict.COMMIT, "a")
    coordinator.handle(Stands(standing))
    assert coordinator.handle(ReplyDeadline()) == [Reply(standing)]
    assert coordinator.handle(BranchAcknowledged("a")) == []


@pytest.mark.parametrize("extra", [0, 1])
def test_a_reason_is_cut_at_the_bound(extra: int) -> None:
    reason = "x" * (limits.REASON_LENGTH_MAX + extra)
    made = proposal(preparing("a").handle(BranchVoted("a", Vote(Vote.no("").kind, reason))))
    assert made.reason == reason[: limits.REASON_LENGTH_MAX]


def test_a_transaction_without_branches_is_a_bug() -> None:
    with pytest.raises(Halt, match="without branches"):
        Coordinator([])
