"""Bounds made small, so that what is rare in production happens in seconds: compaction, copies, forgetting, full queues.

They are the product's own bounds, in values that the world hands to everything that it starts.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from raftcoord.limits import ClockBounds, NodeBounds, ResolverBounds

_PROCESS_ID: Final = 4711
"""What every simulated process takes for its own: nodes tell it, and the machine's would make each replay another one."""


class _Disk(NamedTuple):
    """The room on every simulated disk, for the same reason: an error of a full one says how much there is."""

    free: int = 1 << 40


@dataclass(frozen=True)
class Knobs:
    """``retention_ms`` None: nothing is forgotten during the simulation. ``lock_waiters_max``: of each bank."""

    retention_ms: int | None
    clocks: ClockBounds
    node: NodeBounds
    resolver: ResolverBounds
    lock_waiters_max: int


def knobs(seed: int) -> Knobs:
    """As this seed says. The order of the draws is part of what a seed means."""
    rng = random.Random(f"{seed}/knobs")
    forgets = rng.random() < 0.35
    greedy = rng.random() < 0.15  # the log is cut as soon as it can be
    node = NodeBounds(
        wal_pages=rng.choice((8, 32, 256)),
        log_tail_entries=0 if greedy else rng.choice((3, 20, 60, 5000)),
        log_compact_slack=1 if greedy else rng.choice((2, 10, 30)),
        memory_decisions_max=rng.choice((8, 40, 100_000)),
        ask_ms=rng.choice((300, 3_000)),
        proposals_max=rng.choice((12, 65_536, 65_536)),
        prepares_open_max=rng.choice((3, 2_048)),
        retire_every_ms=700,
        retire_step_ms_max=7_000,
    )
    lock_waiters_max = rng.choice((1, 4_096))
    node = replace(
        node,
        acks_gathered_max=rng.choice((1, 5, 500)),
        acks_held_max=rng.choice((3, 100_000)),
        deliveries_pending_max=rng.choice((4, 10_000)),
        deliveries_in_flight_max=rng.choice((1, 256)),
        delivery_answer_ms=rng.choice((400, 5_000)),
        redrive_step=rng.choice((1, 500)),
        copy_chunk_bytes=rng.choice((1 << 10, 1 << 13, 1 << 19)),
        append_entries_max=rng.choice((1, 3, 1000)),
    )
    retention_ms = rng.choice((1_500, 4_000)) if forgets else None
    # In half of the seeds clocks agree closely, so that a horizon in the future is lowered to within the simulation.
    clocks = ClockBounds(future_ms_max=400, spread_ms_max=300) if rng.random() < 0.5 else ClockBounds()
    node = replace(node, appends_per_pass_max=rng.choice((1, 4)), ask_members_ms=rng.choice((300, 3_000)))
    resolver = ResolverBounds(
        settle_ms=rng.choice((10, 250)),
        open_ms=rng.choice((700, 5_000)),
        aborted_ms=rng.choice((1_000, 10_000)),
        damage_ms=rng.choice((1_500, 10_000)),
        retry_ms_max=2_000,  # no person looks
        forget_ms=rng.choice((1_500, 60_000)),
        retention_ms_min=1,
    )
    return Knobs(retention_ms, clocks, node, resolver, lock_waiters_max)


@contextmanager
def one_machine() -> Iterator[None]:
    """What the real machine would say of itself is the same in every simulation, for the time of the block."""
    with ExitStack() as stack:
        for where, name, value in ((os, "getpid", lambda: _PROCESS_ID), (shutil, "disk_usage", lambda path: _Disk())):
            stack.callback(setattr, where, name, getattr(where, name))
            setattr(where, name, value)
        yield
