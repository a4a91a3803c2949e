"""What the asynchronous client asks about participants: which state goes by which name.

Owed: a change that was confirmed here is in the ledger, with who made it and when.
"""

from __future__ import annotations

from typing import Any

from raftcoord.client import answers, checks
from raftcoord.client.answers import ParticipantRow
from raftcoord.client.effort import Ask
from raftcoord.types import checked_name

TIMEOUT_S = 5.0


class ParticipantRequests:
    """The part of AsyncClient that is about the states behind the participants' names."""

    async def _ask(self, ask: Ask, timeout: float) -> Any:
        raise NotImplementedError

    async def participants(self, *, timeout: float = TIMEOUT_S) -> list[ParticipantRow]:
        """Each participant whose state one node knows, or that is connected to it, by name.

        ``timeout``: of each answer; thousands of participants need several. Raises Unavailable.
        """
        rows, is_cut = answers.participants(await self._ask(Ask("participants", ()), timeout))
        while is_cut:
            some, is_cut = answers.participants(await self._ask(Ask("participants", (rows[-1].name,)), timeout))
            rows += some
        return rows

    async def replace_participant(
        self, name: str, who: str, *, identity: str | None = None, timeout: float = TIMEOUT_S
    ) -> dict[str, Any]:
        """Let another state go by the name of a participant, in place of the one that is known, which is lost for good.

        ``identity``: of the new state (32 hex digits); None: the one that a node has refused under that name, so start the
        participant on its new state first. ``who``: whoever does this. Branches that the old state had prepared are told to
        the new one, which knows nothing of them: that is damage. Returns what is recorded: ``name``, ``identity``, ``before``,
        ``who``, ``at_ms``. Asking again is safe. Raises LocalProtocolError if the old state is connected or the name is not
        known, and Unavailable if no other state was refused or no node confirms it within ``timeout`` seconds.
        """
        ask = Ask("replace_participant", (checked_name(name, "participant"), identity, checks.who(who)))
        return answers.info(await self._ask(ask, timeout))

    async def forget_participant(self, name: str, who: str, *, timeout: float = TIMEOUT_S) -> dict[str, Any]:
        """Forget which state goes by the name of a participant that does not exist any more. The next that comes is bound.

        Raises as ``replace_participant``.
        """
        ask = Ask("forget_participant", (checked_name(name, "participant"), checks.who(who)))
        return answers.info(await self._ask(ask, timeout))
