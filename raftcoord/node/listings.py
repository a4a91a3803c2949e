"""Long answers: read a page at a time, in turn, so that nobody who decides waits for somebody who lists.

Owed: of all listings that wait, whoever asked for them, one page is read at a time, and then the event loop does something else;
the next page is another connection's, if one waits. Who asks for too many at once is refused, and who does not read its answers
waits. Never: an answer that is cut short without a word.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, Final, Protocol

from raftcoord import limits
from raftcoord.core.decisions import Decision
from raftcoord.errors import Overloaded
from raftcoord.node import answers
from raftcoord.node.paging import Page
from raftcoord.node.requests import Listing
from raftcoord.rpc.connection import Connection

Pages = Generator[None, None, Any]
"""Yields after each page, and returns the answer."""

_UNREAD_PAUSE_MS: Final = 50


class StoredDecisions(Protocol):
    """The part of storage.NodeDb that listings need."""

    def decisions(self, state: str | None, limit: int, before: bytes | None) -> list[Decision]:
        """Newest first; ``state``: committed, aborted, open or None; ``before``: a txid."""


def decisions(stored: StoredDecisions, wanted: Listing) -> Pages:
    """The rows of a listing. A decision that is recorded or completed meanwhile may be shown as it was or as it is."""
    answer = Page()
    before: bytes | None = wanted.before
    while True:
        room = min(limits.LISTING_PAGE_ROWS, wanted.limit - len(answer.rows))
        read = stored.decisions(wanted.state, room, before)
        fitted = all(answer.add(answers.row(decision)) for decision in read)
        if not fitted or len(read) < room or len(answer.rows) >= wanted.limit:
            return answer.answer()
        before = read[-1].txid
        yield


def at_once(read: Callable[[], Any]) -> Pages:
    """A listing of one page."""
    yield from ()
    return read()


class _Asked:
    def __init__(self, request_id: int, method: str, pages: Pages) -> None:
        self.request_id = request_id
        self.method = method
        self.pages = pages


class Listings:
    """The listings that one node has been asked for, by connection, in the order of their turns."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[Connection, deque[_Asked]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, conn: Connection, request_id: int, method: str, pages: Pages) -> None:
        """Answer the request with what ``pages`` returns. Overloaded if too many of this connection wait."""
        asked = self._waiting.setdefault(conn, deque())
        if len(asked) >= limits.LISTINGS_WAITING_MAX:
            raise Overloaded(
                f"{limits.LISTINGS_WAITING_MAX} listings of this connection wait already, and nothing was read; "
                "ask for the next when one is answered"
            )
        asked.append(_Asked(request_id, method, pages))
        if self._timer is None:
            self._turn()

    def _turn(self) -> None:
        """One page, of whoever has waited longest for it."""
        self._timer = None
        conn = self._next()
        if conn is not None:
            self._read_page(conn, self._waiting.pop(conn))
            self._again(limits.LISTING_PAUSE_MS)
        elif self._waiting:
            self._again(_UNREAD_PAUSE_MS)

    def _again(self, pause_ms: int) -> None:
        self._timer = self._loop.call_later(pause_ms / 1000, self._turn)

    def _next(self) -> Connection | None:
        for conn in [conn for conn in self._waiting if conn.closed]:
            del self._waiting[conn]
        return next((conn for conn in self._waiting if not conn.paused), None)

    def _read_page(self, conn: Connection, asked: deque[_Asked]) -> None:
        first = asked[0]
        try:
            next(first.pages)
        except StopIteration as end:
            asked.popleft()
            conn.reply(first.request_id, end.value)
        except Exception as error:
            asked.popleft()
            conn.failed(first.request_id, first.method, error)
        if asked:
            self._waiting[conn] = asked  # behind all others
