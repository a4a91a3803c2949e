"""What happens, as small values for observers: metrics, a watch, the simulator, the drills.

Owed: each event is given to the observers at one place. An observer that raises, or takes long, disturbs nothing: that is logged
once, and one that takes long is left out for a while. With no observer no event is made. Never: an influence of an observer on
what it observes; what it returns is ignored. A BaseException goes on: it ends the process, wherever it comes from.

    if events.wanted:
        events.tell(Asking(txid, branch))

An event whose name ends in -ing comes just before what it names, every other just after.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from raftcoord import limits
from raftcoord.core.tables.table import Command
from raftcoord.types import NodeName, State, TxId, Verdict, Vote

log: Final = logging.getLogger("raftcoord.events")

# -- a transaction, at the node that coordinates it, or in the program that does ------------------------------------------


@dataclass(frozen=True, slots=True)
class Submitting:
    """A node begins to coordinate a transaction."""

    txid: TxId
    branches: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Asking:
    """A branch is asked to prepare."""

    txid: TxId
    branch: str


@dataclass(frozen=True, slots=True)
class Voted:
    """The answer to that, or why none came."""

    txid: TxId
    branch: str
    vote: Vote | str


@dataclass(frozen=True, slots=True)
class Deciding:
    """A program proposes an outcome for its own transaction."""

    txid: TxId
    verdict: Verdict
    branches: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Decided:
    """An outcome is in the ledger, and its proposer knows. ``first``: this very proposal made it so."""

    txid: TxId
    state: State
    first: bool = True


@dataclass(frozen=True, slots=True)
class Delivering:
    """The outcome is given to a branch, once more perhaps."""

    txid: TxId
    branch: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A branch has carried out the outcome."""

    txid: TxId
    branch: str


@dataclass(frozen=True, slots=True)
class Damaged:
    """A branch cannot carry out the outcome."""

    txid: TxId
    branch: str
    what: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A node answered a request with an error. ``operation``: its name in api/operations.py."""

    operation: str
    error: Exception


# -- consensus, at each node ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Proposed:
    """This node has taken a command to propose."""

    command: Command


@dataclass(frozen=True, slots=True)
class Led:
    """Another leader, or another term of it, is seen from here. None: nobody leads."""

    leader: NodeName | None
    term: int


@dataclass(frozen=True, slots=True)
class Heard:
    """A checked message of a peer has come in; it waits for the next turn. ``sender``: the peer's id."""

    sender: int
    message: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sending:
    """These messages go out, each to the peer of that id; what they show is on disk."""

    messages: list[tuple[int, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Linked:
    """The link over which this node sends to that peer came up or went down."""

    peer: int
    up: bool


@dataclass(frozen=True, slots=True)
class Turning:
    """The host takes a turn."""


@dataclass(frozen=True, slots=True)
class Turned:
    """It has taken one; what it staged may be on its way to the disk."""


@dataclass(frozen=True, slots=True)
class Synced:
    """So many entries are on disk now, up to ``last_index``, with one sync."""

    entries: int
    last_index: int


@dataclass(frozen=True, slots=True)
class Applying:
    """What is committed is applied."""


@dataclass(frozen=True, slots=True)
class Applied:
    """All that is known here to be committed is applied, up to ``index``."""

    index: int


@dataclass(frozen=True, slots=True)
class Copied:
    """A copy of the ledger up to ``index`` has taken the place of what was applied."""

    index: int


Observer = Callable[[Any], None]
"""Is given every event, and takes those that it knows. It is called in the thread in which the event happens."""


class Observers:
    """Who observes one node or one client. ``clock``: seconds, monotonic."""

    __slots__ = ("_clock", "_observed", "wanted")

    def __init__(self, clock: Callable[[], float]) -> None:
        self.wanted = False
        """Whether anybody observes. Ask before an event is made."""
        self._clock = clock
        self._observed: tuple[_Observed, ...] = ()

    def attach(self, observer: Observer, *, holds: bool = False) -> None:
        """Give ``observer`` every event from now on. ``holds``: it may take long, on purpose, and is never left out."""
        self._observed = (*self._observed, _Observed(observer, holds))
        self.wanted = True

    def detach(self, observer: Observer) -> None:
        """Give it none any more."""
        self._observed = tuple(each for each in self._observed if each.observer != observer)
        self.wanted = bool(self._observed)

    def tell(self, event: object) -> None:
        """That has happened. Raises no Exception."""
        before = self._clock()
        for each in self._observed:
            if before >= each.rests_until:
                each.tell(event)
                after = self._clock()
                if (after - before) * 1000 >= limits.OBSERVER_SLOW_MS:
                    each.rest(event, after, after - before)
                before = after


class _Observed:
    """One observer, and what is held against it."""

    __slots__ = ("_failed", "_holds", "_was_slow", "observer", "rests_until")

    def __init__(self, observer: Observer, holds: bool) -> None:
        self.observer = observer
        self._holds = holds
        self.rests_until = float("-inf")
        self._failed = False
        self._was_slow = False

    def tell(self, event: object) -> None:
        try:
            self.observer(event)
        except Exception:
            if not self._failed:
                self._failed = True
                log.exception(
                    "the observer %r failed on %s; it is not logged again", self.observer, type(event).__name__
                )

    def rest(self, event: object, now: float, took_s: float) -> None:
        """It took too long: it may cost one part in limits.OBSERVER_REST of the time."""
        if self._holds:
            return
        self.rests_until = now + took_s * limits.OBSERVER_REST
        if not self._was_slow:
            self._was_slow = True
            log.warning(
                "the observer %r took %.3f s over %s; it misses events until it makes up for that; it is not logged again",
                self.observer,
                took_s,
                type(event).__name__,
            )
