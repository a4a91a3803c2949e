"""The conformance suite: the SQLite participant and a toy pass it, and every broken toy fails what is meant for it."""

import unittest
from pathlib import Path
from typing import Any

import pytest
import toys
from toys import Toy

from raftcoord.participants.conformance import ParticipantConformance
from raftcoord.participants.interface import Participant
from raftcoord.participants.sqlite import SqliteParticipant

TESTS = [name for name in dir(ParticipantConformance) if name.startswith("test_")]


def make_bank(directory: Path) -> SqliteParticipant:
    return SqliteParticipant(directory / "bank.db")


class TestSqliteParticipant(ParticipantConformance):
    importable = "test_conformance:make_bank"

    def make(self, directory: Path) -> Participant:
        return make_bank(directory)

    def good_payload(self, number: int) -> Any:
        return [{"op": "set", "key": f"account{number}", "amount": number}]

    def bad_payload(self) -> Any:
        return [{"op": "add", "key": "account1", "amount": 0.1}]

    def observe(self, participant: Participant) -> object:
        assert isinstance(participant, SqliteParticipant)
        return participant.balances()


class TestToy(ParticipantConformance):
    importable = "toys:Toy"
    patience_s = 0.1
    kind: type[Toy] = Toy

    def make(self, directory: Path) -> Participant:
        return self.kind(directory)

    def good_payload(self, number: int) -> Any:
        return f"word{number}"

    def bad_payload(self) -> Any:
        return {"word": 7}

    def observe(self, participant: Participant) -> object:
        assert isinstance(participant, Toy)
        return participant.shown()


def failures_of(kind: type[Toy], tmp_path: Path) -> dict[str, str]:
    suite = TestToy()
    suite.kind = kind
    suite.importable = f"toys:{kind.__name__}" if kind in KILLED else ""
    failed = {}
    for name in TESTS:
        directory = tmp_path / name
        directory.mkdir()
        try:
            getattr(suite, name)(directory)
        except unittest.SkipTest:
            pass
        except Exception as error:
            failed[name] = str(error)
    return failed


KILLED = (toys.PreparesInMemory,)

MEANT: dict[type[Toy], str] = {
    toys.NoTombstone: "test_an_abort_refuses_the_prepare_that_comes_late",
    toys.TombstoneInMemory: "test_an_abort_refuses_the_prepare_that_comes_late",
    toys.CommitsTheUnknown: "test_commit_of_an_unknown_txid_raises_not_prepared",
    toys.CommitsTheAborted: "test_commit_of_an_aborted_txid_raises_not_prepared",
    toys.PreparesInMemory: "test_a_yes_survives_kill_9",
    toys.CommitsInMemory: "test_a_commit_takes_effect_and_lasts",
    toys.DecidesByTime: "test_a_prepared_branch_does_not_end_with_time",
    toys.RunsAgain: "test_a_finished_txid_never_runs_again",
    toys.TakesAnyPayload: "test_a_prepared_txid_with_another_payload_is_refused",
    toys.SaysNoToARepeat: "test_a_repeated_prepare_gets_the_same_yes",
    toys.CommitsTwice: "test_repeated_outcomes_change_nothing",
    toys.RaisesOnABadPayload: "test_a_bad_payload_is_a_no_with_a_reason",
    toys.RaisesOnNothing: "test_no_payload_whatever_raises",
    toys.GivesNoReason: "test_a_bad_payload_is_a_no_with_a_reason",
    toys.UndoesACommit: "test_abort_of_a_committed_txid_raises_and_changes_nothing",
    toys.ForgetsItsCluster: "test_the_first_cluster_is_remembered_and_any_other_refused",
    toys.ForgetsItsIdentity: "test_the_identity_stays_with_the_state",
    toys.IdentityInMemory: "test_the_identity_stays_with_the_state",
    toys.WithoutIdentity: "test_the_identity_stays_with_the_state",
    toys.IdentityOfTheProgram: "test_another_state_has_another_identity",
    toys.ShowsTooEarly: "test_a_commit_takes_effect_and_lasts",
    toys.LeavesATrace: "test_an_abort_leaves_no_trace",
    toys.ListsTooFew: "test_a_yes_is_listed_as_prepared_until_its_outcome",
    toys.LosesARequest: "test_a_batch_answers_each_request_once_and_lets_none_spoil_another",
}

# A participant that loses what it promised, or shows what it should not, cannot pass the scenarios that build on it either.
TOUCHES_OTHERS = (toys.PreparesInMemory, toys.CommitsInMemory, toys.ShowsTooEarly)


@pytest.mark.parametrize("kind", MEANT, ids=lambda kind: kind.__name__)
def test_a_broken_participant_fails_the_test_that_is_meant_for_it(kind: type[Toy], tmp_path: Path) -> None:
    failed = failures_of(kind, tmp_path)
    assert MEANT[kind] in failed
    if kind not in TOUCHES_OTHERS:
        assert set(failed) == {MEANT[kind]}, failed


def test_every_scenario_has_a_broken_participant_that_it_catches() -> None:
    by_kill_9 = {name for name in TESTS if name.endswith("kill_9")}
    assert set(TESTS) - by_kill_9 == set(MEANT.values()) - by_kill_9


def test_a_failure_names_the_obligation(tmp_path: Path) -> None:
    failed = failures_of(toys.CommitsTheUnknown, tmp_path)
    assert list(failed.values()) == ["obligation 4: commit of a txid that was never prepared was a silent success"]
