"""The nodes, as they tell of themselves, and where they run on this machine.

Owed: each node of cluster.yaml has a row that says whether it answers. Judging is apart from asking: it takes what was told, as
values. Never: more than one look; a change of anything.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from raftcoord import __version__
from raftcoord.api.answers import DamagePage, NodeStatus
from raftcoord.api.leading import leader_among
from raftcoord.client.asynchronous import AsyncClient
from raftcoord.client.link import NodeAddress
from raftcoord.config import Config, NodeConfig
from raftcoord.doctor import access, disks, members
from raftcoord.doctor.clocks import ClockOffset, measured
from raftcoord.doctor.findings import DAMAGE, LEADER, REACHABLE, Row, Severity
from raftcoord.doctor.in_thread import in_thread
from raftcoord.errors import ConfigError, RaftcoordError, Unavailable
from raftcoord.processes.local_cluster import LocalCluster

NAME_S: Final = 3.0
"""How long the name of a node's host may take to be found (s)."""

ASK_S: Final = 3.0
"""How long a node may take to answer (s)."""

CLOCK_LOOKS: Final = 3
"""How often each clock is asked; the quickest round trip says most."""

SETTLED_S: Final = 15.0
"""How long after its start a node may lack participants that others have: they dial again every few seconds."""

SHOWN_MAX: Final = 8
"""Participants that one row names."""

BEHIND_ENTRIES: Final = 1_000
"""Log entries that a node may not have applied yet without being called behind: under load, well below a second."""

Told = Mapping[str, NodeStatus | RaftcoordError]
"""By node: what it says of itself, or why it cannot be asked."""


async def endpoints(config: Config) -> tuple[list[NodeAddress], dict[str, RaftcoordError]]:
    """The client ports with the addresses of their hosts, and the nodes whose host has none.

    Names are looked up here, because a name server that hangs would keep an event loop from ending.
    """

    async def find(node: NodeConfig) -> NodeAddress | RaftcoordError:
        host, port = node.client.host, node.client.port
        try:
            found = await in_thread(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), NAME_S)
        except TimeoutError:
            return Unavailable(f"its host {host} was not found in {NAME_S:g} s: the name server does not answer")
        except OSError as error:
            return Unavailable(f"its host {host} is not known: {error.strerror or error}")
        return NodeAddress(str(found[0][4][0]), port, node.name)

    found = await asyncio.gather(*map(find, config.nodes))
    known: list[NodeAddress] = []
    unknown: dict[str, RaftcoordError] = {}
    for node, each in zip(config.nodes, found, strict=True):
        if isinstance(each, NodeAddress):
            known.append(each)
        else:
            unknown[node.name] = each
    return known, unknown


async def clocks(client: AsyncClient, told: Told, now_ms: Callable[[], int]) -> dict[str, ClockOffset]:
    """The clock of each node that answers, by its quickest answer."""
    loop = asyncio.get_running_loop()

    async def ask(name: str) -> ClockOffset:
        asked_ms, began = now_ms(), loop.time()
        info = await client.node_info(name, timeout=ASK_S / CLOCK_LOOKS)
        return measured(asked_ms, info["wall_ms"], (loop.time() - began) * 1000)

    found: dict[str, ClockOffset] = {}
    for name in [name for name, info in told.items() if isinstance(info, dict)]:
        try:
            looks = [await ask(name) for _ in range(CLOCK_LOOKS)]
        except RaftcoordError:  # it has answered once; that it is gone now is not about its clock
            continue
        found[name] = min(looks, key=lambda clock: clock.error_ms)
    return found


def judge(told: Told) -> list[Row]:
    """The rows that follow from what the nodes said."""
    answering = {name: info for name, info in told.items() if isinstance(info, dict)}
    rows = [_reachable(name, info) for name, info in told.items()]
    leads = leader_among(answering)
    leader = None if leads is None else leads.name
    rows.append(_led(leader, len(answering), len(told)))
    rows += members.judge(answering, tuple(told), leader)
    rows += _waiting(answering)
    rows += _links(answering)
    rows += _participants(answering)
    if leader is not None:
        rows += _behind(answering, answering[leader]["commit_index"])
    rows += _versions(answering)
    return rows


