"""Links of the simulated network: whoever holds one back, it passes nothing until all of them have let go."""

from __future__ import annotations

import asyncio
import random

from raftcoord.sim.loop import Process, SimLoop
from raftcoord.sim.network import Network


class Ear(asyncio.Protocol):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.heard = b""

    def data_received(self, data: bytes) -> None:
        self.heard += data


class Line:
    """A connection from a to b."""

    def __init__(self) -> None:
        self.loop = SimLoop(random.Random(1), lambda process, error, message: None)  # type: ignore[abstract]
        self.network = Network(self.loop, random.Random(2))
        self.ear = Ear()
        a, b = Process(self.loop, "a"), Process(self.loop, "b")
        with self.loop.acting(b):
            self.network.listen(b, lambda: self.ear, "127.0.0.2", 1)
        self.dialing = a.spawn(self.network.connect(a, asyncio.Protocol, "127.0.0.2", 1), "dial")
        self.pass_time()

    def pass_time(self) -> None:
        self.loop.run_until(self.loop.now + 1.0)

    def say(self, data: bytes) -> None:
        self.dialing.result()[0].write(data)
        self.pass_time()


def test_a_link_that_two_hold_back_passes_when_both_have_let_go() -> None:
    line = Line()
    for _ in range(2):
        line.network.clog("a", "b")
    line.say(b"x")
    line.network.unclog("a", "b")
    line.pass_time()
    assert line.ear.heard == b""
    line.network.unclog("a", "b")
    line.pass_time()
    assert line.ear.heard == b"x"


def test_whoever_lets_go_of_what_nobody_holds_changes_nothing() -> None:
    line = Line()
    line.network.unclog("a", "b")
    line.network.clog("a", "b")
    line.say(b"x")
    assert line.ear.heard == b""


def test_the_end_of_the_faults_heals_a_link_whoever_holds_it() -> None:
    line = Line()
    for _ in range(3):
        line.network.clog("a", "b")
    line.say(b"x")
    line.network.unclog_all()
    line.pass_time()
    assert line.ear.heard == b"x"
