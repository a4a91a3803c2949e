"""raftcoord node: one node of this machine. Only the process that was started for that node of that cluster.yaml is touched."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from . import members
from .groups import Commands
from .options import Output, complete_node, with_config, with_output
from .telling import reading

if TYPE_CHECKING:
    from raftcoord.config import Config
    from raftcoord.processes.local_cluster import LocalCluster

_FOLLOW_S = 0.2


@click.group(cls=Commands)
def node() -> None:
    """One node."""


@node.command()
@click.argument("name", shell_complete=complete_node)
@with_config
@with_output
def start(name: str, config: Config, output: Output) -> None:
    """Start node NAME in the background and wait until it is ready."""
    cluster = _cluster(config)
    cluster.start(name, on_reading=reading(output))
    output.result({"node": name, "pid": cluster.pid(name)}, f"node {name} is ready (pid {cluster.pid(name)})")


@node.command()
@click.argument("name", shell_complete=complete_node)
@with_config
@with_output
def stop(name: str, config: Config, output: Output) -> None:
    """Stop node NAME (SIGTERM). It is no error if it does not run."""
    was_running = _cluster(config).stop(name)
    output.result(
        {"node": name, "was_running": was_running}, f"node {name} {'is stopped' if was_running else 'was not running'}"
    )


def _signalled(
    name: str, config: Config, output: Output, action: Callable[[LocalCluster, str], bool], done: str
) -> None:
    from raftcoord.errors import ConfigError

    if not action(_cluster(config), name):
        raise ConfigError(f"node {name} does not run here; start it with: raftcoord node start {name} -c {config.path}")
    output.result({"node": name, "done": done}, f"node {name} is {done}")


@node.command()
@click.argument("name", shell_complete=complete_node)
@with_config
@with_output
def kill(name: str, config: Config, output: Output) -> None:
    """Kill node NAME at once (kill -9): it has no time to finish anything.

    What the system has already taken over for the disk still gets there: this is a crash of the process, not a power cut.
    """
    _signalled(name, config, output, lambda cluster, name: cluster.kill(name), "killed")


@node.command()
@click.argument("name", shell_complete=complete_node)
@with_config
@with_output
def pause(name: str, config: Config, output: Output) -> None:
    """Pause node NAME (SIGSTOP), as if it hung.

    It is alive and silent, as a machine in trouble is, until raftcoord node resume NAME.
    """
    _signalled(name, config, output, lambda cluster, name: cluster.pause(name), "paused")


@node.command()
@click.argument("name", shell_complete=complete_node)
@with_config
@with_output
def resume(name: str, config: Config, output: Output) -> None:
    """Let a paused node NAME go on (SIGCONT)."""
    _signalled(name, config, output, lambda cluster, name: cluster.resume(name), "running")


@node.command()
@click.argument("name", shell_complete=complete_node)
@click.option(
    "-n", "--lines", type=click.IntRange(0, 100_000), default=50, show_default=True, help="How many of the last lines."
)
@click.option("-f", "--follow", is_flag=True, help="Go on until Ctrl-C. Text only.")
@with_config
@with_output
def logs(name: str, lines: int, follow: bool, config: Config, output: Output) -> None:
    """What node NAME has written."""
    from raftcoord.errors import ConfigError
    from raftcoord.logs import Follow, files, last_lines

    path = _cluster(config).log_path(name)
    following = Follow(path)
    try:
        if not files(path):
            raise ConfigError(f"there is no log {path}: this node was never started here in the background")
        last = last_lines(path, lines)
    except PermissionError:
        raise ConfigError(f"{path} can be read by its owner alone: use the account that started node {name}") from None
    output.result({"node": name, "path": str(path), "lines": last}, "\n".join(last))
    while follow and not output.as_json:
        for line in following.new_lines():
            click.echo(line)
        time.sleep(_FOLLOW_S)


@node.command()
@click.argument("name", shell_complete=complete_node)
@with_config
@with_output
def run(name: str, config: Config, output: Output) -> None:
    """Run node NAME in the foreground until Ctrl-C or SIGTERM.

    For a service manager or a container. It logs to stderr; one line on stdout says that it is ready.
    """
    from raftcoord.node.main import run

    run(config, name, lambda ready: output.line({"node": name, "ready": True}, ready))


for _command in (members.add, members.remove, members.replace):
    node.add_command(_command)


def _cluster(config: Config) -> LocalCluster:
    from raftcoord.private import must_be_ours
    from raftcoord.processes.local_cluster import LocalCluster

    must_be_ours(config.data_dir)
    return LocalCluster(config)
