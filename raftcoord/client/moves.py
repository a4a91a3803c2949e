"""The moves that a commit over the caller's connections is made of, and how a connection is closed for certain.

Owed by the caller that carries a move out: its result is sent back, and whatever it raises is thrown in, Ctrl-C and a
cancellation as well. Never: I/O.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple, TypeVar

from raftcoord import limits
from raftcoord.databases.session import Base
from raftcoord.databases.steps import Steps
from raftcoord.types import TxId, Verdict


class Enter(NamedTuple):
    """Make the connection ready for a branch."""

    session: Any


class Run(NamedTuple):
    """Run a protocol; its result."""

    session: Any
    steps: Steps[Any]


class Clean(NamedTuple):
    """Give the connection back as it was; close it if that fails."""

    session: Any


class CloseConnection(NamedTuple):
    """Close the connection."""

    session: Any


class ProposeOutcome(NamedTuple):
    """Propose; the Outcome that is recorded."""

    txid: TxId
    verdict: Verdict
    branches: tuple[str, ...]
    reason: str
    seconds: float


class ReportComplete(NamedTuple):
    """Report what was committed, without waiting."""

    txid: TxId
    branches: tuple[str, ...]


Move = Enter | Run | Clean | CloseConnection | ProposeOutcome | ReportComplete
_T = TypeVar("_T")
Moves = Generator[Move, Any, _T]


def one(move: Move) -> Moves[None]:
    """That move alone."""
    yield move


def outcome_of(moves: Moves[None]) -> Moves[BaseException | None]:
    """What ``moves`` end with."""
    try:
        yield from moves
    except GeneratorExit:
        raise
    except BaseException as error:
        return error
    return None


def closed(session: Base) -> Moves[BaseException | None]:
    """Close it, however often that is interrupted; the first interruption."""
    first = None
    for _ in range(limits.CLOSE_TRIES_MAX):
        failed = yield from outcome_of(one(CloseConnection(session)))
        if failed is None:
            break
        first = first or (None if isinstance(failed, Exception) else failed)
    return first
