"""Damaged branches, for people and for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .options import Output, confirm, counted, when

if TYPE_CHECKING:
    from raftcoord.api.answers import DamagePage, DamageRow
    from raftcoord.config import Config


def list_damages(limit: int, config: Config, output: Output) -> None:
    """``txn ls --heuristic``."""
    from raftcoord import limits
    from raftcoord.client.synchronous import Client

    with Client.from_config(config, name="txn") as client:
        found = client.damages(limit=min(limit, limits.DAMAGES_MAX))
    output.result(
        {"damages": [damage_json(damage) for damage in found.shown], "pending": found.pending, "total": found.total},
        _text(found),
    )


def acknowledge_all(who: str, branch: str | None, yes: bool, config: Config, output: Output) -> None:
    """``txn acknowledge --all``: up to the newest that is there now, because nobody has seen what comes later."""
    from raftcoord.client.synchronous import Client

    with Client.from_config(config, name="txn") as client:
        found = client.damages(limit=1)
        count = 0
        if found.pending:
            of = f" of branch {branch}" if branch else ""
            confirm(f"{found.pending} damaged branches wait: acknowledge all{of}, as {who}?", yes)
            count = client.acknowledge_all(who, upto_ms=found.shown[0].at_ms, branch=branch)
    output.result(
        {"acknowledged": count}, f"acknowledged by {who}: {counted(count, 'damaged branch', 'damaged branches')}"
    )


def damage_json(damage: DamageRow) -> dict[str, Any]:
    return {**damage._asdict(), "txid": str(damage.txid)}


def damage_text(damage: DamageRow) -> str:
    """In one line."""
    from raftcoord.foreign import shown

    seen = (
        f"acknowledged by {shown(damage.acknowledged_by)}" if damage.acknowledged_by else "acknowledged by nobody yet"
    )
    return f"{damage.txid} {shown(damage.branch)}: {shown(damage.what)} ({when(damage.at_ms)}; {seen})"


def _text(found: DamagePage) -> str:
    """Not a table: what happened is a sentence or two, and must be read whole."""
    if not found.total:
        return "no branch is damaged"
    left = found.total - len(found.shown)
    more = f"; {left} more, shown with a larger --limit" if left else ""
    advice = "; when one is dealt with: raftcoord txn acknowledge TXID BRANCH --as NAME" if found.pending else ""
    head = f"{found.pending} of {found.total} damaged branches wait for somebody to look at them{more}{advice}"
    return "\n".join([head, *map(damage_text, found.shown)])
