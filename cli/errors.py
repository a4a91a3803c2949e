"""What went wrong, as an exit code and one sentence.

Exit codes: 0 committed or held, 1 internal, 2 usage, 3 aborted, 4 in doubt, 5 unavailable or overloaded, 6 a promise was
broken, 130 interrupted.
"""

from __future__ import annotations

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


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether ``-o json`` stands among the arguments, also where they are wrong and cannot be parsed."""
    following = zip(arguments, [*arguments[1:], ""], strict=True)
    return any(
        (here in ("-o", "--output") and there == "json") or here in ("-ojson", "--output=json")
        for here, there in following
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
    if isinstance(error, RaftcoordError):
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
    """The same for a command line that cannot be understood: click's own words, which name the option."""
    if as_json:
        _say("Usage", _one_line(error.format_message()), error.exit_code, True, {})
    else:
        error.show()
    return error.exit_code


def _say(kind: str, message: str, code: int, as_json: bool, detail: dict[str, Any]) -> None:
    if as_json:
        click.echo(json.dumps({"error": {"kind": kind, "message": message, "exit_code": code, **detail}}))
    else:
        click.echo(f"error: {message}", err=True)
    sys.stdout.flush()


def _detail(error: BaseException) -> dict[str, Any]:
    names = ("txid", "reason", "branch")
    found = {name: getattr(error, name, None) for name in names}
    return {name: str(value) for name, value in found.items() if value is not None}


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
