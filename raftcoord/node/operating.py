"""What operators ask of a node: the members changed, a new state for one that is lost, branches closed, a horizon lowered.

Owed: an answer that says what is recorded, or what is to be done first. Each change is in the ledger, under the name of
whoever made it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from raftcoord import limits
from raftcoord.env import Env
from raftcoord.errors import RaftcoordError
from raftcoord.node import lowering, membership, requests
from raftcoord.node.admission import Admission
from raftcoord.node.agreement import Agreement
from raftcoord.node.closing import Closing
from raftcoord.node.paging import Page
from raftcoord.rpc.connection import Connection


class Operating:
    """The requests of operators, of one node's client port. ``node``: its name."""

    def __init__(self, agreement: Agreement, admission: Admission, closing: Closing, env: Env, node: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._agreement = agreement
        self._admission = admission
        self._closing = closing
        self._env = env
        self._node = node

    @property
    def methods(self) -> dict[str, Callable[[Connection, int, list[Any]], None]]:
        """What is asked by which name."""
        return {
            "change_members": self.change_members,
            "lower_horizon": self.lower_horizon,
            "participants": self.participants,
            "replace_participant": self.replace_participant,
            "forget_participant": self.forget_participant,
            "close": self.close,
        }

    def change_members(self, conn: Connection, request_id: int, params: list[Any]) -> None:
        """See membership.py."""
        step, name = requests.params(params, "step", "node")
        deadline = self._loop.time() + limits.ASK_MS / 1000
        membership.change(self._agreement, self._node, step, name, deadline, _answering(conn, request_id))

    def lower_horizon(self, conn: Connection, request_id: int, params: list[Any]) -> None:
        """See lowering.py."""
        who, after = requests.params(params, "who", "after_ms")
        name, after_ms = requests.who(who), lowering.checked_after(after)
        deadline = self._loop.time() + limits.ASK_MS / 1000
        lowering.lower(self._agreement, self._env, name, after_ms, deadline, _answering(conn, request_id))

    def participants(self, conn: Connection, request_id: int, params: list[Any]) -> None:
        """Which state goes by which name, as this node knows it: of those whose names follow ``after``, if one is given."""
        after = requests.branch(*requests.params(params, "after")) if params else ""
        page = Page()
        for row in self._admission.listed():
            if row["name"] > after and not page.add(row):
                break
        conn.reply(request_id, page.answer())

    def replace_participant(self, conn: Connection, request_id: int, params: list[Any]) -> None:
        """See admission.py."""
        name, identity, who = requests.params(params, "name", "identity", "who")
        self._admission.replace(name, identity, requests.who(who), _answering(conn, request_id))

    def forget_participant(self, conn: Connection, request_id: int, params: list[Any]) -> None:
        """See admission.py."""
        name, who = requests.params(params, "name", "who")
        self._admission.forget(name, requests.who(who), _answering(conn, request_id))

    def close(self, conn: Connection, request_id: int, params: list[Any]) -> None:
        """See closing.py."""
        pairs, who, why = requests.params(params, "[[txid, branches]]", "who", "why")
        self._closing.close(
            requests.closings(pairs), requests.who(who), requests.why(why), _answering(conn, request_id)
        )


def _answering(conn: Connection, request_id: int) -> Callable[[dict[str, Any] | RaftcoordError], None]:
    def done(result: dict[str, Any] | RaftcoordError) -> None:
        if isinstance(result, RaftcoordError):
            conn.reply_failure(request_id, result)
        else:
            conn.reply(request_id, result)

    return done