def _reachable(name: str, info: NodeStatus | RaftcoordError) -> Row:
    subject = f"node {name}"
    if isinstance(info, dict):
        return Row(subject, REACHABLE, Severity.OK, f"{info['role']} of term {info['term']}, release {info['version']}")
    mend = f"raftcoord node start {name} on its machine; why it does not run: raftcoord node logs {name}"
    if isinstance(info, ConfigError):
        mend = f"correct the addresses of {name} in cluster.yaml, or stop what runs there"
    return Row(subject, REACHABLE, Severity.ERROR, str(info), mend)


def _led(leader: str | None, answering: int, nodes: int) -> Row:
    if leader is not None:
        return Row(CLUSTER, LEADER, Severity.OK, f"{leader} leads, {answering} of {nodes} nodes answer")
    what = (
        f"there is no leader, so nothing is decided; {answering} of {nodes} nodes answer, {nodes // 2 + 1} are needed"
    )
    mend = "start the nodes that do not answer; if a majority does, see what their logs say of each other"
    return Row(CLUSTER, LEADER, Severity.ERROR, what, mend)


def _waiting(answering: Mapping[str, NodeStatus]) -> Iterator[Row]:
    refused = {peer for info in answering.values() for peer, link in info["peers"].items() if link["refused"]}
    for name, info in answering.items():
        awaited = [peer for peer, link in info["peers"].items() if link["awaited"]]
        if awaited:
            what = f"it takes no part before it has met {', '.join(awaited)}"
            mend = f"start {', '.join(awaited)}"
            if name in refused:
                what += "; others refuse it, because its data directory is new and its name is not"
                mend = (
                    f"give it its old data directory back, or, if that is lost for good: raftcoord node replace {name}"
                )
            yield Row(f"node {name}", "takes part", Severity.ERROR, what, mend)


def _links(answering: Mapping[str, NodeStatus]) -> Iterator[Row]:
    """A link between two nodes that both answer here."""
    refusing = {
        name: {peer for peer, link in info["peers"].items() if link["refused"]} for name, info in answering.items()
    }
    for name, info in answering.items():
        for peer, link in info["peers"].items():
            if peer in answering and not link["up"] and not link["awaited"]:
                mend = f"let {name} reach the peer port of {peer}: the firewall, and 'peer' in both cluster.yaml"
                if link["refused"] or name in refusing.get(peer, ()):
                    mend = f"do what it says; raftcoord node logs {peer} says it too"
                yield Row(f"node {name}", "peers", Severity.WARNING, f"it has no link to {peer}: {link['why']}", mend)


def _participants(answering: Mapping[str, NodeStatus]) -> Iterator[Row]:
    """A participant that is connected to some nodes only: the others abort what is asked of them with it."""
    voting = {name: info for name, info in answering.items() if info["role"] not in ("waiting", "removed")}
    known = sorted({each for info in voting.values() for each in info["participants"]})
    for name, info in voting.items():
        missing = [each for each in known if each not in info["participants"]]
        if missing and info["uptime_s"] >= SETTLED_S:
            more = f" and {len(missing) - SHOWN_MAX} more" if len(missing) > SHOWN_MAX else ""
            what = (
                f"connected to other nodes and not to this one: {', '.join(missing[:SHOWN_MAX])}{more}; it aborts every "
                "transaction with them that it coordinates"
            )
            mend = f"restart them with a cluster.yaml that names {name} as it is now; if it does, let them reach its client port"
            yield Row(f"node {name}", "participants", Severity.WARNING, what, mend)


