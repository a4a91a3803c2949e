"""What the tests of the hunt surround the simulations with: a planted bug, and simulations that come to no verdict."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from raftcoord.core.tables.decisions import FORGOTTEN, Decide, Decision, Decisions, Standing
from raftcoord.core.tables.table import CommandKind
from raftcoord.sim.simulation import Report, Settings, Simulation

SHORT = Settings(duration_s=2.0)
NOT_SETTINGS = 7
HANGS, DIES, RAISES = 3, 5, 7


def five() -> Settings:
    """Settings may be made by a function."""
    return Settings(nodes=5, duration_s=2.0)


def _decide(self: Decisions, command: Decide, term: int, index: int) -> Standing:
    if command.txid < self.bound:
        return FORGOTTEN
    made = Decision(
        command.txid,
        command.verdict,
        command.branches,
        command.branches,
        command.reason,
        command.branch,
        command.at_ms,
        term,
        index,
    )
    self._put(made)
    return Standing(made.state, made, True)


@contextmanager
def overwriting() -> Iterator[None]:
    """The last decision wins."""
    with mock.patch.dict(Decisions.commands, {1: CommandKind(Decide, _decide)}):
        yield


@contextmanager
def misbehaving() -> Iterator[None]:
    """Three seeds do not come to their end."""
    run = Simulation.run

    def misbehave(self: Simulation) -> Report:
        match self._seed:
            case n if n == HANGS:
                time.sleep(600)
            case n if n == DIES:
                os._exit(9)
            case n if n == RAISES:
                raise KeyError("surprise")
        return run(self)

    with mock.patch.object(Simulation, "run", misbehave):
        yield


@contextmanager
def failing() -> Iterator[None]:
    """It cannot be entered."""
    raise RuntimeError("no such place")
    yield


def not_a_context() -> int:
    """It cannot be entered either."""
    return 7
