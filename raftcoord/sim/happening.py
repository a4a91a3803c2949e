"""What happens in a simulation, as small values for those who watch it (``Simulation.observe``).

The events of its nodes (raftcoord/events.py) come as they are, each with the name of its node. The others are here.

Owed: a run that is observed is the same run. An observer draws no chance and schedules nothing, and its digest is that of the
run without. With no observer no value is made.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from raftcoord.events import Observers
from raftcoord.participants.interface import Reply, Request
from raftcoord.types import TxId, Verdict

See = Callable[[float, str, object], None]
"""An observer. It is called with the virtual time (s), the name of the process in which it happens, and what happens."""


@dataclass(frozen=True, slots=True)
class Began:
    """The world is made. ``root``: where all of its files lie."""

    root: str


@dataclass(frozen=True, slots=True)
class Noted:
    """``who`` does ``what``, or it is done to it. ``aloud``: it concerns everybody, such as a fault or a start."""

    who: str
    what: str
    txid: TxId | None
    aloud: bool


@dataclass(frozen=True, slots=True)
class Logged:
    """A line of the rooms' own log, from INFO on."""

    level: int
    message: str


@dataclass(frozen=True, slots=True)
class Born:
    """A node has been opened from its disk, with what it had applied there up to ``applied_index``."""

    node: str
    applied_index: int


@dataclass(frozen=True, slots=True)
class AtNode:
    """An event of that node."""

    node: str
    event: object


@dataclass(frozen=True, slots=True)
class EntryCommitted:
    """An entry of the log is seen to be committed, for the first time on any node."""

    index: int
    term: int
    entry: bytes


@dataclass(frozen=True, slots=True)
class OutcomeMade:
    """A committed entry makes that the outcome."""

    txid: TxId
    verdict: Verdict
    branches: frozenset[str]


@dataclass(frozen=True, slots=True)
class BranchAnswered:
    """A participant answers a request."""

    participant: str
    request: Request
    reply: Reply


def observers() -> Observers:
    """Of one simulation. However long one of them takes, it is not late: no virtual time passes."""
    return Observers(lambda: 0.0)


def note(events: Observers, who: str, what: str, txid: TxId | None = None, *, aloud: bool = False) -> None:
    """See Noted."""
    if events.wanted:
        events.tell(Noted(who, what, txid, aloud))


class _Listener(logging.Handler):
    def __init__(self, events: Observers) -> None:
        super().__init__(logging.INFO)
        self._events = events

    def emit(self, record: logging.LogRecord) -> None:
        self._events.tell(Logged(record.levelno, record.getMessage()))


@contextmanager
def listening(events: Observers | None) -> Iterator[None]:
    """What the rooms log goes to the observers and nowhere else. None: nobody observes, and nothing is logged."""
    logger = logging.getLogger("raftcoord")
    level, propagate = logger.level, logger.propagate
    listener = logging.NullHandler() if events is None else _Listener(events)
    logger.setLevel(logging.CRITICAL + 1 if events is None else logging.INFO)
    logger.addHandler(listener)
    logger.propagate = False
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.propagate = propagate
        logger.removeHandler(listener)
