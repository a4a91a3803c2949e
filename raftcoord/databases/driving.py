"""The one loop that carries out what a generator yields: a protocol's statements, and the moves of a commit.

Owed: whatever is yielded is carried out once and in order; its result is sent back, and its error thrown in. Also Ctrl-C or a
cancellation that comes between two of them is thrown in, so that the generator can clean up. Never: an error that is lost.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Generic, TypeVar, cast

_Y = TypeVar("_Y")
_T = TypeVar("_T")


class Driven(Generic[_Y, _T]):
    """A generator, to be run once. ``thrown_in``: the errors that it is shown; any other closes it, and goes on."""

    def __init__(self, steps: Generator[_Y, Any, _T], *thrown_in: type[BaseException]) -> None:
        self._steps = steps
        self._thrown_in = thrown_in
        self._result: Any = None
        self._error: BaseException | None = None
        self._is_over = False
        self._returned: _T | None = None

    def run(self, carry_out: Callable[[_Y], Any]) -> _T:
        """What the generator returns or raises."""
        while not self._is_over:
            try:
                self._result = carry_out(self._next())
            except BaseException as error:
                self._fail(error)
        return cast("_T", self._returned)

    async def run_async(self, carry_out: Callable[[_Y], Awaitable[Any]]) -> _T:
        """The same, awaited."""
        while not self._is_over:
            try:
                self._result = await carry_out(self._next())
            except BaseException as error:
                self._fail(error)
        return cast("_T", self._returned)

    def _next(self) -> _Y:
        error, self._error = self._error, None
        return self._steps.send(self._result) if error is None else self._steps.throw(error)

    def _fail(self, error: BaseException) -> None:
        """``error`` is being handled: the generator has raised it, or returned, or a step of it has failed."""
        self._result = None
        if inspect.getgeneratorstate(self._steps) != inspect.GEN_CLOSED:
            if not isinstance(error, self._thrown_in):
                self._steps.close()
                raise
            self._error = error
        elif isinstance(error, StopIteration):
            self._is_over, self._returned = True, error.value
        else:
            raise
