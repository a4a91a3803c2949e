"""raftcoord up and down: the nodes of cluster.yaml as processes of this machine."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final

import click

from .errors import INTERRUPTED
from .options import Output, counted, with_config, with_output
from .telling import reading

if TYPE_CHECKING:
    from pathlib import Path

    from raftcoord.config import Config
    from raftcoord.processes.local_cluster import LocalCluster

_RESOLVER: Final = "resolver"
_LOOK_S: Final = 0.2
_COLOURS: Final = ("cyan", "yellow", "green", "magenta", "blue", "bright_cyan", "bright_yellow")


@click.command()
@click.option("-d", "--detach", is_flag=True, help="Return as soon as there is a leader; stop the nodes with down.")
@with_config
@with_output
def up(detach: bool, config: Config, output: Output) -> int:
    """Start the nodes of cluster.yaml on this machine.

    If the file names resources, a resolver is started too.

    In the foreground it shows what they log, and Ctrl-C stops those that it started.
    """
    import asyncio

    from raftcoord.private import must_be_ours
    from raftcoord.processes.local_cluster import LocalCluster

    must_be_ours(config.data_dir)
    cluster = LocalCluster(config)
    for resource in config.resources:
        resource.url()  # a variable that is not set is told before anything is started
    logs = [_Log(node.name, cluster.log_path(node.name)) for node in config.nodes]
    if config.resources:
        logs.append(_Log(_RESOLVER, cluster.resolver.log_path))
    output.progress(f"starting the nodes of {config.path}: {', '.join(node.name for node in config.nodes)}")
    started = cluster.start_all(on_reading=reading(output))
    try:
        resolver_started = cluster.start_resolver()
    except BaseException as error:  # also Ctrl-C
        stopped = cluster.stop_nodes(started)
        if isinstance(error, KeyboardInterrupt):
            error.add_note(_ended(stopped))
        raise
    if detach:
        try:
            _report(config, cluster, started, output)
        except KeyboardInterrupt as interrupt:
            interrupt.add_note("the nodes go on; raftcoord down stops them")
            raise
        return 0
    others = len(config.nodes) - len(started)
    stays = f"{others} of {len(config.nodes)} ran already and go on; " if others else ""
    ending = [*([_RESOLVER] if resolver_started else []), *started]
    output.progress(f"{stays}Ctrl-C stops {', '.join(ending) or 'nothing but this view'}")
    try:
        asyncio.run(_Foreground(config, cluster, logs, output).watch())
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        stopped = [_RESOLVER] if resolver_started and cluster.resolver.stop() else []
        stopped += cluster.stop_nodes(started)
        output.line({"stopped": stopped}, _ended(stopped))
    return 0


def _ended(stopped: list[str]) -> str:
    return f"stopped: {', '.join(stopped)}" if stopped else "nothing was stopped"


def _report(config: Config, cluster: LocalCluster, started: list[str], output: Output) -> None:
    import asyncio

    from raftcoord.api.leading import Leader
    from raftcoord.client.asynchronous import AsyncClient

    from .view import wait_for_leader

    async def lead() -> Leader:
        async with AsyncClient.from_config(config, name="up") as client:
            return await wait_for_leader(client, config)

    leader = asyncio.run(lead())
    pids = {node.name: cluster.pid(node.name) for node in config.nodes}
    value = {"cluster": config.cluster, "started": started, "leader": leader.name, "term": leader.term, "pids": pids}
    watched = ", ".join(resource.name for resource in config.resources)
    if watched:
        value["resolver"] = cluster.resolver.pid
    already = "" if len(started) == len(pids) else f" ({len(pids) - len(started)} ran already)"
    output.result(
        value,
        f"cluster {config.cluster} is up: {counted(len(pids), 'node')}{already}, {leader.name} leads in term {leader.term}\n"
        f"{f'a resolver looks after {watched}{chr(10)}' if watched else ''}"
        "next: raftcoord status; raftcoord down",
    )


@click.command()
@with_config
@with_output
def down(config: Config, output: Output) -> None:
    """Stop what was started from cluster.yaml on this machine.

    These are nodes, participants and the resolver. Their data is kept.
    """
    from raftcoord.private import must_be_ours
    from raftcoord.processes.local_cluster import LocalCluster

    must_be_ours(config.data_dir)
    stopped = LocalCluster(config).stop_all()
    output.result({"stopped": stopped}, f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")


class _Log:
    """What a node writes from now on."""

    def __init__(self, node: str, path: Path) -> None:
        from raftcoord.logs import Follow

        self.node = node
        self.new_lines = Follow(path).new_lines


class _Foreground:
    """Shows logs, the end of a node and a change of leader, until every node has ended or somebody interrupts."""

    def __init__(self, config: Config, cluster: LocalCluster, logs: list[_Log], output: Output) -> None:
        self._config = config
        self._cluster = cluster
        self._logs = logs
        self._output = output
        self._running: dict[str, bool] = {node.name: True for node in config.nodes}
        self._colours: dict[str, str] = {node.name: _COLOURS[number] for number, node in enumerate(config.nodes)}
        self._resolver_runs = bool(config.resources)

    async def watch(self) -> None:
        import asyncio

        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel, "SIGTERM")
        try:
            await self._watch()
        except asyncio.CancelledError as cancelled:
            if "SIGTERM" not in cancelled.args:
                raise

    async def _watch(self) -> None:
        import asyncio

        from raftcoord.api.leading import Leader
        from raftcoord.client.asynchronous import AsyncClient
        from raftcoord.errors import RaftcoordError

        from .view import View

        leader: Leader | None = None
        async with AsyncClient.from_config(self._config, name="up") as client:
            while True:
                self._show_logs()
                self._show_ends()
                if not any(self._running.values()):
                    raise RaftcoordError("every node has ended; their last lines say why: raftcoord node logs NAME")
                now = View(self._config.cluster, await client.nodes(timeout=1.0)).leader
                if now is not None and now != leader:
                    leader = now
                    self._line("cluster", f"{leader.name} leads in term {leader.term}", "white")
                await asyncio.sleep(_LOOK_S)

    def _show_logs(self) -> None:
        for log in self._logs:
            for line in log.new_lines():
                self._line(log.node, line, self._colours.get(log.node, "white"))

    def _show_ends(self) -> None:
        for name, was_running in self._running.items():
            runs = self._cluster.pid(name) is not None
            if runs != was_running:
                self._running[name] = runs
                self._line(
                    name, "runs again" if runs else f"has ended; start it again: raftcoord node start {name}", "red"
                )

        if self._resolver_runs and self._cluster.resolver.pid is None:
            self._resolver_runs = False
            self._line(_RESOLVER, "has ended; start it again: raftcoord up, or raftcoord resolver run", "red")

    def _line(self, who: str, text: str, colour: str) -> None:
        styled = click.style(f"{who:>8}", fg=colour)
        self._output.line({"node": who, "line": text}, f"{styled} | {text}")
