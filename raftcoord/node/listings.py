"""Long answers: read a page at a time, in turn, so that nobody who decides waits for somebody who lists.

Owed: of all listings that wait, one page is read at a time, and then the event loop does something else;
the next page is another asker's, if one waits. Who asks for too many at once is refused, and who does not read its answers
waits. An answer that is cut short says so, and holds at least one row, so that the next question gets further.
Never: an answer that exceeds a frame because its rows are large: it would fail whenever it is asked for, for ever.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, Final, Generic, Protocol

from raftcoord import limits
from raftcoord.api.answers import Page, Row, T
from raftcoord.api.operations import Listing
from raftcoord.core.tables.decisions import Decision
from raftcoord.errors import Overloaded
from raftcoord.limits import NodeBounds
from raftcoord.rpc import frames
from raftcoord.types import State, TxId

Pages = Generator[None, None, Any]
"""Yields after each page, and returns the answer."""

_UNREAD_PAUSE_MS: Final = 50


class Asker(Protocol):
    """Who asks. ``name``: of a participant; "": a client."""

    @property
    def name(self) -> str:
        """See the class."""

    @property
    def gone(self) -> bool:
        """Whether no answer reaches it any more."""

    @property
    def unread(self) -> bool:
        """Whether it does not read what was answered."""


Answering = Callable[[Any], None]
"""Takes the answer, or the exception that is the answer, once."""


class StoredDecisions(Protocol):
    """The part of storage.NodeDb that listings need."""

    def decisions(self, state: str | None, limit: int, before: bytes | None) -> list[Decision]:
        """Newest first; ``state``: committed, aborted, open or None; ``before``: a txid."""


class Portion(Generic[T]):
    """As many rows as fit into one answer, in their order. ``write``: a row as it is sent; ``bytes_max``: of all."""

    def __init__(self, write: Callable[[T], Any], bytes_max: int) -> None:
        self.page: Page[T] = Page([], False)
        self._write = write
        self._bytes_max: Final = bytes_max
        self._bytes = 0

    def add(self, row: T) -> bool:
        """Whether it fitted; after the first that did not, none does."""
        self._bytes += len(frames.packer()(self._write(row)))
        if self.page.is_cut or (self.page.rows and self._bytes > self._bytes_max):
            self.page = self.page._replace(is_cut=True)
        else:
            self.page.rows.append(row)
        return not self.page.is_cut


def row(decision: Decision) -> Row:
    """A recorded decision."""
    return {
        "txid": decision.txid,
        "state": decision.state,
        "branches": decision.branches,
        "outstanding": decision.outstanding,
        "reason": decision.reason,
        "branch": decision.branch,
        "at_ms": decision.at_ms,
        "term": decision.term,
        "index": decision.index,
        **({"closed": [closing._asdict() for closing in decision.closed]} if decision.closed else {}),
    }


def undecided_row(txid: TxId) -> Row:
    """The same for a transaction that is not recorded."""
    empty = {"branches": (), "outstanding": (), "reason": "", "branch": "", "at_ms": 0, "term": 0, "index": 0}
    return {"txid": txid, "state": State.UNDECIDED, **empty}


def decisions(stored: StoredDecisions, wanted: Listing, bounds: NodeBounds) -> Pages:
    """The rows of a listing. A decision that is recorded or completed meanwhile may be shown as it was or as it is."""
    portion: Portion[Row] = Portion(lambda made: made, bounds.listing_bytes_max)
    before: bytes | None = wanted.before
    while True:
        room = min(bounds.listing_page_rows, wanted.limit - len(portion.page.rows))
        read = stored.decisions(wanted.state, room, before)
        fitted = all(portion.add(row(decision)) for decision in read)
        if not fitted or len(read) < room or len(portion.page.rows) >= wanted.limit:
            return portion.page
        before = read[-1].txid
        yield


def at_once(read: Callable[[], Any]) -> Pages:
    """A listing of one page."""
    yield from ()
    return read()


class Listings:
    """The listings that one node has been asked for, by asker, in the order of their turns."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[Asker, deque[tuple[Pages, Answering]]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, asker: Asker, pages: Pages, answer: Answering) -> None:
        """Answer with what ``pages`` returns. Overloaded if too many of this asker's wait."""
        asked = self._waiting.setdefault(asker, deque())
        if len(asked) >= limits.LISTINGS_WAITING_MAX:
            raise Overloaded(
                f"{limits.LISTINGS_WAITING_MAX} listings of this connection wait already, and nothing was read; "
                "ask for the next when one is answered"
            )
        asked.append((pages, answer))
        if self._timer is None:
            self._turn()

    def _turn(self) -> None:
        """One page, of the listing that has waited longest."""
        self._timer = None
        asker = self._next()
        if asker is not None:
            self._read_page(asker, self._waiting.pop(asker))
            self._again(limits.LISTING_PAUSE_MS)
        elif self._waiting:
            self._again(_UNREAD_PAUSE_MS)

    def _again(self, pause_ms: int) -> None:
        self._timer = self._loop.call_later(pause_ms / 1000, self._turn)

    def _next(self) -> Asker | None:
        for asker in [asker for asker in self._waiting if asker.gone]:
            del self._waiting[asker]
        return next((asker for asker in self._waiting if not asker.unread), None)

    def _read_page(self, asker: Asker, asked: deque[tuple[Pages, Answering]]) -> None:
        pages, answer = asked[0]
        try:
            next(pages)
        except StopIteration as end:
            asked.popleft()
            answer(end.value)
        except Exception as error:
            asked.popleft()
            answer(error)
        if asked:
            self._waiting[asker] = asked  # after all others
