"""What the nodes say of themselves, gathered: for up, status and top."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from raftcoord.api.leading import Leader, leader_among
from raftcoord.errors import ConfigError, RaftcoordError, Unavailable
from raftcoord.foreign import shown

from .tables import Column, PrintedTable

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

    from raftcoord.api.answers import NodeStatus
    from raftcoord.client.asynchronous import AsyncClient
    from raftcoord.config import Config

LEADER_TIMEOUT_S: Final = 30.0
_LOOK_S: Final = 0.05
_LINE_LENGTH_MAX: Final = 1_000
"""Characters of a line that comes from a node: it may quote what a stranger said."""

Told = Mapping[str, "NodeStatus | RaftcoordError"]
"""By node: what it says of itself, or why it cannot be asked."""


@dataclass(frozen=True, slots=True)
class View:
    """The cluster at one moment. ``held``: nodes of this machine that SIGSTOP holds.

    ``resolver``: the pid of the resolver that up has started here, 0 if it does not run; None: there are no resources.
    """

    cluster: str
    told: Told
    held: frozenset[str] = frozenset()
    resolver: int | None = None

    @property
    def leader(self) -> Leader | None:
        """The node that leads."""
        return leader_among(self.told)

    def to_json(self) -> dict[str, Any]:
        leader = self.leader
        nodes = []
        for name, said in self.told.items():
            if isinstance(said, dict):
                nodes.append({"name": name, "reachable": True, "member": self._is_member(name), **said})
            else:
                nodes.append(
                    {"name": name, "reachable": False, "member": self._is_member(name), "why": self._why(name, said)}
                )
        shown = {
            "cluster": self.cluster,
            "leader": leader.name if leader else None,
            "term": leader.term if leader else None,
            "nodes": nodes,
        }
        return shown if self.resolver is None else {**shown, "resolver": self.resolver or None}

    def shown(self) -> Group:
        """For people: a table, and below it why a node cannot be reached."""
        from rich.console import Group
        from rich.text import Text

        unreachable = [(name, self._why(name, said)) for name, said in self.told.items() if not isinstance(said, dict)]
        lines = [
            Text(shown(f"{name}: {why}", _LINE_LENGTH_MAX), style="red")
            for name, why in [*unreachable, *self._strangers(), *self._waiting(), *self._no_members()]
        ]
        if damages := max((said["damages"] for _, said in self._answering()), default=0):
            lines.append(
                Text(f"damaged branches that nobody has acknowledged: {damages} (raftcoord txn ls --heuristic)", "red")
            )
        lines += [Text(line, "red") for line in self._of_the_horizon()]
        if self.resolver is not None:
            lines.append(_resolver_line(self.resolver))
        return Group(Text(f"cluster {self.cluster}: {self.sentence()}", style="bold"), self._table(), *lines)

    def _strangers(self) -> list[tuple[str, str]]:
        """Who refuses whom because it was wiped or replaced."""
        links = ((name, peer) for name, said in self._answering() for peer in said["peers"].values())
        return [(name, peer["why"]) for name, peer in links if peer.get("refused") and peer["why"]]

    def _waiting(self) -> list[tuple[str, str]]:
        """Who takes no part yet, and whom it waits for."""
        found = []
        for name, said in self._answering():
            awaited = [peer for peer, link in said["peers"].items() if link.get("awaited")]
            whys = [link["why"] for link in said["peers"].values() if "raftcoord node" in link["why"]]
            if awaited:
                found.append((name, whys[0] if whys else f"takes no part before it has met {', '.join(awaited)}"))
        return found

    def _is_member(self, name: str) -> bool | None:
        """By the newest set that any node knows; None: nobody knows one."""
        newest = max((said for _, said in self._answering()), key=lambda said: said.get("epoch", 0), default=None)
        members = None if newest is None else newest.get("members")
        return any(member["name"] == name for member in members) if members else None

    def _no_members(self) -> Iterator[tuple[str, str]]:
        """Who is in cluster.yaml and no member."""
        for name in self.told:
            if self._is_member(name) is False:
                yield name, f"is no member; take it out of cluster.yaml, or take it in: raftcoord node add {name}"

    def _of_the_horizon(self) -> Iterator[str]:
        """What is wrong with it, as far as the nodes' own clocks show."""
        retentions = {name: said.get("retention_ms") for name, said in self._answering()}
        if len(set(retentions.values())) > 1:
            each = ", ".join(f"{name} {(ms or 0) / 3_600_000:g} h" for name, ms in retentions.items())
            yield f"the nodes have different retention_hours, and the leader's counts: {each}"
        ahead = [name for name, said in self._answering() if said.get("horizon_ms", 0) > said.get("wall_ms", 0)]
        if ahead:
            yield f"the horizon lies in the future of {', '.join(ahead)}: new txids are refused (raftcoord doctor)"

    def _answering(self) -> list[tuple[str, NodeStatus]]:
        return [(name, said) for name, said in self.told.items() if isinstance(said, dict)]

    def _table(self) -> PrintedTable:
        numbers_of = {"term": 1, "commit": 4, "applied": 0, "open": 2, "running": 3, "up": 5}
        table = PrintedTable(
            [
                *(Column(name) for name in ("node", "role")),
                *(Column(name, drop, right=True) for name, drop in numbers_of.items()),
                Column("participants", drop=6, wrap=True),
            ]
        )
        for name, said in self.told.items():
            if isinstance(said, dict):
                numbers = (said[key] for key in ("term", "commit_index", "applied_index", "open", "running"))
                connected = ", ".join(map(shown, said["participants"])) or "-"
                style = "bold" if said["role"] == "leader" else ""
                table.add(
                    name, shown(said["role"]), *map(str, numbers), _span(said["uptime_s"]), connected, style=style
                )
            else:
                away = "unreachable" if self._is_member(name) is not False else "no member"
                table.add(name, "paused" if name in self.held else away, *"-" * 7, style="red")
        return table

    def sentence(self) -> str:
        """Who leads, or that nobody does."""
        leader = self.leader
        if leader is not None:
            return f"{leader.name} leads in term {leader.term}"
        waiting = "; ".join(f"{name} {why}" for name, why in self._waiting())
        reachable = f"no leader, {len(self._answering())} of {len(self.told)} nodes reachable"
        return f"{reachable}; {shown(waiting, _LINE_LENGTH_MAX)}" if waiting else reachable

    def _why(self, name: str, error: object) -> str:
        return f"paused; let it go on: raftcoord node resume {name}" if name in self.held else str(error)


