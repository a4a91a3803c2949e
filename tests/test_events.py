"""Observers: each is given every event, and none disturbs what it observes."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import pytest

from raftcoord import limits
from raftcoord.events import Acknowledged, Asking, Observers
from raftcoord.types import TxId

ASKING = Asking(TxId.new(), "bank")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_observer_that_counts_is_given_every_event_until_it_is_detached() -> None:
    observers, seen = Observers(Clock()), Counter[type]()

    def count(event: Any) -> None:
        seen[type(event)] += 1

    assert not observers.wanted
    observers.attach(count)
    assert observers.wanted
    for event in (ASKING, ASKING, Acknowledged(ASKING.txid, "bank")):
        observers.tell(event)
    observers.detach(count)
    observers.tell(ASKING)
    assert not observers.wanted
    assert seen == {Asking: 2, Acknowledged: 1}


def test_an_observer_that_raises_disturbs_nobody_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    observers, seen = Observers(Clock()), []

    def broken(event: Any) -> None:
        raise ValueError(event)

    observers.attach(broken)
    observers.attach(seen.append)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            observers.tell(ASKING)
    assert seen == [ASKING] * 3
    assert len(caplog.records) == 1
    assert "failed on Asking" in caplog.text


@pytest.mark.parametrize("took_ms", [limits.OBSERVER_SLOW_MS - 1, limits.OBSERVER_SLOW_MS])
def test_an_observer_that_is_slow_is_left_out_for_a_hundred_times_as_long(
    took_ms: int, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    observers, slow, quick = Observers(clock), [], []

    def dawdle(event: Any) -> None:
        slow.append(event)
        clock.now += took_ms / 1000

    observers.attach(dawdle)
    observers.attach(quick.append)
    is_slow = took_ms >= limits.OBSERVER_SLOW_MS
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            observers.tell(ASKING)
        assert len(slow) == (1 if is_slow else 3)
        clock.now += took_ms / 1000 * limits.OBSERVER_REST
        observers.tell(ASKING)
    assert len(slow) == (2 if is_slow else 4)
    assert len(quick) == 4
    assert len(caplog.records) == is_slow


def test_what_ends_the_process_goes_on() -> None:
    observers = Observers(Clock())

    def interrupted(event: Any) -> None:
        raise KeyboardInterrupt

    observers.attach(interrupted)
    with pytest.raises(KeyboardInterrupt):
        observers.tell(ASKING)


def test_an_observer_that_holds_things_up_on_purpose_is_never_left_out() -> None:
    clock = Clock()
    observers, seen = Observers(clock), []

    def hold(event: Any) -> None:
        seen.append(event)
        clock.now += 60

    observers.attach(hold, holds=True)
    for _ in range(3):
        observers.tell(ASKING)
    assert len(seen) == 3
