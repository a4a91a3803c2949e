"""Ctrl-C and cancellation at every move of a commit: it goes on, says what stands, and every connection ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from raftcoord.client.committing import Committing
from raftcoord.client.moves import Clean, CloseConnection, Enter, Move, Moves, ProposeOutcome, ReportComplete, Run
from raftcoord.databases.session import DriverSession
from raftcoord.databases.steps import Effect, NotPossible, Result, Statement
from raftcoord.errors import (
    Aborted,
    ForgottenTxid,
    FutureTxid,
    InDoubt,
    LocalProtocolError,
    Overloaded,
    RaftcoordError,
    Unavailable,
)
from raftcoord.events import Acknowledged, Asking, Decided, Deciding, Delivering, Observers
from raftcoord.types import Branch, Outcome, State, TxId, Verdict

CLUSTER = "00000000000000aa"


class Book:
    """A dialect whose protocols are their names."""

    name = "book"

    def __getattr__(self, what: str) -> Callable[..., str]:
        return lambda gid, **_: what


class Spoken(DriverSession):
    """A session that notes nothing: the moves are what is looked at."""

    def __init__(self, name: str) -> None:
        super().__init__(object(), Branch(name))
        self.dialect = Book()  # type: ignore[assignment]

    def is_closed(self) -> bool:
        return False

    def is_autocommit(self) -> bool:
        return False

    def execute(self, statement: Statement) -> Result:
        raise AssertionError

    def clean(self) -> None:
        raise AssertionError


class Play:
    """Carries moves out by what ``answers`` says of each, and breaks in at the ``at``-th of the commit (from 1; 0: never)."""

    def __init__(
        self,
        names: tuple[str, ...],
        *,
        decided: bool = True,
        refused: bool = False,
        read: bool = False,
        at: int = 0,
        closing: int = 0,
    ) -> None:
        self.events = Observers(lambda: 0.0)
        self.committing = Committing(TxId.new(), 10.0, lambda: 0.0, frozenset(), events=self.events)
        self.is_local = len(names) == 1 and not read
        if read:
            assert self.committing.txid is not None
        self.sessions = [Spoken(name) for name in names]
        self.done: list[Move] = []
        self.broken: list[Move] = []
        self._closing = closing
        self.broken_at: Move | None = None
        self._decided, self._refused, self._left = decided, refused, -1
        for session in self.sessions:
            self.drive(self.committing.enlist(session, CLUSTER, True))
        self.done, self._left = [], at

    def drive(self, moves: Moves[Any], interrupt: BaseException | None = None) -> None:
        try:
            move = next(moves)
            while True:
                self._left -= 1
                self.done.append(move)
                if self._left == 0 and interrupt is not None:
                    self.broken_at = move
                    self.broken.append(move)
                    move = moves.throw(interrupt)
                    continue
                if (
                    self.broken_at is not None
                    and isinstance(move, CloseConnection)
                    and self._closing > len(self.broken) - 1
                ):
                    self.broken.append(move)
                    move = moves.throw(type(interrupt)() if len(self.broken) % 2 else OSError("the driver"))  # type: ignore[misc]
                    continue
                try:
                    result = self._answer(move)
                except RaftcoordError as error:
                    move = moves.throw(error)
                else:
                    move = moves.send(result)
        except StopIteration:
            return

    def _answer(self, move: Move) -> Any:
        match move:
            case Run(_, "begin"):
                return True
            case Run(session, "prepare") if self._refused and session is self.sessions[-1]:
                raise NotPossible("it cannot be")
            case Run(_, "commit_prepared_here"):
                return Effect.COMMITTED
            case ProposeOutcome(txid, verdict):
                return Outcome(txid, bool(verdict) and self._decided, "resolved", 1, 1)
        return None

    def endings(self, session: Spoken) -> list[type]:
        """Those that came to their end."""
        return [
            type(move)
            for move in self.done
            if isinstance(move, (Clean, CloseConnection))
            and move.session is session
            and all(move is not each for each in self.broken)
        ]


def points() -> Iterator[Any]:
    """Each move of each course that a commit can take."""
    courses: dict[str, tuple[tuple[str, ...], dict[str, bool]]] = {
        "committed": (("a", "b", "c"), {}),
        "alone": (("a",), {}),
        "alone, and its txid was read": (("a",), {"read": True}),
        "resolved to abort": (("a", "b"), {"decided": False}),
        "refused": (("a", "b"), {"refused": True}),
    }
    for course, (names, options) in courses.items():
        whole = Play(names, **options)
        try:
            whole.drive(whole.committing.commit())
        except Aborted:
            assert course in ("resolved to abort", "refused")
        for at in range(1, len(whole.done) + 1):
            yield pytest.param(names, options, at, id=f"{course}-{at}")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, asyncio.CancelledError, SystemExit])
@pytest.mark.parametrize(("names", "options", "at"), list(points()))
def test_an_interruption_goes_on_with_a_note_and_every_connection_ends_once(
    names: tuple[str, ...], options: dict[str, bool], at: int, kind: type[BaseException]
) -> None:
    play = Play(names, at=at, **options)
    with pytest.raises(kind) as raised:
        play.drive(play.committing.commit(), kind())
    (note,) = raised.value.__notes__
    assert note.startswith("this transaction: " if play.is_local else f"transaction {play.committing.txid}: ")
    assert truth(play) in note
    for session in play.sessions:
        assert len(play.endings(session)) == 1
    after = play.done[at:]
    assert all(isinstance(move, CloseConnection) for move in after), (
        "nothing is said to a database after an interruption"
    )


@pytest.mark.parametrize("kind", [KeyboardInterrupt, asyncio.CancelledError])
@pytest.mark.parametrize("closing", [1, 2, 4])
@pytest.mark.parametrize(("names", "options", "at"), list(points()))
def test_interrupted_again_while_connections_are_closed_all_are_closed_and_the_note_stays(
    names: tuple[str, ...], options: dict[str, bool], at: int, closing: int, kind: type[BaseException]
) -> None:
    play = Play(names, at=at, closing=closing, **options)
    with pytest.raises(kind) as raised:
        play.drive(play.committing.commit(), kind())
    (note,) = raised.value.__notes__
    assert truth(play) in note
    assert play.is_local or str(play.committing.txid) in note
    for session in play.sessions:
        assert len(play.endings(session)) == 1


@pytest.mark.parametrize("times", [1, 2, 4])
def test_interrupted_while_it_is_rolled_back_all_are_closed_and_the_note_says_so(times: int) -> None:
    play = Play(("a", "b", "c"), at=1, closing=times)
    with pytest.raises(KeyboardInterrupt) as raised:
        play.drive(play.committing.abandon(), KeyboardInterrupt())
    assert any("it is not committed" in note for note in raised.value.__notes__)
    for session in play.sessions:
        assert len(play.endings(session)) == 1


def truth(play: Play) -> str:
    """What may be said, from what was done: nothing else would be true."""
    told = [move for move in play.done if isinstance(move, ProposeOutcome) and move.verdict]
    if play.is_local:
        return "may or may not be committed"
    if not told:
        return "it is not committed"
    if play.broken_at is told[0]:
        return "is not known; resolve it"
    return (
        "it is committed"
        if play.committing.outcome is not None and play.committing.outcome.committed
        else "it is aborted"
    )


def test_the_courses_go_through_every_kind_of_move() -> None:
    """So that no move is forgotten above."""
    seen = {type(play.done[-1]) for play in _played()}
    assert seen >= {Run, Clean, ProposeOutcome, ReportComplete}
    assert Enter not in seen  # enlisting has a test on real databases


def _played() -> Generator[Play, None, None]:
    for parameters in points():
        names, options, at = parameters.values
        play = Play(names, at=at, **options)
        with pytest.raises(KeyboardInterrupt):
            play.drive(play.committing.commit(), KeyboardInterrupt())
        play.done = play.done[:at]
        yield play


class Refusing(Play):
    """The nodes answer the decision with ``error``."""

    def __init__(self, error: RaftcoordError) -> None:
        super().__init__(("a", "b"))
        self._error = error

    def _answer(self, move: Move) -> Any:
        if isinstance(move, ProposeOutcome) and move.verdict:
            raise self._error
        return super()._answer(move)


@pytest.mark.parametrize("error", [FutureTxid("a clock"), ForgottenTxid("a clock"), Unavailable("x"), Overloaded("x")])
def test_a_definite_refusal_of_the_decision_is_an_abort_and_rolls_back(error: RaftcoordError) -> None:
    play = Refusing(error)
    with pytest.raises(Aborted, match="no node took the decision"):
        play.drive(play.committing.commit())
    rolled_back = [move.session for move in play.done if isinstance(move, Run) and move.steps == "rollback"]
    assert rolled_back == play.sessions


def test_a_refusal_that_is_not_definite_touches_nothing() -> None:
    play = Refusing(LocalProtocolError("a COMMIT with other branches stands"))
    with pytest.raises(InDoubt):
        play.drive(play.committing.commit())
    assert not [move for move in play.done if isinstance(move, Run) and move.steps == "rollback"]
    assert all(play.endings(session) == [CloseConnection] for session in play.sessions)


def test_each_step_of_a_commit_is_given_to_the_observers() -> None:
    play, seen = Play(("a", "b")), list[Any]()
    play.events.attach(seen.append)
    play.drive(play.committing.commit())
    txid = play.committing.minted
    assert seen == [
        Asking(txid, "a"),
        Asking(txid, "b"),
        Deciding(txid, Verdict.COMMIT, ("a", "b")),
        Decided(txid, State.COMMITTED),
        Delivering(txid, "a", Verdict.COMMIT),
        Acknowledged(txid, "a"),
        Delivering(txid, "b", Verdict.COMMIT),
        Acknowledged(txid, "b"),
    ]
