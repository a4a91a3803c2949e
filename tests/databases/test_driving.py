"""The loop that carries out what protocols and moves yield, with and without await."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any

import pytest

from raftcoord.databases.driving import Driven

Run = Callable[[Driven[Any, Any], Callable[[Any], Any]], Any]


def awaited(driven: Driven[Any, Any], carry_out: Callable[[Any], Any]) -> Any:
    async def carry_out_later(step: Any) -> Any:
        await asyncio.sleep(0)
        return carry_out(step)

    return asyncio.run(driven.run_async(carry_out_later))


@pytest.fixture(params=[Driven.run, awaited], ids=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Run:
    return request.param  # type: ignore[no-any-return]


def steps(seen: list[object]) -> Generator[str, int, int]:
    """Two steps; the sum of their results, 100 for one that failed."""
    total = 0
    try:
        for name in ("first", "second"):
            try:
                total += yield name
            except (ValueError, StopIteration, KeyboardInterrupt) as error:
                seen.append(error)
                total += 100
    except GeneratorExit:
        seen.append("closed")
        raise
    return total


def failing(error: BaseException) -> Callable[[str], int]:
    def carry_out(step: str) -> int:
        if step == "first":
            raise error
        return 1

    return carry_out


def test_results_are_sent_back_and_what_it_returns_is_returned(run: Run) -> None:
    assert run(Driven(steps([])), len) == len("first") + len("second")


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt()], ids=repr)
def test_the_error_of_a_step_is_thrown_in_and_the_next_step_is_carried_out(run: Run, error: BaseException) -> None:
    seen: list[object] = []
    assert run(Driven(steps(seen), ValueError, KeyboardInterrupt), failing(error)) == 101
    assert seen == [error]


def test_any_other_error_closes_it_and_goes_on(run: Run) -> None:
    seen: list[object] = []
    with pytest.raises(KeyboardInterrupt):
        run(Driven(steps(seen), ValueError), failing(KeyboardInterrupt()))
    assert seen == ["closed"]


def test_a_step_that_raises_stop_iteration_is_no_end() -> None:
    """A generator of the driver's, say, that had nothing more. A coroutine cannot raise it."""
    seen: list[object] = []
    assert Driven(steps(seen), Exception).run(failing(StopIteration(7))) == 101
    assert isinstance(seen[0], StopIteration)


def test_what_it_does_not_handle_comes_out_of_it(run: Run) -> None:
    error = OSError("lost")
    with pytest.raises(OSError, match="lost") as raised:
        run(Driven(steps([]), OSError), failing(error))
    assert raised.value is error


def test_one_without_a_step_only_returns(run: Run) -> None:
    def none() -> Generator[str, int, int]:
        return 5
        yield

    assert run(Driven(none()), len) == 5