async def look(client: AsyncClient, config: Config) -> View:
    """The cluster now."""
    from raftcoord.processes.local_cluster import LocalCluster

    local = LocalCluster(config)
    told = await client.nodes()
    silent = [name for name, said in told.items() if not isinstance(said, dict)]
    with contextlib.suppress(ConfigError):  # they are another user's, who alone may look at them
        held = frozenset(name for name in silent if local.paused(name))
        return View(config.cluster, told, held, (local.resolver.pid or 0) if config.resources else None)
    return View(config.cluster, told, frozenset(), None)


async def wait_for_leader(client: AsyncClient, config: Config, timeout_s: float = LEADER_TIMEOUT_S) -> Leader:
    """The leader, as soon as there is one. Raises Unavailable."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        view = View(config.cluster, await client.nodes(timeout=1.0))
        if view.leader is not None:
            return view.leader
        if loop.time() >= deadline:
            raise Unavailable(
                f"{view.sentence()} after {timeout_s:g} s; a majority must run and reach each other: "
                f"look at raftcoord status and raftcoord node logs {config.nodes[0].name}"
            )
        await asyncio.sleep(_LOOK_S)


def _resolver_line(pid: int) -> Text:
    from rich.text import Text

    if pid:
        return Text(f"resolver: running (pid {pid}); what is prepared where: raftcoord resource ls")
    advice = "unless one runs elsewhere, start it: raftcoord up, or raftcoord resolver run"
    return Text(f"resolver: none was started from here; {advice}", style="yellow")


def _span(seconds: float) -> str:
    whole = int(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02}"
    return f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02}"
