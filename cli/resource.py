"""raftcoord resource: the databases of cluster.yaml."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .errors import UNAVAILABLE, USAGE
from .groups import Commands
from .options import Output, complete_resource, with_config, with_output
from .tables import Column, PrintedTable

if TYPE_CHECKING:
    from rich.console import Group

    from raftcoord.config import Config
    from raftcoord.databases.resolver.listing import Listed


@click.group(cls=Commands)
def resource() -> None:
    """The databases of cluster.yaml."""


@resource.command()
@click.argument("name", required=False, shell_complete=complete_resource)
@with_config
@with_output
def init(name: str | None, config: Config, output: Output) -> int:
    """Make the table of marks in resource NAME, or in all resources.

    The table proves which branches were committed, and says whose it is, so that a connection to another database is refused.
    If it is there already, nothing is changed.

    What else the database lacks is shown. Exit code 2: it lacks something without which no branch can be prepared, or refuses;
    5: it cannot be reached.
    """
    from raftcoord.databases.resolver.listing import cluster_of, make_marks, named
    from raftcoord.errors import ConfigError, RaftcoordError

    rows: list[dict[str, Any]] = []
    lines, unfit, code = [], [], 0
    cluster = cluster_of(config)
    chosen = named(config, name)
    for each in chosen:
        each.url()  # a variable that is not set is an error before anything is made
    for each in chosen:
        try:
            is_named, findings = make_marks(config, each, cluster)
        except RaftcoordError as error:
            if name is not None:
                raise
            rows.append({"name": each.name, "error": str(error)})
            lines.append(click.style(str(error), fg="red"))
            code = max(code, USAGE if isinstance(error, ConfigError) else UNAVAILABLE)
            continue
        rows.append({"name": each.name, "named": is_named, "findings": [finding._asdict() for finding in findings]})
        whose = "with its name" if is_named else "the resolver will write its name into it, because no node answers yet"
        lines.append(f"{each.name} ({each.shown()}): the table of marks is there, {whose}")
        lines += [click.style(f"  {finding.what}: {finding.mend}", fg="yellow") for finding in findings]
        unfit += [each.name] * any(finding.fatal for finding in findings)
    if unfit:
        lines.append(click.style(f"no branch can be prepared in {', '.join(unfit)} until that is fixed", fg="red"))
    output.result({"resources": rows}, "\n".join(lines))
    return max(code, USAGE if unfit else 0)


@resource.command()
@with_config
@with_output
def ls(config: Config, output: Output) -> int:
    """What is prepared in each resource.

    Since when, whose it is, and what the ledger says. Nothing is changed.

    Exit code 5 if a resource cannot be reached.
    """
    from raftcoord.databases.resolver.listing import listing

    found = listing(config)
    rows = [
        {
            "name": each.name,
            "where": each.where,
            "reachable": not each.trouble,
            "why": each.trouble or None,
            "prepared": [branch.to_json() for branch in each.branches],
        }
        for each in found
    ]
    output.result({"resources": rows}, lambda: _shown(found))
    return UNAVAILABLE if any(each.trouble for each in found) else 0


def _shown(found: list[Listed]) -> Group:
    from rich.console import Group
    from rich.text import Text

    parts: list[Text | PrintedTable] = []
    for each in found:
        head = each.trouble or ("nothing is prepared" if not each.branches else f"{len(each.branches)} prepared")
        line = head if head.startswith(f"resource {each.name} ") else f"{each.name} ({each.where}): {head}"
        parts.append(Text(line, style="red" if each.trouble else "bold"))
        if each.branches:
            parts.append(_table(each))
    return Group(*parts)


def _table(each: Listed) -> PrintedTable:
    table = PrintedTable(
        [
            Column("txid"),
            Column("branch", drop=3, wrap=True),
            Column("age", drop=2, right=True),
            Column("whose", drop=4),
            Column("ledger", drop=1),
            Column("database", drop=5, wrap=True),
        ]
    )
    for branch in each.branches:
        gid, age_s, database, here = branch.each
        age = "not known" if age_s is None else f"{age_s:.0f} s"
        place = database if here else f"{database} (not the url's)"
        table.add(str(gid.txid), gid.branch, age, branch.whose or "not known", branch.state or "-", place or "-")
    return table
