"""What the asynchronous client asks about heuristic damage.

Owed: damage that was reported here is in the ledger when the call returns. Never: an outcome that changes.
"""

from __future__ import annotations

from typing import Any

from raftcoord import limits
from raftcoord.client import answers, checks
from raftcoord.client.answers import Damage, Damages
from raftcoord.client.effort import Ask
from raftcoord.types import TxId, checked_branch

TIMEOUT_S = 5.0
GRACE_S = limits.GRACE_MS_DEFAULT / 1000


class DamageRequests:
    """The part of AsyncClient that is about damage: a branch that was finished by somebody else, against its decision."""

    async def _ask(self, ask: Ask, timeout: float) -> Any:
        raise NotImplementedError

    async def damages(self, txid: TxId | str | None = None, *, limit: int = 100, timeout: float = TIMEOUT_S) -> Damages:
        """Damaged branches as one node has applied them, first those that nobody has acknowledged, each newest first.

        ``txid``: of that transaction alone. ``limit``: 1 to 500. Raises Unavailable.
        """
        query = {"limit": checks.damages_limit(limit), "txid": None if txid is None else TxId.parse(txid)}
        return answers.damages(await self._ask(Ask("damages", (query,)), timeout))

    async def report_damage(self, txid: TxId | str, branch: str, what: str, *, timeout: float = TIMEOUT_S) -> None:
        """Record that ``branch`` was finished outside the protocol. The first record for a branch stands.

        ``what``: what happened, to be read by a person (1 to 500 characters). Asking again is safe. Raises Unavailable if no
        node confirms it within ``timeout`` seconds; then repeat it.
        """
        made = checks.txid(txid)
        await self._ask(Ask("report_damage", (made, checked_branch(branch), checks.damage(what))), timeout)

    async def acknowledge(self, txid: TxId | str, branch: str, who: str, *, timeout: float = TIMEOUT_S) -> Damage:
        """Say that ``who`` has seen the damage of ``branch`` and dealt with it: the ledger waits for that branch no longer.

        Returns the damage as it stands: ``acknowledged_by`` may name somebody who came first. It stays listed. Asking again is
        safe. Raises LocalProtocolError if none is recorded, Unavailable if no node confirms it within ``timeout`` seconds.
        """
        ask = Ask("acknowledge", (TxId.parse(txid), checked_branch(branch), checks.who(who)))
        return answers.damage(await self._ask(ask, timeout))
