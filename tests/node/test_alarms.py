"""Many deadlines on one timer."""

from __future__ import annotations

import asyncio
from typing import Any

from node.world import until
from raftcoord.node import alarms as module
from raftcoord.node.alarms import Alarms


async def test_alarms_ring_in_order_of_their_times_and_then_of_their_making() -> None:
    alarms, rung = Alarms(), []
    now = alarms.time()
    for name, when in [("c", 0.003), ("a", 0.001), ("b", 0.002), ("c2", 0.003)]:
        alarms.at(now + when, lambda name=name: rung.append(name))
    await until(lambda: len(rung) == 4)
    assert rung == ["a", "b", "c", "c2"]
    assert len(alarms) == 0


async def test_a_cancelled_alarm_does_not_ring_and_cancelling_again_does_nothing() -> None:
    alarms, rung = Alarms(), []
    first = alarms.after(1, lambda: rung.append("first"))
    alarms.after(2, lambda: rung.append("second"))
    alarms.cancel(first)
    alarms.cancel(first)
    alarms.cancel(None)
    assert len(alarms) == 1
    await until(lambda: rung)
    assert rung == ["second"]
    alarms.cancel(first)
    assert len(alarms) == 0


async def test_an_alarm_may_set_and_cancel_others_when_it_rings() -> None:
    alarms, rung = Alarms(), []
    at = alarms.time()
    victim = None

    def ring() -> None:
        rung.append("first")
        alarms.cancel(victim)
        alarms.after(0, lambda: rung.append("next"))

    alarms.at(at, ring)
    victim = alarms.at(at, lambda: rung.append("victim"))
    alarms.after(60_000, lambda: rung.append("far"))
    await until(lambda: len(rung) == 2)
    assert rung == ["first", "next"]
    assert len(alarms) == 1


async def test_an_alarm_that_fails_does_not_silence_the_others() -> None:
    seen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
    alarms, rung = Alarms(), []
    alarms.after(0, lambda: 1 // 0)
    alarms.after(0, lambda: rung.append("other"))
    await until(lambda: rung)
    assert [type(context["exception"]) for context in seen] == [ZeroDivisionError]


async def test_cancelled_alarms_do_not_pile_up() -> None:
    alarms = Alarms()
    made = [alarms.after(60_000, lambda: None) for _ in range(4 * module._SWEEP_MIN)]
    for alarm in made[1:]:
        alarms.cancel(alarm)
    assert len(alarms) == 1
    assert len(alarms._heap) <= 2 * module._SWEEP_MIN


async def test_nothing_rings_after_close() -> None:
    alarms, rung = Alarms(), []
    alarms.after(0, lambda: rung.append("late"))
    alarms.close()
    other = Alarms()
    other.after(1, lambda: rung.append("other"))
    await until(lambda: rung)
    assert rung == ["other"]
