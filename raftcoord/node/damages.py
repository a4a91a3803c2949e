"""Heuristic damage as clients see it: reported, listed, acknowledged.

Owed: damage that was reported is recorded once, in the ledger, and is listed for ever; what nobody has acknowledged comes
first. Acknowledging it is a person's word that the branch is dealt with, so the ledger waits for that branch no longer, and the
transaction can be retired. Never: an outcome that is changed; damage that is dropped.

Why the record must stay: a branch that is still prepared when its transaction is forgotten is rolled back, by the argument that
every named branch had acknowledged (answers.for_branch). For a damaged branch a person acknowledged, so it is left alone.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from raftcoord import limits
from raftcoord.core.commands import Acknowledge, Command, Complete, Heuristic
from raftcoord.core.decisions import Damage, Result
from raftcoord.env import Env
from raftcoord.errors import LocalProtocolError, Overloaded, RaftcoordError, Unavailable
from raftcoord.node import answers, requests
from raftcoord.node.agreement import Agreement
from raftcoord.rpc.connection import Connection
from raftcoord.types import TxId

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
        return sum(not damage.acknowledged_by for damage in self._agreement.ledger.damages())

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
        now_ms = self._env.wall_ms()
        requests.decidable(txid, now_ms)
        if self._agreement.ledger.damage(txid, branch) is not None:
            conn.reply(request_id, True)
            return

        def done(result: Result | RaftcoordError) -> None:
            if isinstance(result, RaftcoordError):
                self._failed(conn, request_id, txid, result)
            else:
                conn.reply(request_id, True)

        self._agreement.propose(Heuristic(txid, branch, what, now_ms), self._deadline(), done)

    def acknowledge(self, conn: Connection, request_id: int, params: list[Any]) -> None:
        """Record who has seen the damage, and wait for that branch no longer. Told: the damage as it then stands."""
        raw, name, given = requests.params(params, "txid", "branch", "who")
        txid, branch, who = requests.txid(raw), requests.branch(name), requests.who(given)

        def reached(result: tuple[int, int] | RaftcoordError) -> None:
            if isinstance(result, RaftcoordError):
                failure = Unavailable(
                    "nothing was acknowledged: this node could not confirm the damage in time; ask again"
                )
                conn.reply_failure(request_id, failure)
            elif self._agreement.ledger.damage(txid, branch) is None:
                conn.reply_failure(request_id, _nothing(txid, branch))
            else:
                self._record(conn, request_id, txid, branch, [Acknowledge(txid, branch, who, self._env.wall_ms())])

        self._agreement.barrier(self._deadline(), reached)

    def _record(self, conn: Connection, request_id: int, txid: TxId, branch: str, commands: list[Command]) -> None:
        """Propose the first of ``commands``, and when it is applied go on; in the end tell what stands."""
        ledger = self._agreement.ledger
        damage, decision = ledger.damage(txid, branch), ledger.decision(txid)
        assert damage is not None  # damage is never dropped
        if not commands and decision is not None and branch in decision.outstanding:
            commands = [Complete(((txid, (branch,)),))]
        if not commands:
            conn.reply(request_id, _row(damage))
            return

        def done(result: Result | RaftcoordError) -> None:
            if isinstance(result, RaftcoordError):
                self._failed(conn, request_id, txid, result)
            else:
                self._record(conn, request_id, txid, branch, commands[1:])

        try:
            self._agreement.propose(commands[0], self._deadline(), done)
        except (Overloaded, Unavailable) as refused:  # what was proposed before it stands, and doing it again is safe
            conn.reply_failure(request_id, refused)

    def _failed(self, conn: Connection, request_id: int, txid: TxId, error: RaftcoordError) -> None:
        definite = isinstance(error, (Unavailable, Overloaded))
        conn.reply_failure(request_id, error if definite else answers.in_doubt(txid, _FATE))

    def _deadline(self) -> float:
        return self._loop.time() + limits.ASK_MS / 1000


def _row(damage: Damage) -> dict[str, Any]:
    return damage._asdict()


def _nothing(txid: TxId, branch: str) -> LocalProtocolError:
    return LocalProtocolError(
        f"no damage is recorded for branch {branch!r} of transaction {txid}; raftcoord txn ls --heuristic shows what there is"
    )
