"""The words of DESIGN section 1 as values: frozen, and checked at birth.

A value of one of these types is valid; code that holds one need not look again.
"""

from __future__ import annotations

import enum
import os
import random
import re
import threading
import time
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, NewType, Self, TypeGuard

from raftcoord import limits
from raftcoord.errors import Aborted, LocalProtocolError

NodeName = NewType("NodeName", str)
"""A node's name in cluster.yaml: [a-z0-9-], 1 to 32 characters."""

Branch = NewType("Branch", str)
"""One participant's part of a transaction, named by the participant: [a-z0-9-], 1 to 32 characters."""

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?", re.ASCII)
_HEX32: Final = re.compile(r"[0-9a-fA-F]{32}", re.ASCII)
_CLUSTER: Final = re.compile(r"[0-9a-f]{16}", re.ASCII)
_IDENTITY: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)


def checked_name(value: object, what: str) -> str:
    """``value`` if it is a valid name; else LocalProtocolError that says what a name may be."""
    if not isinstance(value, str) or len(value) > limits.NAME_LENGTH_MAX or _NAME.fullmatch(value) is None:
        raise LocalProtocolError(
            f"{what} {_short(value)} is not a name: use 1 to {limits.NAME_LENGTH_MAX} characters of a-z, 0-9 and '-', "
            "with a letter or digit first and last"
        )
    return value


def checked_branch(value: object) -> Branch:
    """``value`` as a branch name, or LocalProtocolError."""
    return Branch(checked_name(value, "branch"))


def checked_cluster_id(value: object) -> str:
    """``value`` as a cluster id (16 hex digits), or LocalProtocolError."""
    if not isinstance(value, str) or _CLUSTER.fullmatch(value) is None:
        raise LocalProtocolError(f"{_short(value)} is not a cluster id: 16 lower-case hex digits")
    return value


def is_identity(value: object) -> TypeGuard[str]:
    """Whether it has the form of an identity: 32 hex digits, of the data of a node or the state of a participant."""
    return type(value) is str and _IDENTITY.fullmatch(value) is not None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class TxId(bytes):
    """A transaction's identity: a UUIDv7 (RFC 9562 section 5.7), 16 bytes, time-ordered, written as 32 hex digits."""

    __slots__ = ()

    def __new__(cls, raw: bytes) -> Self:
        """Raise LocalProtocolError unless ``raw`` is 16 bytes with the version and variant bits of a UUIDv7."""
        if not isinstance(raw, bytes) or len(raw) != 16 or raw[6] >> 4 != 7 or raw[8] >> 6 != 2:
            raise LocalProtocolError(
                f"{_short(raw.hex() if isinstance(raw, bytes) else raw)} is not a txid: a txid is a UUIDv7, written as 32 "
                "hex digits"
            )
        return super().__new__(cls, raw)

    @classmethod
    def new(cls, ms: int | None = None, random_bytes: bytes | None = None) -> Self:
        """A new txid. ``ms``: Unix time in milliseconds, default now; ``random_bytes``: 10 bytes, default the OS's.

        Without ``random_bytes`` the ids of one process are strictly increasing.
        """
        if random_bytes is None and ms is None:
            return cls(_generator.next())
        ms = time.time_ns() // 1_000_000 if ms is None else ms
        tail = os.urandom(10) if random_bytes is None else random_bytes
        return cls(_uuid7(ms, int.from_bytes(tail, "big")))

    @classmethod
    def parse(cls, text: object) -> Self:
        """The txid that ``text`` writes: 32 hex digits, with or without a UUID's hyphens. LocalProtocolError otherwise."""
        if isinstance(text, cls):
            return text
        digits = text.replace("-", "") if isinstance(text, str) else ""
        if _HEX32.fullmatch(digits) is None:
            raise LocalProtocolError(f"{_short(text)} is not a txid: a txid is a UUIDv7, written as 32 hex digits")
        return cls(bytes.fromhex(digits))

    @property
    def ms(self) -> int:
        """The Unix time in it, milliseconds."""
        return int.from_bytes(self[:6], "big")

    def __str__(self) -> str:
        return self.hex()

    def __repr__(self) -> str:
        return f"TxId({self.hex()})"


BranchesByTxid = tuple[tuple[TxId, tuple[str, ...]], ...]
"""Some branches of each of these transactions."""


