"""Bugs of raftcoord that the simulator found, each with the seed that shows it.

The seed holds now. Where the bug can be put back, the same seed must find it again: if it does not, the simulator has changed and
another seed must be looked for (``raftcoord sim run --with test_regressions:NAME`` from this directory).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple
from unittest import mock

import pytest

from raftcoord.consensus.peers import Peers
from raftcoord.consensus.pysyncobj.guard import Guarded
from raftcoord.sim import Settings, Simulation


def _a_refusal_moves_forward(self: Any, node: Any, message: Any) -> None:
    if message["term"] > self.term:
        self._newer_term(message["term"])
    if message["term"] != self.term or not self.is_leader:
        return
    following = self._SyncObj__raftNextIndex[node]
    message = {**message, "next_node_idx": min(message["next_node_idx"], self._log.last_index + 1)}
    self._SyncObj__onMessageReceived(node, message)
    if message["reset"]:
        self._send_now |= self._SyncObj__raftNextIndex[node] > self._log.first_index
        return
    ahead = max(self._SyncObj__raftNextIndex[node], following)
    self._SyncObj__raftNextIndex[node] = ahead
    if ahead <= self._log.last_index and not self._congested(node.id):
        self._send_now = True


def a_refusal_moves_a_leader_forward() -> AbstractContextManager[Any]:
    """A follower and its leader exchanged the same messages for ever, as fast as they could, and no entry came through."""
    return mock.patch.dict(Guarded._HANDLERS, {"next_node_idx": _a_refusal_moves_forward})


def a_clock_offset_is_kept_as_it_was_measured() -> AbstractContextManager[Any]:
    """A leader whose clock was set, or whose peers stood still with their links up, moved the horizon by days."""
    heard = Peers.heard

    def hears(self: Any, node: int, rows: list[Any], wall_ms: int) -> None:
        heard(self, node, rows, wall_ms)
        self.__dict__.setdefault("measured", {})[node] = wall_ms - self._env.wall_ms()

    def offsets(self: Any) -> dict[Any, int | None]:
        measured = self.__dict__.get("measured", {})
        return {self.names[i]: measured.get(i) for i in self._dialers}

    return mock.patch.multiple(Peers, heard=hears, clock_offsets=offsets)


class Found(NamedTuple):
    """``seed`` and ``nodes``: where; ``invariant``: what it broke; ``again``: the bug."""

    seed: int
    nodes: int
    invariant: str
    again: Callable[[], AbstractContextManager[Any]]


FOUND = [
    Found(120, 3, "liveness", a_refusal_moves_a_leader_forward),
    Found(2000008, 3, "forgets", a_clock_offset_is_kept_as_it_was_measured),
    Found(4000015, 3, "forgets", a_clock_offset_is_kept_as_it_was_measured),
]


@pytest.mark.parametrize("found", FOUND, ids=lambda found: f"{found.again.__name__} {found.seed}")
def test_the_seed_that_found_it_holds(found: Found) -> None:
    report = Simulation(found.seed, Settings(nodes=found.nodes)).run()
    assert report.held, report.violation


@pytest.mark.nightly
@pytest.mark.parametrize("found", FOUND, ids=lambda found: f"{found.again.__name__} {found.seed}")
def test_the_seed_finds_it_again_when_it_is_put_back(found: Found) -> None:
    with found.again():
        report = Simulation(found.seed, Settings(nodes=found.nodes)).run()
    assert report.violation is not None
    assert report.violation.invariant == found.invariant
