"""What went wrong, as an exit code and one sentence.

Exit codes: 0 committed or held, 1 internal, 2 usage, 3 aborted, 4 in doubt, 5 unavailable or overloaded, 6 a promise was
broken, 130 interrupted.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, Final

import click

INTERNAL: Final = 1
USAGE: Final = 2
ABORTED: Final = 3
IN_DOUBT: Final = 4
UNAVAILABLE: Final = 5
BROKEN: Final = 6
INTERRUPTED: Final = 130

_WORD_MAX: Final = 80

_MESSAGE_LENGTH_MAX: Final = 20_000
"""Characters of an error: it may quote what a stranger said."""
"""Characters of a word of the command line that an error shows."""


_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether ``-o json`` stands among the arguments, also where they are wrong and cannot be parsed."""
    return any(each in ("-ojson", "--output=json") for each in arguments) or any(
        here in ("-o", "--output") and there == "json" for here, there in itertools.pairwise(arguments)
    )


def exit_code(error: BaseException) -> int:
    """The exit code for ``error``."""
    from raftcoord import errors

    table: tuple[tuple[type[BaseException], int], ...] = (
        (errors.Aborted, ABORTED),
        (errors.InDoubt, IN_DOUBT),
        (errors.Unavailable, UNAVAILABLE),
        (errors.Overloaded, UNAVAILABLE),
        (errors.ConfigError, USAGE),
        (errors.LocalProtocolError, USAGE),
    )
    return next((code for kind, code in table if isinstance(error, kind)), INTERNAL)


def report(error: BaseException, as_json: bool) -> int:
    """Say what happened and return the exit code."""
    from raftcoord.errors import RaftcoordError

    if os.environ.get("RAFTCOORD_TRACEBACK") == "1":
        traceback.print_exception(error)
    code = exit_code(error)
    notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        kind, message = "NoRoom", f"{error.strerror}: make room where the output goes, and in the temporary directory"
    elif isinstance(error, RaftcoordError):
        kind, message = type(error).__name__, _one_line(f"{error}{notes}")
    else:
        kind = "Internal"
        message = (
            f"{type(error).__name__}: {_one_line(f'{error}{notes}')}; this is a bug in raftcoord: run it again with "
            "RAFTCOORD_TRACEBACK=1 and report what that prints"
        )
    _say(kind, message, code, as_json, _detail(error))
    return code


def report_usage(error: click.ClickException, as_json: bool) -> int:
    """The same for a command line that cannot be understood: which word is wrong, and where the right ones are listed."""
    _say("Usage", _and_where(_usage(error), getattr(error, "ctx", None)), USAGE, as_json, {})
    return USAGE


def report_interrupt(interrupt: BaseException, as_json: bool) -> int:
    """The same for Ctrl-C. ``interrupt`` may carry notes: what became of the work."""
    carrier = interrupt.__cause__ or interrupt  # click raises Abort from the KeyboardInterrupt
    notes = "".join(f"; {note}" for note in getattr(carrier, "__notes__", ()))
    _say("Interrupted", f"interrupted{notes}", INTERRUPTED, as_json, {}, prefix="")
    return INTERRUPTED


def _usage(error: click.ClickException) -> str:
    """click's own words in the form of all others."""
    context = getattr(error, "ctx", None)
    if isinstance(error, click.NoSuchOption) and context is not None:
        from raftcoord.errors import did_you_mean

        known = [name for parameter in context.command.get_params(context) for name in parameter.opts]
        return f"there is no option {error.option_name!r}{did_you_mean(error.option_name, known)}"
    words = _one_line(error.format_message()).removesuffix(".").split(" ")
    text = " ".join(
        word if len(word) <= _WORD_MAX else f"{word[: _WORD_MAX // 2]}...{word[-_WORD_MAX // 2 :]}" for word in words
    )
    return text[:1].lower() + text[1:]


def _and_where(message: str, context: click.Context | None) -> str:
    if context is None:
        return message
    return f"{message}{' See' if message.endswith('?') else '; see'} {context.command_path} --help"


def _say(kind: str, message: str, code: int, as_json: bool, detail: dict[str, Any], prefix: str = "error: ") -> None:
    if as_json:
        click.echo(json.dumps({"error": {"kind": kind, "message": message, "exit_code": code, **detail}}))
    else:
        click.echo(f"{prefix}{message}", err=True)
    sys.stdout.flush()


def _detail(error: BaseException) -> dict[str, Any]:
    names = ("txid", "reason", "branch")
    found = {name: getattr(error, name, None) for name in names}
    return {name: str(value) for name, value in found.items() if value is not None}


def _one_line(text: object) -> str:
    from raftcoord.foreign import shown

    return shown(" ".join(str(text).split()), _MESSAGE_LENGTH_MAX)
