"""The conformance suite: the obligations of ``interface`` as tests, for any participant.

Put a class like this into a test file, and run it with pytest:

    class TestSeats(ParticipantConformance):
        importable = "seats:Seats"                      # optional: adds the tests with a real kill -9
        def make(self, directory): return Seats(directory)
        def good_payload(self, number): return {"seat": f"A{number}", "for": "alice"}
        def bad_payload(self): return {"seat": 7}
        def observe(self, participant): return dict(participant.taken)

Every scenario runs twice: once as it stands, and once with a crash between every pair of steps, which drops the participant
without a close and makes it again from the same directory. A test that fails says which obligation it holds.

It never imports pytest: a test takes ``tmp_path``, and what cannot run is skipped with ``unittest.SkipTest``.
"""

from __future__ import annotations

import time
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from unittest import mock

from raftcoord.participants.crash import Step, run_and_kill
from raftcoord.participants.interface import (
    Abort,
    AlreadyCommitted,
    Commit,
    NotPrepared,
    Participant,
    Prepare,
    Request,
    WrongCluster,
)
from raftcoord.participants.participant_under_test import CLUSTER, ParticipantUnderTest, must_raise, owed
from raftcoord.types import Payload, TxId, Vote, VoteKind

OTHER_CLUSTER: Final = "00000000000000c2"

_LATER_S: Final = 30 * 24 * 3600
_JUNK: Final[tuple[Payload, ...]] = (
    None,
    True,
    0,
    -1.5,
    "",
    "junk",
    b"\x00",
    [],
    [None],
    {},
    {"": []},
    [[[[]]]],
    1 << 63,
)


