"""The horizon: whether it is where the clocks and the retention put it, and whether all nodes have one retention.

Owed: a horizon in the future is an error, because nothing that is begun now is accepted; it is compared with the middle one of
the nodes' clocks, not with one that may be wrong. Never: a horizon that is moved.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Final

from raftcoord import limits
from raftcoord.api.answers import NodeStatus
from raftcoord.doctor.clocks import ClockOffset
from raftcoord.doctor.findings import Row, Severity

HORIZON: Final = "horizon"
RETENTION: Final = "retention"
_CLUSTER: Final = "cluster"
_LOWER: Final = (
    "set the clocks right first (the rows of each node); then: raftcoord horizon lower --as NAME, which says what it means "
    "(docs/operations.md, When the horizon was moved)"
)


def judge(
    answering: Mapping[str, NodeStatus], clocks: Mapping[str, ClockOffset], now_ms: int, retention_ms: int
) -> list[Row]:
    """``answering``: what the nodes say of themselves; ``now_ms``: this machine's clock, to which ``clocks`` refer.

    ``retention_ms``: as this machine's cluster.yaml has it.
    """
    told = {name: info["retention_ms"] for name, info in answering.items() if type(info.get("retention_ms")) is int}
    rows = list(_retentions(told, retention_ms))
    if clocks and answering:
        middle = statistics.median_low(clocks.values())
        time_ms = now_ms + middle.ahead_ms
        horizon_ms = max(info["horizon_ms"] for info in answering.values())
        rows.append(
            _horizon(horizon_ms - time_ms, middle.error_ms, min(told.values(), default=retention_ms), horizon_ms)
        )
    return rows


def _horizon(ahead_ms: float, error_ms: float, retention_ms: int, horizon_ms: int) -> Row:
    if not horizon_ms:
        return Row(_CLUSTER, HORIZON, Severity.OK, "nothing has been forgotten yet")
    if ahead_ms > error_ms:
        what = (
            f"it lies {_span(ahead_ms)} in the future of the nodes' clocks: every txid that is made until then is refused, and "
            "what is finished is forgotten at once. A majority of the clocks was wrong, or an older release ran"
        )
        return Row(_CLUSTER, HORIZON, Severity.ERROR, what, _LOWER)
    early_ms = ahead_ms + retention_ms - error_ms
    if early_ms > limits.ClockBounds.spread_ms_max:
        what = f"what was finished {_span(-ahead_ms)} ago is forgotten, and the retention is {_span(retention_ms)}"
        mend = "nothing: time makes it right. Clocks were wrong, or the retention was shorter before"
        return Row(_CLUSTER, HORIZON, Severity.WARNING, what, mend)
    return Row(_CLUSTER, HORIZON, Severity.OK, f"what was finished more than {_span(-ahead_ms)} ago is forgotten")


def _retentions(told: Mapping[str, int], here_ms: int) -> Iterator[Row]:
    for name, retention_ms in told.items():
        if retention_ms != here_ms:
            what = f"its retention is {_span(retention_ms)}, and this cluster.yaml says {_span(here_ms)}"
            mend = "write the same retention_hours into every cluster.yaml and restart the nodes, one after the other"
            yield Row(f"node {name}", RETENTION, Severity.WARNING, f"{what}; the leader's counts", mend)


def _span(ms: float) -> str:
    hours = ms / 3_600_000
    return f"{hours:.1f} h" if hours >= 1 else f"{ms / 60_000:.0f} min"
