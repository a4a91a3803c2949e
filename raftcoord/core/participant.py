"""The participant's table: what one branch does with each request, in each of its states.

It owes its caller one answer for every pair of state and request. It does nothing itself: no file, no clock, no lock.

Theory of operation. A branch is in one of five states. Four are its life; the fifth says that absence proves nothing:

    UNKNOWN     nothing is recorded, and nothing was ever forgotten that could be it
    PREPARED    it voted yes, durably; only a commit or an abort ends this, never time and never a restart
    COMMITTED   its effects stand; the record stays for the retention, so that a repeated request finds it
    ABORTED     undone, or refused in advance (a tombstone); the record stays for the retention likewise
    EXPIRED     nothing is recorded, and the txid is so old that a record of it may have been forgotten

                       prepare             commit               abort
        UNKNOWN        decide a vote       raise NotPrepared    leave a tombstone
        PREPARED       vote as before      commit it            undo it
        COMMITTED      refuse              done already         raise AlreadyCommitted
        ABORTED        refuse              raise NotPrepared    done already
        EXPIRED        refuse              raise NotPrepared    leave a tombstone

Why, square by square, where it is not plain:

- UNKNOWN, prepare. A no vote leaves nothing behind: the state stays UNKNOWN. A read-only vote likewise. Only a yes is recorded.
- PREPARED, prepare. The first answer may have been lost, so the same payload gets the same yes. Another payload under the
  same txid is a caller's mistake; a yes to it would promise what was never prepared.
- COMMITTED or ABORTED, prepare. A txid that is finished never runs a second time: a repeat would move the money twice.
- UNKNOWN, commit. Never a silent success. Others have created money that way: one side lost its branch, said "done", and the
  other side paid.
- ABORTED, commit. The outcome contradicts what this branch was told before. Nothing changes; a person must look.
- COMMITTED, abort. The same the other way round. It happens without a fault too: a branch that asks for its outcome while
  it is being told COMMIT may hear, of a transaction that has since been retired, ABORTED.
- UNKNOWN, abort. The prepare may still be on its way. The tombstone refuses it when it comes.
- EXPIRED, prepare. Records are forgotten by the age of the txid, so a txid of that age could be one that ran.

A tombstone therefore refuses prepare and commit, and acknowledges abort, for the retention; after that EXPIRED refuses the same.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from raftcoord.types import TxId


class BranchState(enum.Enum):
    """What a participant knows of one txid."""

    UNKNOWN = "unknown"
    PREPARED = "prepared"
    COMMITTED = "committed"
    ABORTED = "aborted"
    EXPIRED = "expired"


class Ask(enum.Enum):
    """What a participant is asked to do."""

    PREPARE = "prepare"
    COMMIT = "commit"
    ABORT = "abort"


class Action(enum.Enum):
    """What a participant does. Everything that changes a state is durable before it is answered."""

    VOTE = "decide a vote"
    """Try the payload. On a yes, record it and enter the next state; on a no or read-only, stay."""
    VOTE_AGAIN = "vote as before"
    """Yes if the payload is the one that is prepared, else no; nothing changes."""
    REFUSE = "refuse"
    """Vote no; ``refusal`` has the words."""
    COMMIT = "commit it"
    UNDO = "undo it"
    TOMBSTONE = "leave a tombstone"
    DONE = "done already"
    """Acknowledge; nothing changes."""
    NOT_PREPARED = "raise NotPrepared"
    ALREADY_COMMITTED = "raise AlreadyCommitted"


class Rule(NamedTuple):
    """What to do, and the state afterwards."""

    action: Action
    next: BranchState


TABLE: Final[dict[tuple[BranchState, Ask], Rule]] = {
    (BranchState.UNKNOWN, Ask.PREPARE): Rule(Action.VOTE, BranchState.PREPARED),
    (BranchState.UNKNOWN, Ask.COMMIT): Rule(Action.NOT_PREPARED, BranchState.UNKNOWN),
    (BranchState.UNKNOWN, Ask.ABORT): Rule(Action.TOMBSTONE, BranchState.ABORTED),
    (BranchState.PREPARED, Ask.PREPARE): Rule(Action.VOTE_AGAIN, BranchState.PREPARED),
    (BranchState.PREPARED, Ask.COMMIT): Rule(Action.COMMIT, BranchState.COMMITTED),
    (BranchState.PREPARED, Ask.ABORT): Rule(Action.UNDO, BranchState.ABORTED),
    (BranchState.COMMITTED, Ask.PREPARE): Rule(Action.REFUSE, BranchState.COMMITTED),
    (BranchState.COMMITTED, Ask.COMMIT): Rule(Action.DONE, BranchState.COMMITTED),
    (BranchState.COMMITTED, Ask.ABORT): Rule(Action.ALREADY_COMMITTED, BranchState.COMMITTED),
    (BranchState.ABORTED, Ask.PREPARE): Rule(Action.REFUSE, BranchState.ABORTED),
    (BranchState.ABORTED, Ask.COMMIT): Rule(Action.NOT_PREPARED, BranchState.ABORTED),
    (BranchState.ABORTED, Ask.ABORT): Rule(Action.DONE, BranchState.ABORTED),
    (BranchState.EXPIRED, Ask.PREPARE): Rule(Action.REFUSE, BranchState.EXPIRED),
    (BranchState.EXPIRED, Ask.COMMIT): Rule(Action.NOT_PREPARED, BranchState.EXPIRED),
    (BranchState.EXPIRED, Ask.ABORT): Rule(Action.TOMBSTONE, BranchState.ABORTED),
}

_REFUSALS: Final = {
    BranchState.COMMITTED: "is already committed here and never runs twice: use a new txid",
    BranchState.ABORTED: "is already aborted here and never runs again: use a new txid",
    BranchState.EXPIRED: "is older than what this participant remembers, so it may have run already: use a new txid",
}

_NOT_PREPARED: Final = {
    BranchState.UNKNOWN: "it was never prepared here, or its record is lost",
    BranchState.ABORTED: "it was aborted here",
    BranchState.EXPIRED: "it is not prepared here, and too old for a record of how it ended",
}


def state_without_record(txid: TxId, forgotten: bytes, now_ms: int, retention_ms: int) -> BranchState:
    """UNKNOWN, or EXPIRED if a record of ``txid`` may have been forgotten.

    ``forgotten``: the greatest txid whose record was deleted, b"" if none. It stands above the clock: a clock that ran
    ahead for a while and was set back must not make a txid young again. Times are Unix time in milliseconds.
    """
    if txid <= forgotten or txid.ms < now_ms - retention_ms:
        return BranchState.EXPIRED
    return BranchState.UNKNOWN


def refusal(state: BranchState, txid: TxId) -> str:
    """The reason of the no vote where the table says REFUSE."""
    return f"transaction {txid} {_REFUSALS[state]}"


def other_payload(txid: TxId) -> str:
    """The reason of the no vote where the table says VOTE_AGAIN and the payload is another one."""
    return f"transaction {txid} is already prepared here with another payload: use a new txid for another payload"


def not_prepared(state: BranchState, txid: TxId) -> str:
    """The message of NotPrepared: an outcome that this branch cannot follow, for a person."""
    return (
        f"told to commit transaction {txid}, but {_NOT_PREPARED[state]}; nothing was changed. "
        f"Compare the branches: raftcoord txn show {txid}"
    )


def already_committed(txid: TxId) -> str:
    """The message of AlreadyCommitted."""
    return (
        f"told to abort transaction {txid}, but it is committed here; nothing was changed. "
        f"Compare with the ledger: raftcoord txn show {txid}"
    )
