"""The recipe of docs/databases.md, killed by itself before the STOP-th move of its transaction (from 1; 0: never).

``python once.py CONFIG STOP URL OTHER_URL NOTES_URL``: OTHER_URL is a second SQLite file to work on, or "".
"""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

from raftcoord import Client
from raftcoord.client.transaction import Transaction
from raftcoord.databases import drivers

PAGE = (Path(__file__).parents[2] / "docs" / "databases.md").read_text()
WORK = re.compile(r"^( +)ledger\.cursor\(\)\.execute\(.*\n", re.MULTILINE)


def recipe(notes_url: str, other: Any) -> Any:
    """The function of the page; for notes in SQLite with its placeholder; with work on a second resource if there is one."""
    (program,) = re.findall(r"^```python exactly once\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    if notes_url.startswith("sqlite"):
        program = program.replace("%s", "?")
    if other is not None:
        second = (
            """tx.enlist(other, 'other').execute("UPDATE accounts SET amount = amount + 10 WHERE name = 'alice'")"""
        )
        program, found = WORK.subn(rf"\g<0>\g<1>{second}\n", program)
        assert found == 1
    names: dict[str, Any] = {"other": other}
    exec(program, names)
    return names["pay"]


def stop_before(stop: int) -> None:
    carry_out: Any = Transaction._carry_out
    count = 0

    def stopping(tx: Any, move: Any) -> Any:
        nonlocal count
        count += 1
        if count == stop:
            os.kill(os.getpid(), signal.SIGKILL)
        return carry_out(tx, move)

    Transaction._carry_out = stopping  # type: ignore[method-assign]


def connected(url: str) -> Any:
    """A connection as a program has one."""
    connection = drivers.connect(url).connection
    if url.startswith("sqlite"):
        connection.isolation_level = ""
    elif callable(connection.autocommit):
        connection.autocommit(False)
    else:
        connection.autocommit = False
    return connection


def main(config: str, stop: str, url: str, other_url: str, notes_url: str) -> None:
    other = connected(other_url) if other_url else None
    notes = drivers.connect(notes_url).connection
    pay = recipe(notes_url, other)
    with Client.from_config(config) as client:
        stop_before(int(stop))
        pay(client, connected(url), notes, 17)


if __name__ == "__main__":
    main(*sys.argv[1:])