def _behind(answering: Mapping[str, NodeStatus], committed: int) -> Iterator[Row]:
    for name, info in answering.items():
        behind = committed - info["applied_index"]
        if behind > BEHIND_ENTRIES:
            what = f"it is {behind:,} log entries behind the leader"
            mend = "wait until it has caught up before another node is stopped; if it does not: its disk, its network"
            yield Row(f"node {name}", "behind", Severity.WARNING, what, mend)


def _versions(answering: Mapping[str, NodeStatus]) -> Iterator[Row]:
    for name, info in answering.items():
        if info["version"] != __version__:
            what = f"it runs release {info['version']}, and this is {__version__}"
            mend = "install the same release everywhere, one node after the other (docs/operations.md, Upgrades)"
            yield Row(f"node {name}", "release", Severity.WARNING, what, mend)


CLUSTER: Final = "cluster"


def judge_damages(found: DamagePage | RaftcoordError) -> list[Row]:
    """A row for each damaged branch that nobody has acknowledged."""
    if isinstance(found, RaftcoordError):
        what = f"whether a branch is damaged could not be asked: {found}"
        return [Row(CLUSTER, "damage list", Severity.WARNING, what, "raftcoord txn ls --heuristic, when nodes answer")]
    pending = [damage for damage in found.shown if not damage.acknowledged_by]
    rows = [
        Row(
            CLUSTER,
            DAMAGE,
            Severity.ERROR,
            f"transaction {each.txid}, branch {each.branch}: {each.what}",
            f"compare its branches and correct them by the ledger; then: raftcoord txn acknowledge {each.txid} {each.branch} "
            "--as NAME",
        )
        for each in pending
    ]
    if found.pending > len(pending):
        what = f"{found.pending - len(pending)} more damaged branches"
        rows.append(Row(CLUSTER, DAMAGE, Severity.ERROR, what, "raftcoord txn ls --heuristic"))
    if not found.pending:
        acknowledged = f", {found.total} acknowledged" if found.total else ""
        rows.append(Row(CLUSTER, DAMAGE, Severity.OK, f"no branch is damaged{acknowledged}"))
    return rows


def directories(config: Config) -> list[Row]:
    """The data directories of the nodes of this machine, and what is loaded into their processes. Blocks."""
    rows: list[Row] = []
    measured_devices: set[int] = set()
    local = LocalCluster(config)
    for node in config.nodes:
        try:
            rows += _directory(node, local, measured_devices)
        except (OSError, ConfigError) as error:
            what = f"{node.data_dir} cannot be looked at: {getattr(error, 'strerror', None) or error}"
            rows.append(
                Row(f"node {node.name}", "directory", Severity.WARNING, what, "run this as the user of the node")
            )
    return rows


def _directory(node: NodeConfig, local: LocalCluster, measured_devices: set[int]) -> list[Row]:
    """``measured_devices``: whose fsync is known."""
    subject, directory = f"node {node.name}", node.data_dir
    pid = local.pid(node.name)
    there = directory.exists()
    if not there and pid is None:
        what = f"{directory} is not on this machine, or the node was never started here; it was not looked at"
        return [Row(subject, "directory", Severity.NOTE, what, "on the node's machine: raftcoord doctor")]
    device = directory.stat().st_dev if there else -1
    rows = disks.look(subject, directory, measure=device not in measured_devices)
    rows.append(access.judge_files(subject, directory, local.files_of(node.name)))
    measured_devices.add(device)
    return rows if pid is None else [*rows, *disks.judge_process(subject, pid)]


def judge_resolver(config: Config) -> list[Row]:
    """Whether a resolver runs that was started from here. Blocks."""
    if not config.resources:
        return []
    try:
        pid = LocalCluster(config).resolver.pid
    except ConfigError as error:  # somebody else's
        return [Row("resolver", "running", Severity.NOTE, str(error))]
    if pid is not None:
        return [Row("resolver", "running", Severity.OK, f"pid {pid}")]
    what = "none was started from here; without one, what a crashed program leaves prepared keeps its locks"
    return [
        Row("resolver", "running", Severity.WARNING, what, "raftcoord up, or, where it belongs: raftcoord resolver run")
    ]
