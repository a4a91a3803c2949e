"""The replicated commands and their codec.

One log entry carries a batch: everything that one node had to propose in one tick.

    entry   = [FORMAT, origin, boot, seq, [command, ...]]
    command = [kind, field, ...]                          the fields of the NamedTuple, in order

``origin``, ``boot`` and ``seq`` name the batch: the node that proposed it, that node's incarnation (random, 64 bits) and
a counter. The node that finds its own name in an applied entry answers those who wait for it. An entry without commands
is a barrier.

A committed entry that this code cannot read was written by a newer version, or is not what was written: the reader
halts (hazard H9: an entry that is skipped by one node and applied by another is a divergence). Every command here is
idempotent, so a batch may be proposed again when its fate is not known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, NoReturn

import msgpack

from raftcoord import limits
from raftcoord.errors import Halt, LocalProtocolError
from raftcoord.types import TxId, Verdict

FORMAT: Final = 1


class Decide(NamedTuple):
    """Propose an outcome. The first for a txid wins; every later one is told what stands.

    ``branches``: those that must be told (the yes-voters); ``branch``: the one that caused an abort, or "";
    ``at_ms``: the proposer's clock, kept for people to read and never compared.
    """

    txid: TxId
    verdict: Verdict
    branches: tuple[str, ...]
    reason: str
    branch: str
    at_ms: int


class Complete(NamedTuple):
    """These branches have acknowledged the outcome. ``acks``: (txid, branches) pairs; unknown ones are ignored."""

    acks: tuple[tuple[TxId, tuple[str, ...]], ...]


class Retire(NamedTuple):
    """Forget what is finished and older than ``before_ms`` (Unix time, ms), and make that the horizon."""

    before_ms: int


class Found(NamedTuple):
    """Give the cluster its id (16 hex digits). The first one wins."""

    cluster: str


class Heuristic(NamedTuple):
    """Record damage: ``branch`` of ``txid`` was finished by somebody else, against the decision or not by it."""

    txid: TxId
    branch: str
    what: str
    at_ms: int


class Acknowledge(NamedTuple):
    """``who`` has seen the damage recorded for ``branch`` of ``txid``. Older releases proposed it; Settle took its place."""

    txid: TxId
    branch: str
    who: str
    at_ms: int


class Close(NamedTuple):
    """``who`` says that these branches of COMMITs will never come back, and ``why``: they are waited for no longer.

    ``branches``: (txid, branches) pairs; what is not outstanding, or not of a COMMIT, is ignored. The decision is never
    forgotten: a branch that comes back all the same hears COMMIT.
    """

    branches: tuple[tuple[TxId, tuple[str, ...]], ...]
    who: str
    why: str
    at_ms: int


class Settle(NamedTuple):
    """``who`` has seen the damage recorded for these branches and dealt with it.

    ``damages``: (txid, branches) pairs; unknown ones are ignored. A branch of a COMMIT that is outstanding is closed with it. The
    record is forgotten when it is older than the horizon.
    """

    damages: tuple[tuple[TxId, tuple[str, ...]], ...]
    who: str
    at_ms: int


class Enroll(NamedTuple):
    """From now on node ``name`` is the one with this ``identity`` (32 hex digits), in place of any other. The last one wins."""

    name: str
    identity: str


class Bind(NamedTuple):
    """From now on participant ``name`` is the one whose state has this ``identity``, if it was ``before`` until now.

    Identities are 32 hex digits. ``before`` "": nobody is bound yet (the first admission, ``who`` ""). ``identity`` "": forget
    the name. ``who``: the operator who replaces or forgets. One that finds another identity than ``before`` changes nothing.
    """

    name: str
    identity: str
    before: str
    who: str
    at_ms: int


class Lower(NamedTuple):
    """An operator's way out when the horizon was moved into the future: from ``was_ms`` back to ``horizon_ms``.

    It does nothing if the horizon is not at ``was_ms`` any more, or if a decision between the two is open. What was forgotten
    stays forgotten, so ``horizon_ms`` must be later than any txid that was made so far: see lowering.py, which chooses it.
    ``who`` says so at ``at_ms``, by the proposer's clock.
    """

    was_ms: int
    horizon_ms: int
    who: str
    at_ms: int


Command = Decide | Complete | Retire | Found | Heuristic | Acknowledge | Enroll | Bind | Close | Lower | Settle

KINDS: Final[dict[int, type[Command]]] = {
    1: Decide,
    2: Complete,
    3: Retire,
    4: Found,
    5: Heuristic,
    6: Acknowledge,
    7: Enroll,
    9: Bind,
    10: Close,
    11: Lower,
    12: Settle,
}
"""8 was never given."""
_KIND_OF: Final[dict[type[Command], int]] = {kind: number for number, kind in KINDS.items()}


_packb = msgpack.Packer(use_bin_type=True, autoreset=True).pack


def encode_command(command: Command) -> bytes:
    """One command as MessagePack. Encoded when proposed, so that the bytes of a batch are known as it gathers."""
    return _packb((_KIND_OF[type(command)], *command))  # type: ignore[no-any-return]


def encode_entry(origin: int, boot: int, seq: int, commands: Sequence[bytes]) -> bytes:
    """An entry from commands that are encoded already."""
    head = _packb((FORMAT, origin, boot, seq))
    return b"".join((b"\x95", head[1:], _array_head(len(commands)), *commands))


def _array_head(length: int) -> bytes:
    if length < 16:
        return bytes((0x90 | length,))
    if length < 1 << 16:
        return b"\xdc" + length.to_bytes(2, "big")
    raise LocalProtocolError(f"an entry of {length} commands: at most 65535 fit; propose fewer at a time")


class Sealed(NamedTuple):
    """An entry whose name is read and whose commands are not yet."""

    origin: int
    boot: int
    seq: int
    rows: tuple[Any, ...]

    def commands(self) -> tuple[Command, ...]:
        """The commands. Raises Halt for anything that this version would not have written."""
        return tuple(_decode_command(row) for row in self.rows)


def open_entry(data: bytes, items_max: int = (1 << 16) - 1) -> Sealed:
    """The entry that ``data`` writes. Raises Halt for anything that this version would not have written.

    ``items_max``: of one array. A header alone makes the parser reserve room, and headers can be nested.
    """
    try:
        value = msgpack.unpackb(
            data,
            use_list=False,
            strict_map_key=True,
            object_hook=_no_map,
            max_array_len=items_max,
            max_map_len=0,
            max_ext_len=0,
        )
    except Exception as error:
        raise Halt(_unreadable(f"not MessagePack ({error})")) from None
    match value:
        case (int(form), *_) if form != FORMAT:
            raise Halt(_unreadable(f"entry format {form}, this version reads {FORMAT}"))
        case (int(), int(origin), int(boot), int(seq), tuple(rows)):
            return Sealed(origin, boot, seq, rows)
    raise Halt(_unreadable("not an entry"))


def _no_map(_: object) -> NoReturn:
    raise ValueError("a map, and no command has one")


def _decode_command(row: Any) -> Command:
    if type(row) is not tuple or not row or type(row[0]) is not int:
        raise Halt(_unreadable("what is no command"))
    decode = _DECODERS.get(row[0])
    if decode is None:
        raise Halt(_unreadable(f"command kind {row[0]}"))
    command = decode(row)
    if command is None:  # not shown: the text of what is nested a thousand deep does not fit on Python's stack
        raise Halt(_unreadable(f"a malformed command of kind {row[0]}"))
    return command


def _decode_decide(row: tuple[Any, ...]) -> Decide | None:
    # Every decision passes here on every node: plain tests, because a match statement costs five times as much.
    if len(row) != 7:
        return None
    _, txid, verdict, branches, reason, branch, at_ms = row
    known = _VERDICTS.get(verdict) if type(verdict) is int else None
    if (
        known is None
        or type(txid) is not bytes
        or type(reason) is not str
        or type(branch) is not str
        or type(at_ms) is not int
        or not _is_texts(branches)
    ):
        return None
    return Decide(_txid(txid), known, branches, reason, branch, at_ms)


def _decode_complete(row: tuple[Any, ...]) -> Complete | None:
    match row:
        case (_, tuple(acks)):
            return Complete(tuple(_decode_ack(ack) for ack in acks))
    return None


def _decode_ack(ack: Any) -> tuple[TxId, tuple[str, ...]]:
    if type(ack) is tuple and len(ack) == 2 and type(ack[0]) is bytes and _is_texts(ack[1]):
        return _txid(ack[0]), ack[1]
    raise Halt(_unreadable("a malformed acknowledgement"))


def _decode_close(row: tuple[Any, ...]) -> Close | None:
    match row:
        case (_, tuple(branches), str(who), str(why), int(at_ms)) if type(at_ms) is int:
            return Close(tuple(_decode_ack(ack) for ack in branches), who, why, at_ms)
    return None


def _decode_settle(row: tuple[Any, ...]) -> Settle | None:
    match row:
        case (_, tuple(damages), str(who), int(at_ms)) if type(at_ms) is int:
            return Settle(tuple(_decode_ack(ack) for ack in damages), who, at_ms)
    return None


def _decode_retire(row: tuple[Any, ...]) -> Retire | None:
    match row:
        case (_, int(before_ms)) if type(before_ms) is int and 0 <= before_ms < 1 << 48:
            return Retire(before_ms)
    return None


def _decode_found(row: tuple[Any, ...]) -> Found | None:
    match row:
        case (_, str(cluster)):
            return Found(cluster)
    return None


def _decode_heuristic(row: tuple[Any, ...]) -> Heuristic | None:
    match row:
        case (_, bytes(txid), str(branch), str(what), int(at_ms)) if type(at_ms) is int:
            return Heuristic(_txid(txid), branch, what, at_ms)
    return None


def _decode_acknowledge(row: tuple[Any, ...]) -> Acknowledge | None:
    match row:
        case (_, bytes(txid), str(branch), str(who), int(at_ms)) if type(at_ms) is int:
            return Acknowledge(_txid(txid), branch, who, at_ms)
    return None


def _decode_enroll(row: tuple[Any, ...]) -> Enroll | None:
    match row:
        case (_, str(name), str(identity)) if len(name) <= limits.NAME_LENGTH_MAX and _IDENTITY.fullmatch(identity):
            return Enroll(name, identity)
    return None


def _decode_bind(row: tuple[Any, ...]) -> Bind | None:
    match row:
        case (_, str(name), str(identity), str(before), str(who), int(at_ms)) if (
            len(name) <= limits.NAME_LENGTH_MAX
            and len(who) <= limits.WHO_LENGTH_MAX
            and type(at_ms) is int
            and all(not one or _IDENTITY.fullmatch(one) for one in (identity, before))
        ):
            return Bind(name, identity, before, who, at_ms)
    return None


def _decode_lower(row: tuple[Any, ...]) -> Lower | None:
    match row:
        case (_, int(was_ms), int(horizon_ms), str(who), int(at_ms)) if all(
            type(ms) is int and 0 <= ms <= limits.TIME_MS_MAX for ms in (was_ms, horizon_ms, at_ms)
        ):
            return Lower(was_ms, horizon_ms, who, at_ms)
    return None


_IDENTITY: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
_VERDICTS: Final = {int(verdict): verdict for verdict in Verdict}
_DECODERS: Final[dict[int, Callable[[tuple[Any, ...]], Command | None]]] = {
    1: _decode_decide,
    2: _decode_complete,
    3: _decode_retire,
    4: _decode_found,
    5: _decode_heuristic,
    6: _decode_acknowledge,
    7: _decode_enroll,
    9: _decode_bind,
    10: _decode_close,
    11: _decode_lower,
    12: _decode_settle,
}


def _txid(raw: bytes) -> TxId:
    try:
        return TxId(raw)
    except LocalProtocolError as error:
        raise Halt(_unreadable(str(error))) from None


def _is_texts(values: Any) -> bool:
    if type(values) is not tuple:
        return False
    return all(type(value) is str for value in values)


def _unreadable(what: str) -> str:
    return (
        f"the log holds what this version cannot read: {what}. The log was written by a newer version of raftcoord; "
        "start this node with that version"
    )
