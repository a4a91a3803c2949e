"""raftcoord node add, remove and replace: who the members of a running cluster are, changed one at a time."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Final

import click

from .options import Output, with_config, with_output

if TYPE_CHECKING:
    from raftcoord.client.synchronous import Client
    from raftcoord.config import Config

_LOOK_S: Final = 0.2
_CATCH_UP_S: Final = 600.0
"""How long a new member may take to catch up before the command gives up waiting; it goes on all the same."""

_TIMEOUT_S: Final = 15.0


@click.command()
@click.argument("name")
@with_config
@with_output
def add(name: str, config: Config, output: Output) -> None:
    """Take node NAME in as a member, and wait until it votes.

    It must run already, in an empty data directory and with a cluster.yaml that names all members and itself. Then write it
    into the cluster.yaml of the others as well.
    """
    from raftcoord.client.synchronous import Client

    config.node(name)
    with Client.from_config(config, name="add") as client:
        _until_it_votes(client, name, client.add_node(name, timeout=_TIMEOUT_S), output)


@click.command()
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@with_config
@with_output
def remove(name: str, yes: bool, config: Config, output: Output) -> None:
    """Take node NAME out of the members: nobody counts it or asks it any more.

    It need not run. Stop it afterwards, and take it out of every cluster.yaml.
    """
    from raftcoord.client.synchronous import Client

    _must_agree(yes, f"take node {name} out of the cluster, for good?")
    with Client.from_config(config, name="remove") as client:
        done = client.remove_node(name, timeout=_TIMEOUT_S)
    output.result(
        done,
        f"node {name} is no member any more; the members are {_described(done)}. Stop it, and take it out of cluster.yaml",
    )


@click.command()
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@with_config
@with_output
def replace(name: str, yes: bool, config: Config, output: Output) -> None:
    """Give up the data that node NAME had, and take the new, empty node NAME in.

    This is for good. The old node must be stopped, and the new one must run in an empty data directory. The others refuse it
    until this is done.
    """
    from raftcoord.client.synchronous import Client

    config.node(name)
    _must_agree(yes, f"give up the data that node {name} had, for good?")
    with Client.from_config(config, name="replace") as client:
        _until_it_votes(client, name, client.replace_node(name, timeout=_TIMEOUT_S), output)


def _must_agree(yes: bool, question: str) -> None:
    from raftcoord.errors import LocalProtocolError

    if yes:
        return
    if not sys.stdin.isatty():
        raise LocalProtocolError(f"nobody can be asked: {question} add -y if so")
    click.confirm(question, abort=True, err=True)


def _until_it_votes(client: Client, name: str, done: dict[str, Any], output: Output) -> None:
    """Wait until the member ``name`` is a voter, and show how far it is."""
    from raftcoord.errors import Unavailable

    output.progress(f"node {name} is a member and gets the ledger (epoch {done['epoch']})")
    end, shown = time.monotonic() + _CATCH_UP_S, ""
    while not _votes(done, name):
        if time.monotonic() > end:
            raise Unavailable(
                f"node {name} is a member and has not caught up after {_CATCH_UP_S:g} s; it votes when it has: raftcoord status"
            )
        time.sleep(_LOOK_S)
        told: list[dict[str, Any]] = [
            dict(each) for each in client.nodes(timeout=2.0).values() if isinstance(each, dict)
        ]
        done = max((said for said in told if said.get("members")), key=lambda said: int(said["epoch"]), default=done)
        far = next((f"{said['applied_index']:,}" for said in told if said["node"] == name), "?")
        line = f"node {name} has applied {far} of {max((said['commit_index'] for said in told), default=0):,} entries"
        if line != shown:
            output.progress(line)
            shown = line
    result = {"node": name, "epoch": done["epoch"], "members": done["members"]}
    output.result(result, f"node {name} votes; the members are {_described(done)}")


def _votes(said: dict[str, Any], name: str) -> bool:
    return any(member["name"] == name and member["voter"] for member in said["members"])


def _described(said: dict[str, Any]) -> str:
    return ", ".join(sorted(member["name"] + ("" if member["voter"] else " (learner)") for member in said["members"]))
