"""Heuristic damage as clients see it: reported, listed, acknowledged.

Owed: damage that was reported is recorded once, in the ledger, and is listed until somebody has acknowledged it and it is older
than the horizon; what nobody has acknowledged comes first. Acknowledging it is a person's word that the branch is dealt with, so
the ledger waits for that branch no longer. Never: an outcome that is changed; damage that is dropped unseen.

Only what is decided can be damaged, and as much is recorded as limits.DAMAGES_UNSEEN_MAX: anybody may report.

Why a record may go: the branch of a COMMIT whose damage is acknowledged is closed by that (core/ledger.py), and the decision
then stays for ever. So a branch that is still prepared hears COMMIT, whatever has been forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from raftcoord import limits
from raftcoord.core.commands import Heuristic, Settle
from raftcoord.core.decisions import Damage, Result
from raftcoord.env import Env
from raftcoord.errors import LocalProtocolError, Overloaded, RaftcoordError, Unavailable
from raftcoord.node import answers, requests
from raftcoord.node.agreement import Agreement
from raftcoord.rpc.connection import Connection
from raftcoord.types import TxId, Verdict

_FATE: Final = "whether that was recorded is not known; ask for the same again, that is safe"


class Damages:
    """The requests about damage, of one node's client port."""

    def __init__(self, agreement: Agreement, env: Env) -> None:
        self._loop = asyncio.get_running_loop()
        self._agreement = agreement
        self._env = env

    @property
    def pending(self) -> int:
        """How many branches are damaged and nobody has acknowledged it."""
        return self._agreement.ledger.damages_unseen

    def show(self, params: list[Any]) -> dict[str, Any]:
        """Damage as this node has applied it: first what nobody has acknowledged, each newest first."""
        limit, txid = requests.damage_listing(*requests.params(params, "{limit, txid}"))
        found = [damage for damage in self._agreement.ledger.damages() if txid is None or damage.txid == txid]
        found.sort(key=lambda damage: (bool(damage.acknowledged_by), -damage.at_ms, damage.txid, damage.branch))
        pending = sum(not damage.acknowledged_by for damage in found)
        rows = [_row(damage) for damage in found[:limit]]
        return {"damages": rows, "pending": pending, "total": len(found)}

    def report(self, conn: Connection, request_id: int, params: list[Any]) -> None:
        """Record damage. The first record for a branch stands."""
        raw, name, text = requests.params(params, "txid", "branch", "what")
        txid, branch, what = requests.txid(raw), requests.branch(name), requests.damage(text)
        command = Heuristic(txid, branch, what, self._env.wall_ms())
        if self._agreement.ledger.decision(txid) is not None:
            self._report(conn, request_id, command)
            return

        def reached(result: tuple[int, int] | RaftcoordError) -> None:
            if isinstance(result, RaftcoordError):
                refused: RaftcoordError = Unavailable(
                    "nothing was recorded: this node could not confirm the decision in time; report it again"
                )
                conn.reply_failure(request_id, refused)
                return
            try:
                self._report(conn, request_id, command)
            except RaftcoordError as error:
                conn.reply_failure(request_id, error)

        self._agreement.barrier(self._deadline(), reached)

    def _report(self, conn: Connection, request_id: int, command: Heuristic) -> None:
        txid = command.txid
        if self._agreement.ledger.damage(txid, command.branch) is not None:
            conn.reply(request_id, True)
            return
        self._check(command)

        def done(result: Result | RaftcoordError) -> None:
            if isinstance(result, RaftcoordError):
                self._failed(conn, request_id, txid, result)
            else:
                conn.reply(request_id, True)

        self._agreement.propose(command, self._deadline(), done)

    def _check(self, command: Heuristic) -> None:
        """Raise what is wrong with a report."""
        ledger, txid = self._agreement.ledger, command.txid
        decision = ledger.decision(txid)
        if decision is None:
            raise LocalProtocolError(
                f"transaction {txid} is {ledger.state(txid)}: only a branch of what is decided, and not forgotten, can be damaged"
            )
        if decision.verdict is Verdict.COMMIT and command.branch not in decision.branches:
            raise LocalProtocolError(
                f"transaction {txid} has no branch {command.branch!r}; its branches: {', '.join(decision.branches) or 'none'}"
            )
        # An ABORT names only those that had to be told. One that was committed all the same may be any.
        of_it = sum(damage.txid == txid for damage in ledger.damages()) if not decision.verdict else 0
        if of_it >= limits.BRANCHES_MAX:
            raise LocalProtocolError(
                f"{of_it} branches of transaction {txid} are damaged already, and it cannot have more"
            )
        if ledger.damages_unseen >= limits.DAMAGES_UNSEEN_MAX:
            raise Overloaded(too_many(ledger.damages_unseen))

    def acknowledge(self, conn: Connection, request_id: int, params: list[Any]) -> None:
        """Record who has seen the damage, and wait for that branch no longer. Told: the damage as it then stands."""
        raw, name, given = requests.params(params, "txid", "branch", "who")
        txid, branch, who = requests.txid(raw), requests.branch(name), requests.who(given)

        def recorded() -> None:
            damage = self._agreement.ledger.damage(txid, branch)
            if damage is None:  # settled, and behind the horizon by now
                conn.reply_failure(request_id, _nothing(txid, branch))
            else:
                conn.reply(request_id, _row(damage))

        def reached(result: tuple[int, int] | RaftcoordError) -> None:
            if isinstance(result, RaftcoordError):
                conn.reply_failure(request_id, _unconfirmed())
            elif self._agreement.ledger.damage(txid, branch) is None:
                conn.reply_failure(request_id, _nothing(txid, branch))
            else:
                self._settle(conn, request_id, [(txid, (branch,))], who, recorded)

        self._agreement.barrier(self._deadline(), reached)

    def acknowledge_all(self, conn: Connection, request_id: int, params: list[Any]) -> None:
        """The same for a portion of all that nobody has acknowledged: of one branch name, or of any (nil).

        Only what was reported up to ``upto_ms`` is meant: what came since, nobody has seen. Told: how many, and what is left.
        """
        name, upto, given = requests.params(params, "branch", "upto_ms", "who")
        branch, who = None if name is None else requests.branch(name), requests.who(given)
        if type(upto) is not int or not 0 <= upto <= limits.TIME_MS_MAX:
            raise LocalProtocolError("upto_ms: give the time (ms) up to which damage is meant")

        def meant() -> list[Damage]:
            return [
                damage
                for damage in self._agreement.ledger.damages()
                if not damage.acknowledged_by and damage.at_ms <= upto and branch in (None, damage.branch)
            ]

        def reached(result: tuple[int, int] | RaftcoordError) -> None:
            if isinstance(result, RaftcoordError):
                conn.reply_failure(request_id, _unconfirmed())
                return
            portion = meant()[: limits.BRANCHES_SETTLED_MAX]
            pairs = [(damage.txid, (damage.branch,)) for damage in portion]
            self._settle(
                conn,
                request_id,
                pairs,
                who,
                lambda: conn.reply(request_id, {"acknowledged": len(portion), "left": len(meant())}),
            )

        self._agreement.barrier(self._deadline(), reached)

    def _settle(
        self,
        conn: Connection,
        request_id: int,
        pairs: Sequence[tuple[TxId, tuple[str, ...]]],
        who: str,
        recorded: Callable[[], None],
    ) -> None:
        if not pairs:
            recorded()
            return

        def done(result: Result | RaftcoordError) -> None:
            if isinstance(result, RaftcoordError):
                self._failed(conn, request_id, pairs[0][0], result)
            else:
                recorded()

        try:
            self._agreement.propose(Settle(tuple(pairs), who, self._env.wall_ms()), self._deadline(), done)
        except (Overloaded, Unavailable) as refused:
            conn.reply_failure(request_id, refused)

    def _failed(self, conn: Connection, request_id: int, txid: TxId, error: RaftcoordError) -> None:
        definite = isinstance(error, (Unavailable, Overloaded))
        conn.reply_failure(request_id, error if definite else answers.in_doubt(txid, _FATE))

    def _deadline(self) -> float:
        return self._loop.time() + limits.ASK_MS / 1000


def too_many(unseen: int) -> str:
    """At the bound."""
    return (
        f"{unseen} damaged branches wait for somebody to look at them, and no more are recorded: look at raftcoord txn ls "
        "--heuristic, and acknowledge what is dealt with (raftcoord txn acknowledge)"
    )


def _unconfirmed() -> Unavailable:
    return Unavailable("nothing was acknowledged: this node could not confirm the damage in time; ask again")


def _row(damage: Damage) -> dict[str, Any]:
    return damage._asdict()


def _nothing(txid: TxId, branch: str) -> LocalProtocolError:
    return LocalProtocolError(
        f"no damage is recorded for branch {branch!r} of transaction {txid}; raftcoord txn ls --heuristic shows what there is"
    )
