"""The horizon: lowering it after wrong clocks have moved it into the future."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .groups import Commands
from .options import Output, when, with_config, with_output

if TYPE_CHECKING:
    from raftcoord.config import Config

SENTENCE = "what was forgotten stays forgotten"


@click.group(cls=Commands)
def horizon() -> None:
    """The time before which finished transactions are forgotten."""


@horizon.command()
@click.option("--as", "who", required=True, metavar="NAME", help="Who does this; it is recorded.")
@click.option(
    "--after",
    type=click.DateTime(["%Y-%m-%dT%H:%M:%S%z"]),
    help="The latest time that the clock of any machine with programs showed, if one was ahead: 2026-01-31T12:00:00+0000.",
)
@click.option("--say", metavar="SENTENCE", default="", help=f"That you know what it means: '{SENTENCE}'.")
@with_config
@with_output
def lower(who: str, after: object, say: str, config: Config, output: Output) -> None:
    """Lower a horizon in the future, so that new transactions are accepted.

    What is finished and older than the horizon is gone: its outcome cannot be asked for any more. That stays so for every txid
    made until now, and for the next six minutes. A txid that is made later is accepted again.

    All nodes must run, with clocks that agree. If the clock of a machine with programs was ahead of them while the horizon was
    wrong, say with --after how far: its txids must not be decided anew.
    """
    from datetime import datetime

    from raftcoord.client.synchronous import Client

    if say != SENTENCE:
        raise click.UsageError(
            "every txid that was made until now, and in the next six minutes, is refused for ever, and what was forgotten cannot "
            f"be asked for any more. If you know that, add: --say '{SENTENCE}'"
        )
    after_ms = int(after.timestamp() * 1000) if isinstance(after, datetime) else 0
    with Client.from_config(config, name="horizon") as client:
        found = client.lower_horizon(who, after_ms=after_ms)
    output.result(
        found,
        f"the horizon was lowered from {when(found['was_ms'])} to {when(found['horizon_ms'])}; later txids are accepted",
    )
