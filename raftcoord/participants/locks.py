"""Exclusive locks on keys, with waiting in the order of arrival.

It owes: one owner per key, and no deadlock of its own. It never looks at a clock: who waits too long is taken out by
``release``.

Every key has a queue of transactions; the head of the queue owns the key. A transaction enters the queues of all its keys
in one step and holds them all when it is the head of each. All queues are thus in one common order of arrival, and a
circle of waiting cannot arise here. Across participants it can: there only time helps (limits.LOCK_WAIT_MS).
"""

from __future__ import annotations

from collections.abc import Iterable

from raftcoord.errors import check
from raftcoord.types import TxId


class Locks:
    """Who holds and who waits. A transaction asks once, for all its keys."""

    def __init__(self) -> None:
        self._queues: dict[str, list[TxId]] = {}
        self._keys: dict[TxId, tuple[str, ...]] = {}
        self._behind: dict[TxId, int] = {}  # in how many queues a waiting transaction is not the head

    def __contains__(self, txid: TxId) -> bool:
        return txid in self._keys

    def ask(self, txid: TxId, keys: Iterable[str]) -> bool:
        """Enter the queues of ``keys``. True: all are held now. False: it waits, until a ``release`` returns it."""
        check(txid not in self._keys, f"transaction {txid} asked twice for its locks")
        wanted = tuple(dict.fromkeys(keys))
        behind = 0
        for key in wanted:
            queue = self._queues.get(key)
            if queue is None:
                self._queues[key] = [txid]
            else:
                queue.append(txid)
                behind += 1
        self._keys[txid] = wanted
        if behind:
            self._behind[txid] = behind
        return not behind

    def release(self, txid: TxId) -> list[TxId]:
        """Give up all that ``txid`` holds or waits for. Returns those that hold all their keys now and did not before."""
        granted = []
        for key in self._keys.pop(txid, ()):
            queue = self._queues[key]
            was_head = queue[0] == txid
            queue.remove(txid)
            if not queue:
                del self._queues[key]
            elif was_head:
                head = queue[0]
                self._behind[head] -= 1
                if not self._behind[head]:
                    del self._behind[head]
                    granted.append(head)
        self._behind.pop(txid, None)
        return granted

    def owner(self, key: str) -> TxId | None:
        """The transaction at the head of the key's queue."""
        queue = self._queues.get(key)
        return queue[0] if queue else None

    def blocker(self, txid: TxId) -> tuple[str, TxId]:
        """The first key for which the waiting ``txid`` waits, and the transaction that is at the head there."""
        for key in self._keys[txid]:
            head = self._queues[key][0]
            if head != txid:
                return key, head
        raise KeyError(txid)

    def waits_for_younger(self, txid: TxId) -> bool:
        """Whether any transaction before ``txid`` in its queues has a greater txid. Those ahead only ever become fewer."""
        for key in self._keys[txid]:
            for other in self._queues[key]:
                if other == txid:
                    break
                if other > txid:
                    return True
        return False
