"""raftcoord resolver run: finish what crashed programs leave prepared in databases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .errors import BROKEN, IN_DOUBT, UNAVAILABLE
from .groups import Commands
from .options import Number, Output, with_config, with_output

if TYPE_CHECKING:
    from raftcoord.config import Config
    from raftcoord.databases.resolver.serve import Looked


@click.group(cls=Commands)
def resolver() -> None:
    """Finish what crashed programs leave prepared in databases."""


@resolver.command()
@click.option("--once", is_flag=True, help="Finish what can be finished now, show what was found, and end.")
@click.option(
    "--safety",
    type=Number(0.1, 3600),
    default=1.2,
    show_default=True,
    help="Seconds for which an undecided branch is left to its program, before its transaction is aborted.",
)
@with_config
@with_output
def run(once: bool, safety: float, config: Config, output: Output) -> int:
    """Look after every resource of cluster.yaml until Ctrl-C. Several may run at once.

    What is decided is carried out; what is undecided for longer than --safety is aborted; what cannot be accounted for is left
    alone and reported. A branch of another cluster is never touched.

    Exit code with --once: 0 all is in order, 4 something was left alone, 5 a resource cannot be reached, 6 damage was found.
    """
    from raftcoord.databases.resolver import serve

    if not once:
        names = [resource.name for resource in config.resources]
        ready = {"resolver": config.cluster, "resources": names, "ready": True}
        serve.serve(config, lambda line: output.line(ready, line), safety_s=safety)
        return 0
    found = serve.once(config, safety_s=safety)
    output.result({"resources": [_json(each) for each in found]}, "\n".join(map(_text, found)))
    if any(each.seen is not None and each.seen.damaged for each in found):
        return BROKEN
    if any(each.seen is None for each in found):
        return UNAVAILABLE
    return IN_DOUBT if any(each.seen is not None and each.seen.left for each in found) else 0


def _json(each: Looked) -> dict[str, object]:
    seen = {} if each.seen is None else each.seen.to_json()
    return {
        "name": each.name,
        "where": each.where,
        "reachable": each.seen is not None,
        "why": each.trouble or None,
        **seen,
    }


def _text(each: Looked) -> str:
    from raftcoord.databases.resolver.sweep_report import by_reason

    head = f"{each.name} ({each.where})"
    seen = each.seen
    if seen is None:
        return click.style(f"{head}: {each.trouble}", fg="red")
    more = [f"{len(seen.waiting)} to be tried again"] if seen.waiting else []
    more += [f"{seen.foreign} of other clusters, not touched"] if seen.foreign else []
    lines = [f"{head}: {', '.join([seen.text() or 'nothing to do', *more])}"]
    lines += [click.style(f"  damaged: {gid}: {why}", fg="red") for gid, why in seen.damaged]
    lines += [click.style(f"  left alone: {line}", fg="yellow") for line in by_reason(seen.left)]
    return "\n".join(lines)
