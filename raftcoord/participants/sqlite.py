"""The SQLite participant: accounts that take part in transactions.

It owes the obligations of ``interface`` with one commit per batch: a batch is worked through in memory, written as one
SQLite commit, and only then answered. It never talks to a node; the worker does.

    payload        operations.py: add, set, delete, expect
    locks          every key of a payload is locked exclusively from the yes until the outcome; a prepare that meets a
                   lock waits its turn (locks.py) for at most ``lock_wait_ms``, or until its deadline
    read-only      a payload of nothing but ``expect`` is checked against what is committed, holds no lock and keeps no
                   record. Its locks end before the other branches have theirs: it asserts, it does not reserve
    file           accounts.py; prepared branches and their locks are there again after a restart

When the disk is full, nothing of the batch is kept, and every request in it and every waiting one is answered with a
StorageError; it goes on when there is room. After any other failed write what was kept is not known: ``run`` raises, and
the participant must be opened again.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgpack

from raftcoord import limits
from raftcoord.core import participant as table
from raftcoord.core.participant import TABLE, Action, Ask, BranchState
from raftcoord.errors import LocalProtocolError, RaftcoordError, broken
from raftcoord.participants import operations
from raftcoord.participants.accounts import AccountsFile, Changes, PreparedBranch, Refusal
from raftcoord.participants.interface import (
    Abort,
    AlreadyCommitted,
    Commit,
    NotPrepared,
    Participant,
    Prepare,
    Reply,
    Request,
    WrongCluster,
)
from raftcoord.participants.locks import Locks
from raftcoord.participants.operations import AccountOperation, PayloadRefused
from raftcoord.types import Payload, TxId, Verdict, Vote, checked_cluster_id, first_txid_of

_ENDED: Final = {Verdict.COMMIT: BranchState.COMMITTED, Verdict.ABORT: BranchState.ABORTED}


class _Waiting(NamedTuple):
    """A prepare that is kept back; ``requests`` has more than one when it was repeated meanwhile."""

    requests: list[Prepare]
    digest: bytes
    operations: tuple[AccountOperation, ...]
    until_ms: int


class SqliteParticipant(Participant):
    """Accounts in one SQLite file. ``path``: created if missing; ``retention_ms``: how long finished txids are remembered.

    ``lock_wait_ms``: how long a prepare waits for a lock, see limits.LOCK_WAIT_MS; ``lock_waiters_max``: how many wait at once.

    Raises ConfigError (in use, not writable, another program's file), CorruptionError, StorageError (disk).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        retention_ms: int = limits.PARTICIPANT_RETENTION_MS,
        entropy: Callable[[int], bytes] = os.urandom,
        lock_wait_ms: int = limits.LOCK_WAIT_MS,
        lock_waiters_max: int = limits.LOCK_WAITERS_MAX,
    ) -> None:
        self._file = AccountsFile(Path(path))
        self._wall_ms = wall_ms
        self._retention_ms = retention_ms
        self._entropy = entropy
        self._lock_wait_ms = lock_wait_ms
        self._lock_waiters_max = lock_waiters_max
        self._dead: RaftcoordError | None = None
        self._changes = Changes()
        self._replies: list[tuple[Request, Reply]] = []  # of the batch that is being served
        self._late: list[tuple[Request, Reply]] = []  # written, to be returned by the next run
        self._waiting: dict[TxId, _Waiting] = {}
        try:
            self._load()
        except BaseException:
            self._file.close()
            raise

    def _load(self) -> None:
        self._cluster = self._file.meta("cluster").decode("ascii", "replace")  # what is no id is no cluster's
        self._forgotten = self._file.meta("forgotten")
        self._prepared = dict(self._file.prepared())
        self._locks = Locks()
        for txid, branch in self._prepared.items():
            self._locks.ask(txid, branch.keys)

    def close(self) -> None:
        """Release the file. Prepared branches stay prepared."""
        self._file.close()

    # -- accounts, from any thread --------------------------------------------------------------------------------

    def balance(self, key: str) -> int | None:
        """The committed amount, or None if there is no such account."""
        rows = self._file.look("SELECT amount FROM accounts WHERE key = ?", (key,))
        return int(rows[0][0]) if rows else None

    def balances(self) -> dict[str, int]:
        """Every account and its committed amount."""
        return {
            str(key): int(amount) for key, amount in self._file.look("SELECT key, amount FROM accounts ORDER BY key")
        }

    def total(self) -> int:
        """The sum of all committed amounts."""
        return sum(self.balances().values())

    def finished(self, txid: TxId) -> Verdict | None:
        """How ``txid`` ended here; None if it has not, or is forgotten."""
        rows = self._file.look("SELECT verdict FROM finished WHERE txid = ?", (txid,))
        return Verdict(int(rows[0][0])) if rows else None

    def open_account(self, key: str, amount: int) -> None:
        """Create an account outside any transaction. Not while a worker runs. LocalProtocolError if it exists."""
        self.open_accounts({key: amount})

    def open_accounts(self, accounts: Mapping[str, int]) -> None:
        """Create accounts in one commit, all or none. Not while a worker runs. LocalProtocolError if one exists."""
        for key, amount in accounts.items():
            try:
                (operation,) = operations.parse([{"op": "set", "key": key, "amount": amount}])
            except PayloadRefused as refused:
                raise LocalProtocolError(f"the account cannot be opened: {refused}") from None
            if self._file.amount(operation.key) is not None or self._locks.owner(operation.key) is not None:
                raise LocalProtocolError(
                    f"account {key!r} exists already, or a transaction holds it; nothing was changed"
                )
        self._file.write(Changes(amounts=dict(accounts), meta={"opened": b"1"}))

    def open_accounts_once(self, accounts: Mapping[str, int]) -> bool:
        """As ``open_accounts``, unless accounts were opened in this file before: then it does nothing and returns False.

        So a participant that is started again with the same command line does not create its accounts anew.
        """
        if self._file.meta("opened"):
            return False
        self.open_accounts(accounts)
        return True

    # -- the interface --------------------------------------------------------------------------------------------

    def identity(self) -> str:
        """The file's identity, made when it is asked for first."""
        identity = self._file.identity()
        if not identity:
            identity = self._entropy(16).hex()
            self._file.write(Changes(meta={"identity": identity.encode()}))
        return identity

    def cluster(self) -> str:
        """The cluster that the file belongs to."""
        return self._cluster

    def join(self, cluster: str) -> None:
        """Remember the cluster's id, or raise WrongCluster."""
        checked_cluster_id(cluster)
        if self._cluster and self._cluster != cluster:
            raise WrongCluster(
                f"{self._file.path} belongs to cluster {self._cluster}, not to {cluster}: connect it to its own cluster, "
                "or give this one a new file with --db"
            )
        if not self._cluster:
            self._file.write(Changes(meta={"cluster": cluster.encode()}))
            self._cluster = cluster

    def prepare(self, txid: TxId, payload: Payload) -> Vote:
        """Vote without waiting: a locked key is a no."""
        reply = self._run_alone(Prepare(txid, payload, self._wall_ms() + self._lock_wait_ms))
        return reply if isinstance(reply, Vote) else broken("prepare was answered without a vote")

    def commit(self, txid: TxId) -> None:
        """Commit a prepared branch, durably."""
        self._run_alone(Commit(txid))

    def abort(self, txid: TxId) -> None:
        """Abort a prepared branch, or leave a tombstone."""
        self._run_alone(Abort(txid))

    def prepared(self) -> Collection[TxId]:
        """What is in doubt, from memory."""
        return tuple(self._prepared)

    def due_ms(self) -> int | None:
        """When the next kept-back prepare gives up."""
        if self._late:
            return self._wall_ms()
        return min((waiting.until_ms for waiting in self._waiting.values()), default=None)

    def run(self, batch: Sequence[Request]) -> Sequence[tuple[Request, Reply]]:
        """Serve a batch with one commit. Raises StorageError when the participant must be opened again."""
        if self._dead is not None:
            raise self._dead
        try:
            self._serve_batch(batch, self._wall_ms())
        except RaftcoordError as error:
            self._dead = error
            self._file.close()
            raise
        replies, self._late, self._replies = self._late + self._replies, [], []
        return replies

    def _serve_batch(self, batch: Sequence[Request], now_ms: int) -> None:
        for request in batch:
            self._serve_one(request, now_ms)
        self._give_up(now_ms)
        self._forget(now_ms, limits.FORGET_MIN + len(batch))
        try:
            if self._changes:
                self._file.write(self._changes)
        except Refusal as error:
            self._undo_batch(error)
        self._changes = Changes()

    def _run_alone(self, request: Request) -> Reply:
        replies = self.run([request])
        mine = [reply for other, reply in replies if other is request]
        self._late = [(other, reply) for other, reply in replies if other is not request]
        if not mine:  # kept back: there is nobody to wait for it here
            reason = self._locked_reason(request.txid)
            others = self._waiting[request.txid].requests
            others[:] = [other for other in others if other is not request]
            if not others:
                self._release(request.txid)
            return Vote.no(reason)
        if isinstance(mine[0], RaftcoordError):
            raise mine[0]
        return mine[0]

    # -- a batch, in memory ---------------------------------------------------------------------------------------

    def _serve_one(self, request: Request, now_ms: int) -> None:
        txid = request.txid
        state = self._state(txid, now_ms)
        match request:
            case Prepare():
                self._prepare(request, TABLE[state, Ask.PREPARE].action, state, now_ms)
            case Commit():
                self._finish(request, TABLE[state, Ask.COMMIT].action, state, now_ms)
            case Abort():
                self._finish(request, TABLE[state, Ask.ABORT].action, state, now_ms)

    def _state(self, txid: TxId, now_ms: int) -> BranchState:
        if txid in self._prepared:
            return BranchState.PREPARED
        staged = self._changes.finished.get(txid)
        ended = staged[0] if staged else self._file.finished(txid)
        if ended is not None:
            return _ENDED[ended]
        return table.state_without_record(txid, self._forgotten, now_ms, self._retention_ms)

    def _prepare(self, request: Prepare, action: Action, state: BranchState, now_ms: int) -> None:
        txid = request.txid
        if action is Action.REFUSE:
            self._reply(request, Vote.no(table.refusal(state, txid)))
            return
        try:
            parsed = operations.parse(request.payload)
        except PayloadRefused as refused:
            self._reply(request, Vote.no(str(refused)))
            return
        digest = hashlib.blake2b(msgpack.packb(parsed), digest_size=16).digest()
        if action is Action.VOTE_AGAIN:
            same = self._prepared[txid].digest == digest
            self._reply(request, Vote.yes() if same else Vote.no(table.other_payload(txid)))
        elif txid in self._waiting:
            self._repeat_waiting(request, digest)
        elif request.deadline_ms <= now_ms:
            self._reply(request, Vote.no("the prepare came after its deadline; nothing was done"))
        elif self._locks.ask(txid, [operation.key for operation in parsed]):
            if not self._vote(txid, [request], digest, parsed):
                self._release(txid)
        else:
            self._wait(request, digest, parsed, now_ms)

    def _repeat_waiting(self, request: Prepare, digest: bytes) -> None:
        waiting = self._waiting[request.txid]
        if waiting.digest == digest:
            waiting.requests.append(request)
        else:
            self._reply(request, Vote.no(table.other_payload(request.txid)))

    def _wait(self, request: Prepare, digest: bytes, parsed: tuple[AccountOperation, ...], now_ms: int) -> None:
        txid = request.txid
        if len(self._waiting) >= self._lock_waiters_max:
            reason = f"{self._locked_reason(txid)}, and {len(self._waiting)} others wait already: try again later"
            self._locks.release(txid)
            self._reply(request, Vote.no(reason))
            return
        patience_ms = limits.LOCK_WAIT_OLDER_MS if self._locks.waits_for_younger(txid) else self._lock_wait_ms
        self._waiting[txid] = _Waiting([request], digest, parsed, min(now_ms + patience_ms, request.deadline_ms))

    def _vote(self, txid: TxId, requests: list[Prepare], digest: bytes, parsed: tuple[AccountOperation, ...]) -> bool:
        """All locks are held: try the operations. Returns whether the locks stay held."""
        try:
            writes = operations.evaluate(parsed, self._amount)
        except PayloadRefused as refused:
            vote = Vote.no(str(refused))
        else:
            vote = Vote.yes() if writes else Vote.read_only()
            if writes:
                branch = PreparedBranch(digest, tuple(dict.fromkeys(operation.key for operation in parsed)), writes)
                self._prepared[txid] = self._changes.prepared[txid] = branch
        for request in requests:
            self._reply(request, vote)
        return txid in self._prepared

    def _finish(self, request: Commit | Abort, action: Action, state: BranchState, now_ms: int) -> None:
        txid = request.txid
        match action:
            case Action.COMMIT:
                self._changes.amounts.update(self._prepared[txid].writes)
                self._end(txid, Verdict.COMMIT, now_ms)
            case Action.UNDO | Action.TOMBSTONE:
                self._end(txid, Verdict.ABORT, now_ms)
            case Action.NOT_PREPARED:
                self._reply(request, NotPrepared(table.not_prepared(state, txid)))
                return
            case Action.ALREADY_COMMITTED:
                self._reply(request, AlreadyCommitted(table.already_committed(txid)))
                return
        self._reply(request, None)

    def _end(self, txid: TxId, verdict: Verdict, now_ms: int) -> None:
        if self._prepared.pop(txid, None) is not None and self._changes.prepared.pop(txid, None) is None:
            self._changes.prepared[txid] = None  # it was written by an earlier batch
        self._changes.finished[txid] = (verdict, now_ms)
        if txid in self._waiting:
            for request in self._waiting[txid].requests:
                self._reply(request, Vote.no(table.refusal(_ENDED[verdict], txid)))
        self._release(txid)

    def _release(self, txid: TxId) -> None:
        """Give up the locks of ``txid``, and let those vote that have theirs now."""
        self._waiting.pop(txid, None)
        turn = deque(self._locks.release(txid))
        while turn:
            txid = turn.popleft()
            waiting = self._waiting.pop(txid)
            if not self._vote(txid, waiting.requests, waiting.digest, waiting.operations):
                turn.extend(self._locks.release(txid))

    def _give_up(self, now_ms: int) -> None:
        for txid in [txid for txid, waiting in self._waiting.items() if waiting.until_ms <= now_ms]:
            waiting = self._waiting.get(txid)
            if waiting is None:  # it got its turn when one before it gave up
                continue
            vote = Vote.no(f"{self._locked_reason(txid)}: try again later")
            for request in waiting.requests:
                self._reply(request, vote)
            self._release(txid)

    def _locked_reason(self, txid: TxId) -> str:
        key, holder = self._locks.blocker(txid)
        return f"account {key!r} is locked by transaction {holder}"

    def _amount(self, key: str) -> int | None:
        amounts = self._changes.amounts
        return amounts[key] if key in amounts else self._file.amount(key)

    def _reply(self, request: Request, reply: Reply) -> None:
        self._replies.append((request, reply))

    # -- the end of a batch ---------------------------------------------------------------------------------------

    def _forget(self, now_ms: int, limit: int) -> None:
        """Delete some of the finished txids that are older than the retention, by their own time and by when they ended."""
        bound_ms = now_ms - self._retention_ms
        if bound_ms <= 0:
            return
        self._changes.forget = self._file.finished_before(first_txid_of(bound_ms), bound_ms, limit)
        if self._changes.forget and self._changes.forget[-1] > self._forgotten:
            self._forgotten = self._changes.forget[-1]
            self._changes.meta["forgotten"] = self._forgotten

    def _undo_batch(self, error: Refusal) -> None:
        """Nothing was written: forget the batch and answer everybody, those who wait too."""
        answered = [request for request, _ in self._replies]
        answered += [request for waiting in self._waiting.values() for request in waiting.requests]
        self._replies = [(request, error) for request in answered]
        self._waiting.clear()
        self._load()
