"""raftcoord submit: one transaction from JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

import click

from .errors import ABORTED
from .options import Number, Output, with_config, with_output

if TYPE_CHECKING:
    from raftcoord.config import Config

_EXAMPLE = '{"branches": {"bank-a": [{"op": "add", "key": "alice", "amount": -10, "min": 0}], "bank-b": [...]}}'

_DIGITS_MAX = 20


@click.command()
@click.argument("file", type=click.File("r", encoding="utf-8"))
@click.option("--timeout", type=Number(0.001, 600), default=10.0, show_default=True, help="Seconds until the outcome.")
@click.option("--txid", help="The transaction's id, 32 hex digits of a UUIDv7; made if not given. One id runs once.")
@click.option(
    "--wait",
    type=click.Choice(["decided", "completed"]),
    default="decided",
    show_default=True,
    help="Answer when the outcome is decided, or when every participant has acknowledged it.",
)
@with_config
@with_output
def submit(file: IO[str], timeout: float, txid: str | None, wait: str, config: Config, output: Output) -> int:
    """Run one transaction, read from FILE, or from standard input if FILE is '-'.

    \b
    {"branches": {
        "bank-a": [{"op": "add", "key": "alice", "amount": -10, "min": 0}],
        "bank-b": [{"op": "add", "key": "bob", "amount": 10}]}}

    Exit code 0: committed; 3: aborted, and nothing happened; 4: in doubt, and the message says how to learn the outcome.
    """
    from raftcoord.client.synchronous import Client
    from raftcoord.types import TxId

    branches = read_branches(file)
    chosen = TxId.new() if txid is None else TxId.parse(txid)
    try:
        with Client.from_config(config, name="submit") as client:
            outcome = client.submit(branches, txid=chosen, timeout=timeout, wait=wait)
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(f"it may have been decided: raftcoord txn resolve {chosen}")
        raise
    value = {
        "txid": str(outcome.txid),
        "state": str(outcome.state),
        "committed": outcome.committed,
        "reason": outcome.reason,
        "branch": outcome.branch,
        "term": outcome.term,
        "index": outcome.index,
    }
    from raftcoord.foreign import shown

    why = f" by {shown(outcome.branch)}" * bool(outcome.branch) + f": {shown(outcome.reason)}" * (not outcome.committed)
    output.result(value, f"{outcome.state} {outcome.txid} (term {outcome.term}, index {outcome.index}){why}")
    return 0 if outcome.committed else ABORTED


def read_branches(file: IO[str]) -> dict[str, Any]:
    """The branches that ``file`` writes. Raises ConfigError that names line and column."""
    name = "standard input" if file.name in ("-", "<stdin>") else str(Path(file.name))
    try:
        text = file.read()
        if not text.strip():
            _refuse(f"{name} is empty; write {_EXAMPLE}")
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant, parse_int=_integer)
    except json.JSONDecodeError as error:
        _refuse(f"{name}:{error.lineno}:{error.colno}: not JSON: {error.msg}; write {_EXAMPLE}")
    except UnicodeDecodeError:
        _refuse(f"{name}: not UTF-8; save it as UTF-8 text")
    except RecursionError:
        _refuse(f"{name}: nested too deeply for a transaction; write {_EXAMPLE}")
    except ValueError as error:
        _refuse(f"{name}: {error}")
    if not isinstance(value, dict) or set(value) != {"branches"} or not isinstance(value["branches"], dict):
        _refuse(
            f"{name}: a transaction has the one key 'branches', with a payload for each participant; write {_EXAMPLE}"
        )
    branches: dict[str, Any] = value["branches"]
    return branches


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} is given twice in one object; keep one of the two")
    return value


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS_MAX:
        raise ValueError(f"an integer of {len(digits)} digits; amounts are integers (cents) of at most 64 bits")
    return int(digits)


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number; amounts are integers (cents)")


def _refuse(message: str) -> NoReturn:
    from raftcoord.errors import ConfigError

    raise ConfigError(message) from None
