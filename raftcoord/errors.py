"""Errors, by certainty first and by blame next.

Certainty is what a caller needs before anything else: did it happen?

    Aborted       definite: nothing happened, on any participant
    InDoubt       not known: carries the txid; ask ``resolve(txid)`` later
    Unavailable   definite: nothing was attempted; try again
    Overloaded    definite: nothing was attempted; try again, more slowly

Blame is what the next step depends on:

    ConfigError          the operator: cluster.yaml, a directory, a port
    LocalProtocolError   the caller of this library: bad txid, bad name, a txid used twice
    RemoteProtocolError  the other end of a connection
    CorruptionError      the disk, or the program that wrote to it
    StorageError         the disk refused: full, read-only, failing

Every message is one or two sentences: what happened, to what, and what to do now.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from raftcoord.types import TxId


class RaftcoordError(Exception):
    """The root of everything that raftcoord raises on purpose."""


class Aborted(RaftcoordError):
    """The transaction was aborted: no participant keeps anything of it. Retry with a new txid if the reason allows."""

    def __init__(self, txid: TxId, reason: str, branch: str | None = None) -> None:
        where = f" by branch {branch!r}" if branch else ""
        super().__init__(f"transaction {txid} was aborted{where}: {reason}")
        self.txid = txid
        self.reason = reason
        self.branch = branch


class InDoubt(RaftcoordError):
    """The outcome is not known here yet. It is decided once and for all by ``resolve(txid)`` on any reachable node."""

    def __init__(self, txid: TxId, why: str) -> None:
        super().__init__(
            f"the outcome of transaction {txid} is in doubt: {why}. "
            f"Do not repeat it; ask for its outcome: raftcoord txn resolve {txid}"
        )
        self.txid = txid
        self.why = why


class NotKnown(RaftcoordError):
    """A proposal was handed to a leader and not answered in time. It may still be applied: ask for the outcome."""

    def __init__(self) -> None:
        super().__init__("the proposal was handed over but not confirmed in time; its fate is not known yet")


class Unavailable(RaftcoordError):
    """Nothing was attempted, because no node or no majority could be reached. Retrying is safe."""


class NotYet(Unavailable):
    """Nothing was attempted: something has to be done first, and the message says what. Asking again alone does not help."""


class Overloaded(RaftcoordError):
    """Nothing was attempted, because a bounded queue is full. Retry after a pause."""


class ConfigError(RaftcoordError):
    """cluster.yaml, a directory, a port or a command line is wrong. Nothing was changed."""


class ProtocolError(RaftcoordError):
    """Somebody broke the rules of a protocol; see the two subclasses for who."""


class LocalProtocolError(ProtocolError):
    """The caller asked for what is not allowed. Nothing was changed."""


class NoMember(ConfigError):
    """A node that is no member of the cluster, or none any more, was refused by one that is."""


class FutureTxid(LocalProtocolError):
    """A txid lies in the future of the clock that it was compared with. Nothing was attempted; one of the two clocks is wrong."""


class ForgottenTxid(LocalProtocolError):
    """A txid is older than the horizon. Nothing was attempted, and what became of it before is not known any more."""


class TxidUsed(LocalProtocolError):
    """Another transaction has used the txid, or is using it. ``recorded``: its outcome, if there is one."""

    def __init__(self, message: str, txid: TxId, recorded: tuple[Any, ...] | None = None) -> None:
        super().__init__(message)
        self.txid = txid
        self.recorded = recorded


class RemoteProtocolError(ProtocolError):
    """The other end of a connection sent what is not allowed. That connection is closed; no other is disturbed."""


class CorruptionError(RaftcoordError):
    """Stored bytes are not what was written. The node must not run on them; the message says how to replace it."""


class StorageError(RaftcoordError):
    """The disk refused a write or a sync. The node halts: what a failed sync has kept is not known."""


class Halt(RaftcoordError):
    """A node met what it cannot handle safely and must stop. The message is for the operator."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'this'?`` for the nearest of ``known``, or nothing: the next step after a name that is not there."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def check(condition: bool, what: str) -> None:
    """Assert an invariant. Unlike ``assert`` it is not stripped by ``python -O``; unlike an error it is a bug of ours."""
    if not condition:
        broken(what)


def broken(what: str) -> NoReturn:
    """An invariant does not hold: stop here rather than guess an outcome."""
    raise Halt(f"invariant broken: {what}. This is a bug in raftcoord; keep the data directory and report it")
