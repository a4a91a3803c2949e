"""What the asynchronous client asks about heuristic damage.

Owed: damage that was reported here is in the ledger when the call returns. Never: an outcome that changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

        Returns the damage as it stands: ``acknowledged_by`` may name somebody who came first. It stays listed until it is older
        than the horizon. A branch that comes back all the same hears COMMIT. Asking again is safe. Raises LocalProtocolError if
        none is recorded, Unavailable if no node confirms it within ``timeout`` seconds.
        """
        ask = Ask("acknowledge", (TxId.parse(txid), checked_branch(branch), checks.who(who)))
        return answers.damage(await self._ask(ask, timeout))

    async def acknowledge_all(
        self, who: str, *, upto_ms: int, branch: str | None = None, timeout: float = TIMEOUT_S
    ) -> int:
        """As ``acknowledge``, for all damage that nobody has acknowledged; how many branches that were.

        ``upto_ms``: only what was reported until then (Unix time, ms; the ``at_ms`` of the newest that was looked at), because
        nobody has seen what came since. ``branch``: of that name alone. ``timeout``: for each 500 of them.
        """
        name, upto = None if branch is None else checked_branch(branch), checks.time_ms(upto_ms)
        count, left = 0, 1
        while left:
            done, left = answers.acknowledged(
                await self._ask(Ask("acknowledge_all", (name, upto, checks.who(who))), timeout)
            )
            count += done
        return count

    async def close_branches(
        self, branches: Mapping[TxId, Sequence[str]], who: str, why: str, *, timeout: float = TIMEOUT_S
    ) -> int:
        """Say that these branches of COMMITs will never come back, so that the ledger waits for them no longer.

        ``branches``: at most 500 in all, by txid. ``who`` and ``why`` are recorded; ``show`` gives them. The outcome is not
        changed and never forgotten: a branch that comes back all the same hears COMMIT. Returns how many are closed; those that
        have acknowledged meanwhile are not. Asking again is safe. Raises LocalProtocolError, and then none is closed, if one is
        not of a COMMIT or its participant is connected; Unavailable if no node confirms it within ``timeout`` seconds.
        """
        pairs = [(TxId.parse(txid), checks.branches(names)) for txid, names in branches.items()]
        return answers.closed(await self._ask(Ask("close", (pairs, checks.who(who), checks.why(why))), timeout))
