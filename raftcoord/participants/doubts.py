"""Which transactions are in doubt here, and when to ask a node about each.

It owes: every doubt is asked about again and again until it is dropped, never more than limits.RESOLVES_MAX at a time. It is
pure: the time comes in as seconds of the event loop's clock, the questions come out. It never decides an outcome.

A doubt has a time from which it may be resolved. Before that a question is ``status``, which changes nothing, because its
coordinator may still be at work; from then on it is ``resolve``, which ends the transaction if nobody has decided it.
When the connection over which its coordinator asked has ended, that time comes at once: nobody takes over a coordinator's
phase one, and until somebody resolves it the locks are held for nothing.
A question that gets no answer is asked again, of another node, after ANSWER_S_MAX.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass
from typing import Final, NamedTuple

from raftcoord import limits
from raftcoord.types import TxId

ANSWER_S_MAX: Final = 5.0
"""How long a node may take to answer (s) before another one is asked."""

BACKOFF_S_MIN: Final = 0.2
BACKOFF_S_MAX: Final = 5.0

_HEAP_SLACK: Final = 1_024


class Question(NamedTuple):
    """Ask a node for the outcome of ``txid``: ``resolve``, or else ``status``."""

    txid: TxId
    resolve: bool


@dataclass(slots=True)
class _Doubt:
    resolve_at: float
    ask_at: float
    source: object = None
    asked: int = 0
    open: bool = False


class Doubts:
    """The table of doubts. ``rng`` is for jitter."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._doubts: dict[TxId, _Doubt] = {}
        self._heap: list[tuple[float, TxId]] = []  # an entry counts only if it is its doubt's ask_at
        self._room: deque[TxId] = deque()  # due, and waiting for room among the open questions
        self._open = 0

    def __contains__(self, txid: TxId) -> bool:
        return txid in self._doubts

    def __len__(self) -> int:
        return len(self._doubts)

    def txids(self) -> set[TxId]:
        """Everything that is in doubt."""
        return set(self._doubts)

    def add(self, txid: TxId, resolve_at: float, ask_at: float, source: object = None) -> None:
        """``txid`` is in doubt: ask from ``ask_at``, resolve from ``resolve_at``. A known one is left as it is.

        ``source``: the connection over which its coordinator asked, for ``orphan``.
        """
        if txid not in self._doubts:
            self._doubts[txid] = _Doubt(resolve_at, ask_at, source)
            self._push(ask_at, txid)

    def orphan(self, source: object, resolve_at: float) -> None:
        """The connection ``source`` has ended: what it left is resolved from ``resolve_at`` on, if not earlier."""
        for txid, doubt in self._doubts.items():
            if doubt.source is source and doubt.resolve_at > resolve_at:
                doubt.resolve_at = resolve_at
                if doubt.ask_at > resolve_at and not doubt.open:
                    doubt.ask_at = resolve_at
                    self._push(resolve_at, txid)

    def drop(self, txid: TxId) -> None:
        """``txid`` is finished."""
        doubt = self._doubts.pop(txid, None)
        if doubt is not None and doubt.open:
            self._open -= 1

    def take(self, now: float) -> list[Question]:
        """The questions to ask now. Each counts as open until ``again`` or ``drop``."""
        questions = []
        while self._heap and self._heap[0][0] <= now:
            ask_at, txid = heapq.heappop(self._heap)
            doubt = self._doubts.get(txid)
            if doubt is None or doubt.ask_at != ask_at:
                continue
            if doubt.open:  # no answer in time: its place is used for asking elsewhere
                questions.append(self._ask(txid, doubt, now))
            else:
                self._room.append(txid)
        while self._room and self._open < limits.RESOLVES_MAX:
            txid = self._room.popleft()
            doubt = self._doubts.get(txid)
            if doubt is not None and not doubt.open:
                self._open += 1
                doubt.open = True
                questions.append(self._ask(txid, doubt, now))
        return questions

    def _ask(self, txid: TxId, doubt: _Doubt, now: float) -> Question:
        doubt.asked += 1
        doubt.ask_at = now + ANSWER_S_MAX
        self._push(doubt.ask_at, txid)
        return Question(txid, now >= doubt.resolve_at)

    def again(self, txid: TxId, now: float) -> None:
        """The question about ``txid`` brought no outcome, or the outcome could not be carried out: later again."""
        doubt = self._doubts.get(txid)
        if doubt is None:
            return
        if doubt.open:
            doubt.open = False
            self._open -= 1
        pause = min(BACKOFF_S_MIN * 2 ** min(doubt.asked, 16), BACKOFF_S_MAX) * (0.5 + self._rng.random() / 2)
        doubt.ask_at = now + pause
        if now < doubt.resolve_at < doubt.ask_at:
            doubt.ask_at = doubt.resolve_at
        self._push(doubt.ask_at, txid)

    def next_at(self) -> float | None:
        """When ``take`` may have something; None while there is nothing. A time in the past means now."""
        if self._room and self._open < limits.RESOLVES_MAX:
            return 0.0
        while self._heap:
            ask_at, txid = self._heap[0]
            doubt = self._doubts.get(txid)
            if doubt is not None and doubt.ask_at == ask_at:
                return ask_at
            heapq.heappop(self._heap)
        return None

    def _push(self, ask_at: float, txid: TxId) -> None:
        heapq.heappush(self._heap, (ask_at, txid))
        if len(self._heap) > 2 * len(self._doubts) + _HEAP_SLACK:
            waiting = set(self._room)
            self._heap = [(doubt.ask_at, known) for known, doubt in self._doubts.items() if known not in waiting]
            heapq.heapify(self._heap)
