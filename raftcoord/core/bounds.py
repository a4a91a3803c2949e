"""What no node proposes: fields of a command that are well-formed and beyond every bound.

Owed: ``excess`` says what is wrong with such a command, so that an entry with it is refused where it comes in, before it is in
any log. One wrong number that is replicated could not be taken back. Never asked of an entry that is in a log: what is there
is applied or halts the node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from raftcoord import limits
from raftcoord.core.commands import (
    Acknowledge,
    Bind,
    Close,
    Command,
    Complete,
    Decide,
    Heuristic,
    Lower,
    Retire,
    Settle,
)
from raftcoord.types import TxId


def excess(command: Command, horizon_ms_max: int) -> str:
    """What of ``command`` is beyond its bound, or "". ``horizon_ms_max``: the latest time to which the horizon may move."""
    if type(command) is Decide:  # every decision passes here on every node
        within = (
            len(command.branches) <= limits.BRANCHES_MAX
            and len(command.reason) <= limits.REASON_LENGTH_MAX
            and len(command.branch) <= limits.NAME_LENGTH_MAX
            and 0 <= command.at_ms <= limits.TIME_MS_MAX
        )
        return "" if within else f"a decision of {command.txid} with a field beyond its bound"
    if type(command) is Retire:
        late = command.before_ms > horizon_ms_max
        return f"a horizon at {command.before_ms} ms, years ahead of this node's clock" if late else ""
    rule = _RULES.get(type(command))
    return "" if rule is None or rule(command) else f"a {type(command).__name__} with a field beyond its bound"


def _complete(command: Complete) -> bool:
    return all(len(branches) <= limits.BRANCHES_MAX for _, branches in command.acks)


def _heuristic(command: Heuristic) -> bool:
    return (
        len(command.branch) <= limits.NAME_LENGTH_MAX
        and len(command.what) <= limits.REASON_LENGTH_MAX
        and 0 <= command.at_ms <= limits.TIME_MS_MAX
    )


def _acknowledge(command: Acknowledge) -> bool:
    return (
        len(command.branch) <= limits.NAME_LENGTH_MAX
        and len(command.who) <= limits.WHO_LENGTH_MAX
        and 0 <= command.at_ms <= limits.TIME_MS_MAX
    )


def _lower(command: Lower) -> bool:
    return command.horizon_ms < command.was_ms and 0 < len(command.who) <= limits.WHO_LENGTH_MAX


def _bind(command: Bind) -> bool:
    return 0 <= command.at_ms <= limits.TIME_MS_MAX


def _named(pairs: tuple[tuple[TxId, tuple[str, ...]], ...]) -> bool:
    """Whether these are so many branches of each transaction as one may have, and names."""
    return all(
        len(branches) <= limits.BRANCHES_MAX and all(len(branch) <= limits.NAME_LENGTH_MAX for branch in branches)
        for _, branches in pairs
    )


def _close(command: Close) -> bool:
    return (
        _named(command.branches)
        and len(command.who) <= limits.WHO_LENGTH_MAX
        and len(command.why) <= limits.REASON_LENGTH_MAX
        and 0 <= command.at_ms <= limits.TIME_MS_MAX
    )


def _settle(command: Settle) -> bool:
    return (
        _named(command.damages)
        and len(command.who) <= limits.WHO_LENGTH_MAX
        and 0 <= command.at_ms <= limits.TIME_MS_MAX
    )


_RULES: Final[dict[type, Callable[[Any], bool]]] = {
    Lower: _lower,
    Complete: _complete,
    Heuristic: _heuristic,
    Acknowledge: _acknowledge,
    Bind: _bind,
    Close: _close,
    Settle: _settle,
}
