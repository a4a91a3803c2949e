"""What strangers say, made fit for a log or a terminal. A stranger is the program at the other end of a connection.

Owed: a text that came from elsewhere (a reason, a name, an error) takes one line of bounded length here, cannot forge another
line, and cannot steer a terminal; and however often a stranger gives cause, the lines that a log gets from one place are bounded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from raftcoord import limits

_CUT: Final = " ..."


def shown(text: object, length_max: int = limits.FOREIGN_LENGTH_MAX) -> str:
    """``text`` on one line, at most ``length_max`` characters of it. What is not printable is written as an escape sequence."""
    whole = text if type(text) is str else str(text)
    made = whole[:length_max]
    if not made.isprintable():
        made = "".join(one if one.isprintable() else _escaped(one) for one in made)
    return made if len(whole) <= length_max and len(made) <= length_max else made[:length_max] + _CUT


def _escaped(one: str) -> str:
    return one.encode("unicode_escape", "backslashreplace").decode("ascii")


class OneLine(logging.Formatter):
    """A record of the log on one line of bounded length, a stranger's words too. A traceback follows, its lines marked."""

    def format(self, record: logging.LogRecord) -> str:
        """Part of logging."""
        return shown_lines(super().format(record))


def shown_lines(text: str) -> str:
    """``text`` for a log: its first line, and what follows it marked as such, both bounded and without control characters."""
    first, *others = text[: limits.LOG_RECORD_LENGTH_MAX].split("\n")
    lines = [
        shown(first, limits.LOG_RECORD_LENGTH_MAX),
        *(f"| {shown(line, limits.LOG_RECORD_LENGTH_MAX)}" for line in others),
    ]
    return "\n".join(lines) + (_CUT if len(text) > limits.LOG_RECORD_LENGTH_MAX else "")


class Rationed:
    """A logger for what strangers cause: each kind of line is written so often, and then once a second with how many were not.

    ``clock``: seconds, monotonic. A kind is the line without its arguments; text among the arguments is ``shown``.
    """

    def __init__(self, log: logging.Logger, clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock
        self._kinds: dict[str, _Ration] = {}

    def info(self, line: str, *args: Any) -> None:
        self._write(logging.INFO, line, args)

    def warning(self, line: str, *args: Any) -> None:
        """Write the line, if it is its turn."""
        self._write(logging.WARNING, line, args)

    def error(self, line: str, *args: Any) -> None:
        self._write(logging.ERROR, line, args)

    def critical(self, line: str, *args: Any) -> None:
        self._write(logging.CRITICAL, line, args)

    def _write(self, level: int, line: str, args: tuple[Any, ...]) -> None:
        if not self._log.isEnabledFor(level):
            return
        left_out = self._kinds.setdefault(line, _Ration(self._clock())).take(self._clock())
        if left_out is None:
            return
        made = tuple(arg if isinstance(arg, (int, float)) else shown(arg) for arg in args)
        if left_out:
            self._log.log(level, line + " (%d more like this were left out)", *made, left_out)
        else:
            self._log.log(level, line, *made)


class _Ration:
    """Lines of one kind: FOREIGN_LINES_MAX at first, and one more each second."""

    __slots__ = ("_at", "_left", "_left_out")

    def __init__(self, now: float) -> None:
        self._at = now
        self._left = float(limits.FOREIGN_LINES_MAX)
        self._left_out = 0

    def take(self, now: float) -> int | None:
        """How many were left out before this one; None if this one is left out as well."""
        self._left = min(float(limits.FOREIGN_LINES_MAX), self._left + now - self._at)
        self._at = now
        if self._left < 1.0:
            self._left_out += 1
            return None
        self._left -= 1.0
        left_out, self._left_out = self._left_out, 0
        return left_out
