"""Closing branches that will never come back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .options import Output, confirm, counted

if TYPE_CHECKING:
    from raftcoord.client.synchronous import Client
    from raftcoord.config import Config
    from raftcoord.types import TxId

_PAGE = 500


def close_one(txid: str, branch: str, who: str, why: str, config: Config, output: Output) -> None:
    """``txn close BRANCH TXID``."""
    from raftcoord.client.synchronous import Client
    from raftcoord.types import TxId

    parsed = TxId.parse(txid)
    with Client.from_config(config, name="txn") as client:
        closed = client.close_branches({parsed: [branch]}, who, why)
    said = "is closed" if closed else "has acknowledged: there is nothing to close"
    output.result({"closed": closed}, f"branch {branch} of {parsed} {said}")


def close_all(branch: str, who: str, why: str, yes: bool, config: Config, output: Output) -> None:
    """``txn close BRANCH --all``."""
    from raftcoord.client.synchronous import Client

    with Client.from_config(config, name="txn") as client:
        waiting = _waiting(client, branch)
        if waiting:
            confirm(f"give up waiting for branch {branch} of {counted(len(waiting), 'committed transaction')}?", yes)
        closed = 0
        for start in range(0, len(waiting), _PAGE):
            closed += client.close_branches(dict.fromkeys(waiting[start : start + _PAGE], (branch,)), who, why)
    said = f"closed branch {branch} of {counted(closed, 'transaction')}"
    output.result(
        {"closed": closed}, said if waiting else f"no COMMIT waits for a branch {branch!r}; nothing was closed"
    )


def _waiting(client: Client, branch: str) -> list[TxId]:
    from raftcoord.types import State

    found: list[TxId] = []
    before: TxId | None = None
    while rows := client.transactions("open", limit=_PAGE, before=before):
        found += [row["txid"] for row in rows if branch in row["outstanding"] and row["state"] is State.COMMITTED]
        before = rows[-1]["txid"]
    return found