def _uuid7(ms: int, tail80: int) -> bytes:
    value = (ms & (1 << 48) - 1) << 80 | (tail80 & (1 << 80) - 1)
    value &= ~(0xF << 76 | 0x3 << 62)
    return (value | 7 << 76 | 2 << 62).to_bytes(16, "big")


_CLOCK_BACK_MS: Final = 1_000


class _Generator:
    """Strictly increasing UUIDv7s: within one millisecond the 74 random bits are counted up by a random step.

    While a clock is set back by less than a second, its last millisecond goes on. If it was set back by more, the ids follow
    it: they would otherwise carry a time that nodes refuse because it is in the future.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ms = 0
        self._tail = 0
        self._pid = 0
        self._random = random.Random()

    def next(self) -> bytes:
        with self._lock:
            ms = time.time_ns() // 1_000_000
            pid = os.getpid()
            if pid != self._pid:  # a forked child must not go on where its parent does
                self._pid = pid
                self._random.seed(os.urandom(32))
                self._ms = 0
            if ms > self._ms or ms < self._ms - _CLOCK_BACK_MS:
                self._ms = ms
                self._tail = self._random.getrandbits(71)  # of 74: room to count up
            else:
                self._tail += 1 + self._random.getrandbits(32)
            rand_a, rand_b = self._tail >> 62, self._tail & (1 << 62) - 1
            return _uuid7(self._ms, rand_a << 64 | rand_b)


_generator = _Generator()


def first_txid_of(ms: int) -> bytes:
    """The 16 bytes that sort at or before every txid of the millisecond ``ms`` and after every earlier one."""
    return (ms << 80).to_bytes(16, "big")


class Verdict(enum.IntEnum):
    """What is proposed for a transaction. The values go over the wire and into the log: never change them."""

    ABORT = 0
    COMMIT = 1


class State(enum.IntEnum):
    """What is known of a transaction. The values go over the wire: never change them.

    UNDECIDED and FORGOTTEN are not outcomes. Absence is never ABORTED.
    """

    ABORTED = 0
    COMMITTED = 1
    UNDECIDED = 2
    FORGOTTEN = 3

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node knows of a transaction, as of (term, index) of the replicated log.

    COMMITTED and ABORTED are final. UNDECIDED was true at that index. FORGOTTEN: older than the horizon and finished.
    """

    txid: TxId
    state: State
    reason: str
    term: int
    index: int

    @property
    def final(self) -> bool:
        """Whether it is an outcome, which never changes."""
        return self.state in (State.COMMITTED, State.ABORTED)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The one outcome of a transaction: what the ledger has recorded at (term, index).

    ``reason`` is empty for a commit; ``branch`` names the branch that caused an abort, if one did.
    """

    txid: TxId
    committed: bool
    reason: str
    term: int
    index: int
    branch: str | None = None

    @property
    def state(self) -> State:
        """COMMITTED or ABORTED."""
        return State.COMMITTED if self.committed else State.ABORTED

    def raise_if_aborted(self) -> None:
        """Raise Aborted unless it is a commit."""
        if not self.committed:
            raise Aborted(self.txid, self.reason, self.branch)


class VoteKind(enum.IntEnum):
    """The values go over the wire: never change them."""

    NO = 0
    YES = 1
    READ_ONLY = 2


class Vote(NamedTuple):
    """A participant's vote: Vote.yes(), Vote.no("why"), or Vote.read_only() (nothing to commit; it does not get the outcome)."""

    kind: VoteKind
    reason: str = ""

    @classmethod
    def yes(cls) -> Vote:
        """Prepared durably: can commit and can abort, whatever happens, and will not decide alone."""
        return _YES

    @classmethod
    def no(cls, reason: str) -> Vote:
        """Nothing is kept. ``reason`` reaches the client (cut at 500 characters)."""
        return cls(VoteKind.NO, reason[: limits.REASON_LENGTH_MAX])

    @classmethod
    def read_only(cls) -> Vote:
        """Nothing was changed and no lock is held: the outcome does not matter here."""
        return _READ_ONLY


_YES: Final = Vote(VoteKind.YES)
_READ_ONLY: Final = Vote(VoteKind.READ_ONLY)

Payload = Any
"""What a client sends to a participant: None, bool, int, float, str, bytes, and lists and str-keyed dicts of them."""
