"""What a participant owes, and to whom.

A participant is a service that votes on its branch of a transaction and then does what was decided. Derive from
``Participant``, keep the obligations below, and prove it with ``raftcoord.participants.conformance``.

Who calls, and in which order. One worker (``raftcoord.participants.worker``) calls every method from ONE thread, one call
at a time. For one txid:

    identity()         once, at each start, before anything else
    join(cluster)      once, at each start, before what follows
    prepare            at most one that answers yes; it may be repeated after a yes, because an answer may be lost
    commit or abort    after the outcome is decided; repeated until it returns; then perhaps again, days later
    prepared()         at start and now and then, to find what is in doubt

Obligations

1. ``prepare`` answers yes only when the branch is durable (synced to disk) and nothing but a ``commit`` or ``abort`` can end
   it: not time, not a restart, not the end of a connection. Locks stay held.
2. After a yes, never decide alone. Wait for the outcome; the worker asks any node for it.
3. ``commit`` of a prepared branch must succeed. If it cannot now (disk full), raise: it is called again. It returns only when
   the effect is durable, because the coordinator forgets the branch after that.
4. ``commit`` of a txid that was never prepared here, and is not already committed here, raises ``NotPrepared``. It is never a
   silent success: that is how others have created money.
5. ``abort`` of an unknown txid leaves a durable tombstone: a late ``prepare`` of that txid answers no.
6. All three are idempotent. A txid that is finished is never run a second time: ``prepare`` answers no.
7. A payload that cannot be understood is a no vote with a reason, never an exception, and changes nothing.
8. ``abort`` of a txid that is committed here raises ``AlreadyCommitted`` and changes nothing.
9. ``join`` remembers the first cluster it is given, durably, and raises ``WrongCluster`` for any other: another cluster does
   not know this one's transactions and would answer ABORTED for a committed one.
10. ``identity`` gives 32 hex digits that belong to the state: made at random when the state is new, durable before they are given
   for the first time, the same ever after. Instances that share the state give the same. The cluster admits one identity under a
   name, so that a second state (an empty directory, a file of last week) cannot take over branches that it knows nothing of.
   A copy of the state has the same identity: it must never serve beside the original.

The table of states and requests behind 4, 5, 6 and 8 is ``raftcoord.core.participant.TABLE``.
"""

from __future__ import annotations

import abc
import logging
from collections.abc import Collection, Sequence
from typing import NamedTuple

from raftcoord.errors import ConfigError, LocalProtocolError, RaftcoordError
from raftcoord.types import Payload, TxId, Vote

_log = logging.getLogger("raftcoord.participants")


class NotPrepared(LocalProtocolError):
    """Asked to commit what is neither prepared nor committed here. Nothing was changed; a person must look."""


class AlreadyCommitted(LocalProtocolError):
    """Asked to abort what is committed here. Nothing was changed."""


class ParticipantFailed(RaftcoordError):
    """A participant raised what it should not have. Whether it keeps anything of the branch is not known."""


class WrongCluster(ConfigError):
    """The participant's state belongs to another cluster."""


class Prepare(NamedTuple):
    """Vote on this branch. ``deadline_ms``: Unix time (ms) after which a yes comes too late to matter."""

    txid: TxId
    payload: Payload
    deadline_ms: int


class Commit(NamedTuple):
    """The transaction is committed: make the branch's effects durable and visible."""

    txid: TxId


class Abort(NamedTuple):
    """The transaction is aborted: undo the branch, or refuse it in advance."""

    txid: TxId


Request = Prepare | Commit | Abort
Reply = Vote | RaftcoordError | None
"""A Vote to Prepare; None to Commit and Abort; an error to any of them when it could not be done."""


class Participant(abc.ABC):
    """Derive from this. ``prepare``, ``commit``, ``abort`` and ``prepared`` are enough; ``run`` is for those who batch."""

    def identity(self) -> str:
        """The identity of the state: 32 hex digits (obligation 10).

        "", which is what a participant of an older release gives: the cluster cannot tell its states apart, and admits
        it only while the name belongs to no known state.
        """
        return ""

    def cluster(self) -> str:
        """The id of the cluster that the state belongs to, which ``join`` has stored, or "".

        A node of another cluster of the same name then knows at once that the participant is not one of its own.
        """
        return ""

    @abc.abstractmethod
    def join(self, cluster: str) -> None:
        """Remember the cluster's id (16 hex digits), or raise WrongCluster (obligation 9)."""

    @abc.abstractmethod
    def prepare(self, txid: TxId, payload: Payload) -> Vote:
        """Vote. Yes means durable (obligation 1)."""

    @abc.abstractmethod
    def commit(self, txid: TxId) -> None:
        """Commit a prepared branch, durably. NotPrepared if there is none (obligation 4)."""

    @abc.abstractmethod
    def abort(self, txid: TxId) -> None:
        """Abort a prepared branch, or leave a tombstone (obligation 5). AlreadyCommitted if it is (obligation 8)."""

    @abc.abstractmethod
    def prepared(self) -> Collection[TxId]:
        """The txids of every branch that is prepared and not finished: what is in doubt after a restart."""

    def run(self, batch: Sequence[Request]) -> Sequence[tuple[Request, Reply]]:
        """Serve a batch, in order. Override it to share one sync among many requests.

        Returns (request, reply) pairs with the very request objects that came in. An error is a reply, not raised: what is
        raised from here stops the worker, and is right only when nothing more can be served before a restart.

        A Prepare may be kept back (it waits for a lock, say): leave it out of what is returned, and return it from a
        later ``run``: no later than the first one after its deadline. ``run`` is called with an empty batch when
        ``due_ms`` has passed.
        """
        return [(request, self._serve(request)) for request in batch]

    def due_ms(self) -> int | None:
        """Unix time (ms) at which ``run([])`` should be called for requests that were kept back; None if there are none."""
        return None

    def close(self) -> None:  # noqa: B027 - optional on purpose
        """Release what is held. Prepared branches stay prepared."""

    def _serve(self, request: Request) -> Reply:
        try:
            match request:
                case Prepare(txid, payload, _):
                    return self.prepare(txid, payload)
                case Commit(txid):
                    self.commit(txid)
                case Abort(txid):
                    self.abort(txid)
        except RaftcoordError as error:
            return error
        except Exception as error:
            _log.exception("%s of transaction %s failed", type(request).__name__, request.txid)
            return ParticipantFailed(f"{type(self).__name__} failed with {type(error).__name__}: {error}; see its log")
        return None