class ParticipantConformance:
    """Derive from it, name the class Test..., and say how to make, ask and observe your participant."""

    importable: str = ""
    """``module:callable``, where ``callable(directory)`` makes the participant; for the tests with a real kill -9."""

    patience_s: float = 2.0
    """The deadline of the prepares in a batch (s): how long ``run`` may keep one back."""

    def make(self, directory: Path) -> Participant:
        """Your participant, keeping its state in ``directory``: new if that is empty, else as it was left."""
        raise NotImplementedError

    def good_payload(self, number: int) -> Payload:
        """A payload that a new participant votes yes to. Those of different numbers do not get in each other's way, and
        each changes what ``observe`` gives."""
        raise NotImplementedError

    def bad_payload(self) -> Payload:
        """A payload that your participant cannot understand."""
        raise NotImplementedError

    def observe(self, participant: Participant) -> object:
        """What is visible of the committed state, as a value to compare."""
        raise NotImplementedError

    def crash(self, participant: Participant) -> None:
        """Let go of what only the end of a process would let go of, such as a lock on a file. Not: ``close``."""

    @contextmanager
    def later(self) -> Iterator[None]:
        """Thirty days later, for code that asks the ``time`` module. Override it if your participant has another clock."""
        with (
            mock.patch.object(time, "time", lambda real=time.time: real() + _LATER_S),
            mock.patch.object(time, "time_ns", lambda real=time.time_ns: real() + _LATER_S * 10**9),
            mock.patch.object(time, "monotonic", lambda real=time.monotonic: real() + _LATER_S),
            mock.patch.object(time, "monotonic_ns", lambda real=time.monotonic_ns: real() + _LATER_S * 10**9),
        ):
            yield

    # -- 1: a yes is a promise ------------------------------------------------------------------------------------

    def test_a_yes_is_listed_as_prepared_until_its_outcome(self, tmp_path: Path) -> None:
        """Obligation 1."""
        for subject in self._subjects(tmp_path):
            done, undone = TxId.new(), TxId.new()
            subject.must_prepare(done, self.good_payload(1))
            subject.must_prepare(undone, self.good_payload(2))
            owed(subject.prepared() == {done, undone}, 1, "prepared() does not list every branch that voted yes")
            subject.commit(done)
            subject.abort(undone)
            owed(subject.prepared() == set(), 1, "prepared() still lists a finished branch")

    def test_a_prepared_branch_does_not_end_with_time(self, tmp_path: Path) -> None:
        """Obligations 1 and 2."""
        for subject in self._subjects(tmp_path):
            txid, before = TxId.new(), subject.observe()
            subject.must_prepare(txid, self.good_payload(1))
            with self.later():
                subject.idle()
                owed(subject.prepared() == {txid}, 2, "a prepared branch ended because time passed")
                owed(subject.observe() == before, 2, "a prepared branch took effect because time passed")
                subject.commit(txid)
                owed(subject.observe() != before, 2, "a branch prepared 30 days ago was not committed")

    # -- 3: commit and abort --------------------------------------------------------------------------------------

    def test_a_commit_takes_effect_and_lasts(self, tmp_path: Path) -> None:
        """Obligation 3."""
        for subject in self._subjects(tmp_path):
            txid, before = TxId.new(), subject.observe()
            subject.must_prepare(txid, self.good_payload(1))
            owed(subject.observe() == before, 3, "a branch was visible before it was committed")
            subject.commit(txid)
            after = subject.observe()
            owed(after != before, 3, "commit had no visible effect; does every good_payload change observe()?")
            subject.restart()
            owed(subject.observe() == after, 3, "the effect of a commit was lost in a crash")

    def test_an_abort_leaves_no_trace(self, tmp_path: Path) -> None:
        """Obligation 2: the other half of a yes."""
        for subject in self._subjects(tmp_path):
            before = subject.observe()
            txid = TxId.new()
            subject.must_prepare(txid, self.good_payload(1))
            subject.abort(txid)
            owed(subject.observe() == before, 2, "an aborted branch left something visible")
            subject.must_prepare(TxId.new(), self.good_payload(1))

    # -- 4: what was never prepared -------------------------------------------------------------------------------

    def test_commit_of_an_unknown_txid_raises_not_prepared(self, tmp_path: Path) -> None:
        """Obligation 4."""
        for subject in self._subjects(tmp_path):
            before = subject.observe()
            with must_raise(NotPrepared, 4, "commit of a txid that was never prepared"):
                subject.commit(TxId.new())
            owed(subject.observe() == before, 4, "commit of an unknown txid changed something")

    def test_commit_of_an_aborted_txid_raises_not_prepared(self, tmp_path: Path) -> None:
        """Obligation 4."""
        for subject in self._subjects(tmp_path):
            txid = TxId.new()
            subject.must_prepare(txid, self.good_payload(1))
            subject.abort(txid)
            before = subject.observe()
            with must_raise(NotPrepared, 4, "commit of a txid that was aborted"):
                subject.commit(txid)
            owed(subject.observe() == before, 4, "commit of an aborted txid changed something")

    # -- 5: tombstones --------------------------------------------------------------------------------------------

    def test_an_abort_refuses_the_prepare_that_comes_late(self, tmp_path: Path) -> None:
        """Obligation 5."""
        for subject in self._subjects(tmp_path):
            txid = TxId.new()
            subject.abort(txid)
            vote = subject.prepare(txid, self.good_payload(1))
            owed(vote.kind is VoteKind.NO, 5, f"prepare after an abort of the same txid was answered {vote.kind.name}")

    # -- 6: idempotence, and never twice --------------------------------------------------------------------------

    def test_a_repeated_prepare_gets_the_same_yes(self, tmp_path: Path) -> None:
        """Obligation 6."""
        for subject in self._subjects(tmp_path):
            txid = TxId.new()
            subject.must_prepare(txid, self.good_payload(1))
            subject.must_prepare(txid, self.good_payload(1))
            owed(subject.prepared() == {txid}, 6, "a repeated prepare changed what is prepared")

    def test_a_prepared_txid_with_another_payload_is_refused(self, tmp_path: Path) -> None:
        """Obligation 6."""
        for number, subject in enumerate(self._subjects(tmp_path)):
            txid, alone = TxId.new(), self._alone(tmp_path / f"alone{number}")
            subject.must_prepare(txid, self.good_payload(1))
            vote = subject.prepare(txid, self.good_payload(2))
            owed(vote.kind is VoteKind.NO, 6, f"prepare of a prepared txid with another payload: {vote.kind.name}")
            subject.commit(txid)
            owed(subject.observe() == alone, 6, "the payload that was committed is not the one that was prepared first")

    def test_repeated_outcomes_change_nothing(self, tmp_path: Path) -> None:
        """Obligation 6."""
        for subject in self._subjects(tmp_path):
            done, undone = TxId.new(), TxId.new()
            subject.must_prepare(done, self.good_payload(1))
            subject.must_prepare(undone, self.good_payload(2))
            subject.commit(done)
            subject.abort(undone)
            after = subject.observe()
            subject.commit(done)
            subject.abort(undone)
            owed(subject.observe() == after, 6, "a repeated commit or abort changed something")

    def test_a_finished_txid_never_runs_again(self, tmp_path: Path) -> None:
        """Obligation 6."""
        for subject in self._subjects(tmp_path):
            done, undone = TxId.new(), TxId.new()
            subject.must_prepare(done, self.good_payload(1))
            subject.commit(done)
            subject.must_prepare(undone, self.good_payload(2))
            subject.abort(undone)
            for txid, ended in ((done, "committed"), (undone, "aborted")):
                vote = subject.prepare(txid, self.good_payload(3))
                owed(vote.kind is VoteKind.NO, 6, f"prepare of a txid that is {ended} was answered {vote.kind.name}")

    # -- 7: bad payloads ------------------------------------------------------------------------------------------

    def test_a_bad_payload_is_a_no_with_a_reason(self, tmp_path: Path) -> None:
        """Obligation 7."""
        for subject in self._subjects(tmp_path):
            txid, before = TxId.new(), subject.observe()
            try:
                vote = subject.prepare(txid, self.bad_payload())
            except Exception as error:
                raise AssertionError(f"obligation 7: a bad payload raised {type(error).__name__}: {error}") from error
            owed(vote.kind is VoteKind.NO, 7, f"a bad payload was answered {vote.kind.name}")
            owed(bool(vote.reason.strip()), 7, "the no to a bad payload has no reason")
            owed(subject.prepared() == set() and subject.observe() == before, 7, "a bad payload changed something")

    def test_no_payload_whatever_raises(self, tmp_path: Path) -> None:
        """Obligation 7."""
        for subject in self._subjects(tmp_path):
            for junk in _JUNK:
                txid = TxId.new()
                try:
                    vote = subject.prepare(txid, junk)
                except Exception as error:
                    raise AssertionError(f"obligation 7: the payload {junk!r} raised {type(error).__name__}") from error
                if vote.kind is VoteKind.YES:
                    subject.abort(txid)

    # -- 8: outcomes that contradict ------------------------------------------------------------------------------

    def test_abort_of_a_committed_txid_raises_and_changes_nothing(self, tmp_path: Path) -> None:
        """Obligation 8."""
        for subject in self._subjects(tmp_path):
            txid = TxId.new()
            subject.must_prepare(txid, self.good_payload(1))
            subject.commit(txid)
            after = subject.observe()
            with must_raise(AlreadyCommitted, 8, "abort of a committed txid"):
                subject.abort(txid)
            owed(subject.observe() == after, 8, "abort of a committed txid changed something")

    # -- 9: the cluster -------------------------------------------------------------------------------------------

    def test_the_first_cluster_is_remembered_and_any_other_refused(self, tmp_path: Path) -> None:
        """Obligation 9."""
        for subject in self._subjects(tmp_path):
            with must_raise(WrongCluster, 9, "join of another cluster"):
                subject.join(OTHER_CLUSTER)
            subject.join(CLUSTER)

    # -- 10: the identity of the state ----------------------------------------------------------------------------

    def test_the_identity_stays_with_the_state(self, tmp_path: Path) -> None:
        """Obligation 10."""
        for subject in self._subjects(tmp_path):
            identity = subject.identity()
            owed(
                len(identity) == 32 and set(identity) <= set("0123456789abcdef"),
                10,
                f"identity() gave {identity!r}, not 32 hex digits: make them with os.urandom(16).hex() when the state is new, "
                "and keep them with it",
            )
            txid = TxId.new()
            subject.must_prepare(txid, self.good_payload(1))
            subject.commit(txid)
            owed(subject.identity() == identity, 10, "a transaction changed the identity")
            subject.restart()
            owed(subject.identity() == identity, 10, "the identity was lost in a crash")

    def test_another_state_has_another_identity(self, tmp_path: Path) -> None:
        """Obligation 10."""
        identities = [identity for subject in self._subjects(tmp_path) if (identity := subject.identity())]
        owed(len(set(identities)) == len(identities), 10, "two states have the same identity: it must be random")

    # -- batches --------------------------------------------------------------------------------------------------

    def test_a_batch_answers_each_request_once_and_lets_none_spoil_another(self, tmp_path: Path) -> None:
        """What ``run`` owes the worker."""
        for subject in self._subjects(tmp_path):
            good, bad, unknown, dead = TxId.new(), TxId.new(), TxId.new(), TxId.new()
            deadline_ms = int((time.time() + self.patience_s) * 1000)
            prepare, other = (
                Prepare(good, self.good_payload(1), deadline_ms),
                Prepare(bad, self.bad_payload(), deadline_ms),
            )
            batch: list[Request] = [prepare, other, Commit(unknown), Abort(dead), Commit(good)]
            replies = subject.run(batch)
            owed(
                set(replies) == {id(request) for request in batch},
                0,
                "run() did not answer each request, as itself, once",
            )
            owed(replies[id(prepare)] == Vote.yes(), 0, "run() did not vote yes to a good payload")
            owed(replies[id(other)] != Vote.yes(), 0, "run() voted yes to a bad payload")
            owed(replies[id(batch[3])] is None, 0, "run() failed an abort")
            owed(replies[id(batch[4])] is None, 0, "run() failed a commit")
            owed(subject.prepared() == set(), 1, "prepared() lists a branch that the batch has finished")

    # -- kill -9 --------------------------------------------------------------------------------------------------

    def test_a_yes_survives_kill_9(self, tmp_path: Path) -> None:
        """Obligation 1."""
        txid = TxId.new()
        subject = self._after_kill(tmp_path, [("prepare", txid, self.good_payload(1))])
        owed(subject.prepared() == {txid}, 1, "a branch that voted yes was lost to kill -9")
        subject.commit(txid)
        subject.drop()

    def test_a_commit_survives_kill_9(self, tmp_path: Path) -> None:
        """Obligation 3."""
        txid = TxId.new()
        subject = self._after_kill(tmp_path, [("prepare", txid, self.good_payload(1)), ("commit", txid, None)])
        seen, expected = subject.observe(), self._alone(tmp_path / "alone")
        owed(seen == expected, 3, "the effect of a commit was lost to kill -9")
        subject.drop()

    def test_a_tombstone_survives_kill_9(self, tmp_path: Path) -> None:
        """Obligation 5."""
        txid = TxId.new()
        subject = self._after_kill(tmp_path, [("abort", txid, None)])
        vote = subject.prepare(txid, self.good_payload(1))
        owed(vote.kind is VoteKind.NO, 5, "a tombstone was lost to kill -9")
        subject.drop()

    def _after_kill(self, tmp_path: Path, steps: list[Step]) -> ParticipantUnderTest:
        if not self.importable:
            raise unittest.SkipTest("set importable to 'module:callable' for the tests with a real kill -9")
        directory = tmp_path / "killed"
        directory.mkdir()
        run_and_kill(self.importable, directory, [("join", CLUSTER.encode(), None), *steps])
        return ParticipantUnderTest(self, directory, crashing=False)

    def _subjects(self, tmp_path: Path) -> Iterator[ParticipantUnderTest]:
        for crashing in (False, True):
            directory = tmp_path / ("crashing" if crashing else "plain")
            directory.mkdir()
            subject = ParticipantUnderTest(self, directory, crashing=crashing)
            try:
                yield subject
            finally:
                subject.drop()

    def _alone(self, directory: Path) -> object:
        """What a new participant shows after good_payload(1) alone."""
        directory.mkdir()
        subject, txid = ParticipantUnderTest(self, directory, crashing=False), TxId.new()
        subject.must_prepare(txid, self.good_payload(1))
        subject.commit(txid)
        try:
            return subject.observe()
        finally:
            subject.drop()
