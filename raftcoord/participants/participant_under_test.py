"""A participant under test, as the conformance suite drives it: steps, and a crash between every two of them if asked for.

It owes the suite that a crash is one: what was not made durable is gone, and nothing was closed. It judges nothing but the
votes and answers that no scenario can go on without.
"""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

from raftcoord.errors import RaftcoordError
from raftcoord.participants.interface import Participant, Reply, Request
from raftcoord.types import Payload, TxId, Vote, VoteKind

CLUSTER: Final = "00000000000000c1"
_POLL_S: Final = 0.01


def owed(condition: bool, obligation: int, what: str) -> None:
    """Fail with the obligation that is not kept; 0: none of those with a number."""
    if not condition:
        raise AssertionError(f"obligation {obligation}: {what}" if obligation else what)


@contextmanager
def must_raise(kind: type[RaftcoordError], obligation: int, what: str) -> Iterator[None]:
    """Fail unless ``kind`` is raised inside."""
    try:
        yield
    except kind:
        return
    except Exception as error:
        raise AssertionError(f"obligation {obligation}: {what} raised {error!r}, not {kind.__name__}") from error
    raise AssertionError(f"obligation {obligation}: {what} was a silent success")


class Suite(Protocol):
    """What a subject takes from its suite."""

    patience_s: float

    def make(self, directory: Path) -> Participant:
        """Make the participant from what the directory holds."""

    def crash(self, participant: Participant) -> None:
        """Let go of what only the end of a process would."""

    def observe(self, participant: Participant) -> object:
        """The visible state."""


class ParticipantUnderTest:
    """A participant under test. ``crashing``: it is dropped and made again before every step."""

    def __init__(self, suite: Suite, directory: Path, *, crashing: bool) -> None:
        self._suite = suite
        self._directory = directory
        self._crashing = crashing
        self._participant: Participant | None = None
        self.restart()

    def restart(self) -> None:
        """Crash, and start again."""
        self.drop()
        self._participant = self._suite.make(self._directory)
        self._participant.join(CLUSTER)

    def drop(self) -> None:
        """Crash."""
        if self._participant is not None:
            self._suite.crash(self._participant)
            alive = weakref.ref(self._participant)
            self._participant = None
            if alive() is not None:
                gc.collect()

    def _step(self) -> Participant:
        if self._crashing:
            self.restart()
        if self._participant is None:
            raise AssertionError("the participant was dropped")
        return self._participant

    def identity(self) -> str:
        """One step."""
        return self._step().identity()

    def join(self, cluster: str) -> None:
        """One step."""
        self._step().join(cluster)

    def prepare(self, txid: TxId, payload: Payload) -> Vote:
        """One step."""
        return self._step().prepare(txid, payload)

    def must_prepare(self, txid: TxId, payload: Payload) -> None:
        """One step, which fails unless the vote is yes."""
        vote = self.prepare(txid, payload)
        owed(vote.kind is VoteKind.YES, 6, f"a good payload was answered {vote.kind.name}: {vote.reason}")

    def commit(self, txid: TxId) -> None:
        """One step."""
        self._step().commit(txid)

    def abort(self, txid: TxId) -> None:
        """One step."""
        self._step().abort(txid)

    def prepared(self) -> set[TxId]:
        """One step."""
        return set(self._step().prepared())

    def observe(self) -> object:
        """One step."""
        return self._suite.observe(self._step())

    def idle(self) -> None:
        """What the worker calls when nothing is asked."""
        self._step().run([])

    def run(self, batch: list[Request]) -> dict[int, Reply]:
        """One batch and what was kept back from it: the replies, by the id of their request."""
        participant = self._step()
        replies = list(participant.run(batch))
        polls = int(self._suite.patience_s / _POLL_S) + 2
        while len(replies) < len(batch) and polls:
            polls -= 1
            time.sleep(_POLL_S)
            replies += participant.run([])
        owed(len(replies) == len(batch), 0, f"run() gave {len(replies)} answers to {len(batch)} requests")
        return {id(request): reply for request, reply in replies}
