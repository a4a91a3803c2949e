"""Clocks: how far the nodes' are from each other, and from this machine's.

Owed: a difference is told only as far as it is certain, that is, beyond what the round trip leaves open. Outcomes do not depend
on clocks; what does is said with each finding (limits.py). Never: a clock that is set.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Final, NamedTuple

from raftcoord import limits
from raftcoord.doctor.findings import Row, Severity

APART_MS: Final = 1_000
"""How far a clock may be off before it is worth a warning (ms): NTP keeps machines within tens of milliseconds."""

CHECK: Final = "clock"
_NTP: Final = "let NTP keep that machine's clock: timedatectl set-ntp true, or chronyc tracking to see why it does not"


class ClockOffset(NamedTuple):
    """A node's clock against this machine's: how far ahead (ms; negative: behind), give or take ``error_ms``."""

    ahead_ms: float
    error_ms: float


def measured(asked_ms: float, told_ms: float, took_ms: float) -> ClockOffset:
    """The node said ``told_ms`` at some moment of ``took_ms`` after ``asked_ms`` here; half of that is its best guess."""
    return ClockOffset(told_ms - (asked_ms + took_ms / 2), took_ms / 2)


def judge(clocks: Mapping[str, ClockOffset], retention_ms: int) -> list[Row]:
    """A row for each node, against the middle one of the nodes, and one for this machine."""
    if not clocks:
        return []
    middle = statistics.median_low(clocks.values())
    rows = [_node(name, clock, middle) for name, clock in clocks.items()]
    return [*rows, _here(-middle.ahead_ms, middle.error_ms, retention_ms)]


def _node(name: str, clock: ClockOffset, middle: ClockOffset) -> Row:
    subject, apart = f"node {name}", clock.ahead_ms - middle.ahead_ms
    certain = abs(apart) - clock.error_ms - middle.error_ms
    if certain <= APART_MS:
        what = (
            f"{_span(abs(clock.ahead_ms))} {_side(clock.ahead_ms)} this machine's, give or take {_span(clock.error_ms)}"
        )
        return Row(subject, CHECK, Severity.OK, what)
    what = f"{_span(abs(apart))} {_side(apart)} those of the other nodes"
    if certain > limits.ClockBounds.spread_ms_max:
        what += f": more than {limits.ClockBounds.spread_ms_max // 1000} s, so that it cannot agree on what may be forgotten"
        return Row(subject, CHECK, Severity.ERROR, what, _NTP)
    return Row(subject, CHECK, Severity.WARNING, what, _NTP)


def _here(ahead_ms: float, error_ms: float, retention_ms: int) -> Row:
    certain = abs(ahead_ms) - error_ms
    what = f"{_span(abs(ahead_ms))} {_side(ahead_ms)} those of the nodes"
    if ahead_ms > 0 and certain > limits.ClockBounds.future_ms_max:
        return Row(
            HERE, CHECK, Severity.ERROR, f"{what}: they refuse the txids made here, which lie in the future", _NTP
        )
    if ahead_ms < 0 and certain > retention_ms:
        return Row(HERE, CHECK, Severity.ERROR, f"{what}: txids made here are older than what they remember", _NTP)
    verdict = Severity.WARNING if certain > APART_MS else Severity.OK
    return Row(HERE, CHECK, verdict, what, _NTP if verdict else "")


HERE: Final = "this machine"


def _side(ahead_ms: float) -> str:
    return "ahead of" if ahead_ms > 0 else "behind"


def _span(ms: float) -> str:
    if ms < 1_000:
        return f"{ms:.0f} ms"
    return f"{ms / 1000:.1f} s" if ms < 120_000 else f"{ms / 60_000:.0f} min"
