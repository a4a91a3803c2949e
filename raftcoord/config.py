"""cluster.yaml as a value: which nodes there are, where they listen, and how patient they are.

Owed: a Config that exists is valid; a wrong file is one ConfigError that names file, line, the offending value and what to
write instead. Never: a guess, a key that is ignored, a side effect.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from dataclasses import field as member
from pathlib import Path
from typing import ClassVar, Final, NoReturn, Self

from raftcoord import limits, strict_yaml
from raftcoord.databases.resource_config import ResourceConfig
from raftcoord.errors import ConfigError, LocalProtocolError, did_you_mean
from raftcoord.strict_yaml import Value
from raftcoord.types import Branch, NodeName, checked_name

HOUR_MS: Final = 3600 * 1000

_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?", re.ASCII | re.IGNORECASE)
_HOST_LENGTH_MAX: Final = 253
"""Characters in a host name (RFC 1035 section 2.3.4: 255 octets on the wire)."""

_EXAMPLES: Final = {
    "cluster": "'cluster: demo'",
    "data_dir": "'data_dir: data'",
    "nodes": "'nodes:' and below it one '- {name: n1, peer: 127.0.0.1:7401, client: 127.0.0.1:7501}' for each node",
    "name": "'name: n1'",
    "peer": "'peer: 127.0.0.1:7401'",
    "client": "'client: 127.0.0.1:7501'",
    "heartbeat_ms": "'heartbeat_ms: 50'",
    "election_ms": "'election_ms: [300, 600]'",
    "resources": "'resources:' and below it one '- {name: ledger, url: ...}' for each database",
    "url": "'url: postgresql://USER:${PASSWORD}@HOST:5432/DATABASE'",
}


class _Fault(ConfigError):
    """What is wrong, and where: keys and indexes from the top of the file."""

    def __init__(self, message: str, *where: str | int) -> None:
        super().__init__(message)
        self.where = where


@dataclass(frozen=True, slots=True)
class Address:
    """Where a port listens: a host name or IP address, and a port (1 to 65535)."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The address that ``text`` writes: ``host:port``, or ``[::1]:port`` for IPv6. Raises ConfigError."""
        host, colon, port = text.rpartition(":")
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if not colon or (":" in bare and bare == host) or not _is_host(bare):
            raise ConfigError(f"{text!r} is not an address; write host:port, such as 127.0.0.1:7401")
        if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65_535):
            raise ConfigError(f"{text!r} has no port from 1 to 65535; write host:port, such as 127.0.0.1:7401")
        if len(text) > limits.ADDRESS_LENGTH_MAX:
            raise ConfigError(f"an address of {len(text)} characters; write host:port, such as 127.0.0.1:7401")
        return cls(bare, int(port))

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it. A host name other than localhost counts as remote."""
        address = self._ip
        return self.host == "localhost" if address is None else address.is_loopback

    @property
    def everywhere(self) -> bool:
        """Whether it is 0.0.0.0 or ::, which can be listened on and not dialled."""
        address = self._ip
        return address is not None and address.is_unspecified

    @property
    def _ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _is_host(text: str) -> bool:
    """Whether it is an IP address or can be a host name: what is neither makes resolvers raise what nobody expects."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return len(text) <= _HOST_LENGTH_MAX and _HOST.fullmatch(text) is not None
    return text.isascii() and text.isprintable()  # after a % it may hold anything


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """One node: ``peer`` for the other nodes, ``client`` for clients and participants, ``data_dir`` for its node.db."""

    name: NodeName
    peer: Address
    client: Address
    data_dir: Path


@dataclass(frozen=True, slots=True)
class Timing:
    """How often the leader is heard (ms), and how long a node waits in silence before it stands for election (ms)."""

    heartbeat_ms: int = 50
    election_ms_min: int = 300
    election_ms_max: int = 600

    def __post_init__(self) -> None:
        least = limits.ELECTION_HEARTBEATS_MIN * self.heartbeat_ms
        if not limits.HEARTBEAT_MS_MIN <= self.heartbeat_ms <= limits.HEARTBEAT_MS_MAX:
            bounds = f"{limits.HEARTBEAT_MS_MIN} to {limits.HEARTBEAT_MS_MAX}"
            raise _Fault(f"heartbeat_ms is {self.heartbeat_ms}; write {bounds} (ms)", "timing", "heartbeat_ms")
        if not least <= self.election_ms_min < self.election_ms_max <= limits.ELECTION_MS_MAX:
            raise _Fault(
                f"election_ms is [{self.election_ms_min}, {self.election_ms_max}]; write the shortest and the longest wait, "
                f"the first at least {least} ({limits.ELECTION_HEARTBEATS_MIN} heartbeats), the second longer and at most "
                f"{limits.ELECTION_MS_MAX}",
                "timing",
                "election_ms",
            )


@dataclass(frozen=True, slots=True)
class Config:
    """A cluster. Checked at birth: ConfigError for anything that a node could not run on.

    ``cluster``: its name; ``retention_ms``: how long finished decisions are remembered; ``allow_remote``: listening beyond
    loopback without TLS is accepted, in so many words; ``resources``: the databases that the resolver looks after;
    ``path``: the file it was read from.
    """

    cluster: str
    nodes: tuple[NodeConfig, ...]
    timing: Timing = member(default_factory=Timing)
    retention_ms: int = limits.RETENTION_MS_DEFAULT
    retention_ms_min: ClassVar[int] = limits.RETENTION_MS_MIN
    allow_remote: bool = False
    path: Path | None = None
    resources: tuple[ResourceConfig, ...] = ()

    def __post_init__(self) -> None:
        _check_name(self.cluster, "cluster", "cluster")
        _check_nodes(self.nodes)
        _check_resources(self.resources)
        _check_addresses(self.nodes, self.allow_remote)
        if not self.retention_ms_min <= self.retention_ms <= limits.RETENTION_MS_MAX:
            bounds = f"{self.retention_ms_min / HOUR_MS:g} to {limits.RETENTION_MS_MAX / HOUR_MS:g}"
            what = f"retention_hours is {self.retention_ms / HOUR_MS:g}; write {bounds} (hours)"
            raise _Fault(what, "retention_hours")

    @classmethod
    def load(cls, path: str | Path) -> Config:
        """Read ``path``. Relative data directories are relative to it. Raises ConfigError."""
        path = Path(path)
        try:
            with path.open("rb") as file:
                raw = file.read(limits.CONFIG_BYTES_MAX + 1)
        except FileNotFoundError:
            where = "" if path.is_absolute() else f" in {Path.cwd()}"
            raise ConfigError(
                f"there is no file {path}{where}; give the path with -c, or write one: raftcoord init"
            ) from None
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}; give a readable file with -c") from None
        if len(raw) > limits.CONFIG_BYTES_MAX:
            raise ConfigError(f"{path} has more than {limits.CONFIG_BYTES_MAX} bytes; a cluster.yaml has a few hundred")
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            raise ConfigError(f"{path}:{line}: not UTF-8; save the file as UTF-8 text") from None
        return cls.parse(text, path)

    @classmethod
    def parse(cls, text: str, source: str | Path = "cluster.yaml", environ: Mapping[str, str] | None = None) -> Config:
        """The cluster that ``text`` writes. ``source``: the file's name, for errors and relative paths. Raises ConfigError.

        ``environ``: where ``${NAME}`` is read; None: this process's environment.
        """
        path = Path(source)
        places: Places = {}
        top = strict_yaml.read(text, str(source), _EXAMPLES, environ)
        try:
            return _read(top, path, places)
        except _Fault as fault:
            place = next(
                (places[fault.where[:n]] for n in range(len(fault.where), 0, -1) if fault.where[:n] in places), top
            )
            raise place.error(str(fault)) from None

    @property
    def data_dir(self) -> Path:
        """The directory in which every node of this machine has its own."""
        return self.nodes[0].data_dir.parent

    def node(self, name: str) -> NodeConfig:
        """The node called ``name``. Raises ConfigError that lists the names there are."""
        found = {node.name: node for node in self.nodes}
        return found.get(NodeName(name)) or self._no("node", name, found)

    def resource(self, name: str) -> ResourceConfig:
        """The resource called ``name``. Raises ConfigError that lists the names there are."""
        found = {resource.name: resource for resource in self.resources}
        return found.get(Branch(name)) or self._no("resource", name, found)

    def _no(self, kind: str, name: str, known: Collection[str]) -> NoReturn:
        listed = f"its {kind}s are {', '.join(known)}{did_you_mean(name, known)}" if known else f"it names no {kind}s"
        raise ConfigError(f"there is no {kind} {name!r} in {self.path or 'the cluster'}; {listed}")

    def node_id(self, name: str) -> int:
        """The node's id if the cluster is founded from this file: its position, from 1, among the names in order."""
        return sorted(node.name for node in self.nodes).index(self.node(name).name) + 1

    def check_founding(self) -> None:
        """ConfigError unless a new cluster can be founded with these nodes. While members change, others are allowed."""
        count = len(self.nodes)
        if count not in limits.NODES_ALLOWED:
            raise ConfigError(
                f"a cluster cannot be founded with {count} nodes; write {count - 1} or {count + 1}; an even number survives no "
                "more losses than one node less"
            )

    def to_yaml(self) -> str:
        """The text that ``parse`` reads back as this cluster."""
        lines = [f"cluster: {_quoted(self.cluster)}", f"data_dir: {_quoted(str(self.data_dir))}", "nodes:"]
        lines += [
            f'  - {{name: "{n.name}", peer: {_quoted(str(n.peer))}, client: {_quoted(str(n.client))}}}'
            for n in self.nodes
        ]
        timing = self.timing
        election = f"[{timing.election_ms_min}, {timing.election_ms_max}]"
        lines += ["timing:", f"  heartbeat_ms: {timing.heartbeat_ms}", f"  election_ms: {election}"]
        lines += [
            f"retention_hours: {_hours(self.retention_ms)}",
            f"allow_remote: {'true' if self.allow_remote else 'false'}",
        ]
        if self.resources:
            lines.append("resources:")
            lines += [f'  - {{name: "{r.name}", url: {_in_quotes(r.written)}}}' for r in self.resources]
        return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return _in_quotes(strict_yaml.escape(text))


def _in_quotes(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _hours(ms: int) -> str:
    return f"{ms / HOUR_MS:.9f}".rstrip("0").rstrip(".")


def _check_name(value: str, what: str, *where: str | int) -> None:
    try:
        checked_name(value, what)
    except LocalProtocolError as error:
        raise _Fault(str(error), *where) from None


def _check_nodes(nodes: tuple[NodeConfig, ...]) -> None:
    if not 1 <= len(nodes) <= limits.MEMBERS_MAX:
        raise _Fault(f"{len(nodes)} nodes; write 3 or 5 (a cluster has 1 to {limits.MEMBERS_MAX})", "nodes")
    seen: set[str] = set()
    for index, node in enumerate(nodes):
        _check_name(node.name, "node", "nodes", index, "name")
        if node.name in seen:
            raise _Fault(f"two nodes are called {node.name!r}; give each its own name", "nodes", index, "name")
        seen.add(node.name)
        if node.data_dir != nodes[0].data_dir.parent / node.name:
            raise _Fault(
                f"node {node.name!r} keeps its data outside the cluster's data_dir; use data_dir/{node.name}",
                "data_dir",
            )


def _check_resources(resources: tuple[ResourceConfig, ...]) -> None:
    if len(resources) > limits.RESOURCES_MAX:
        raise _Fault(f"{len(resources)} resources; at most {limits.RESOURCES_MAX} are allowed", "resources")
    for index, resource in enumerate(resources):
        resource.check()
        if resource.name in [other.name for other in resources[:index]]:
            raise _Fault(f"two resources are called {resource.name!r}; give each its own", "resources", index, "name")


def _addresses(nodes: tuple[NodeConfig, ...]) -> Iterator[tuple[int, str, Address]]:
    for index, node in enumerate(nodes):
        yield index, "peer", node.peer
        yield index, "client", node.client


def _check_addresses(nodes: tuple[NodeConfig, ...], allow_remote: bool) -> None:
    seen: dict[tuple[str, int], str] = {}
    for index, kind, address in _addresses(nodes):
        place = ("nodes", index, kind)
        host = "127.0.0.1" if address.host == "localhost" else address.host
        other = seen.setdefault((host, address.port), f"{kind} of node {nodes[index].name!r}")
        if other != f"{kind} of node {nodes[index].name!r}":
            raise _Fault(f"{address} is the {other} already; give every port of a node its own number", *place)
        if address.everywhere:
            raise _Fault(f"{address} cannot be dialled by the other nodes; write the address that they reach", *place)
        if not address.loopback and not allow_remote:
            raise _Fault(
                f"{address} can be reached from other machines, and there is no TLS: write 127.0.0.1, or accept it with "
                "'allow_remote: true' at the top level",
                *place,
            )


Places = dict[tuple[str | int, ...], Value]
"""Where each value stands in the file: keys and indexes from the top."""


def _read(top: Value, path: Path, places: Places) -> Config:
    fields = top.mapping(["cluster", "data_dir", "nodes"], ["timing", "retention_hours", "allow_remote", "resources"])
    places.update({(key,): value for key, value in fields.items()})
    directory = _directory(fields["data_dir"], path.parent)
    nodes = []
    for index, item in enumerate(fields["nodes"].sequence("node")):
        places["nodes", index] = item
        keys = item.mapping(["name", "peer", "client"])
        places.update({("nodes", index, key): value for key, value in keys.items()})
        name = keys["name"].text()
        nodes.append(NodeConfig(NodeName(name), _address(keys["peer"]), _address(keys["client"]), directory / name))
    return Config(
        cluster=fields["cluster"].text(),
        nodes=tuple(nodes),
        timing=_timing(fields["timing"], places) if "timing" in fields else Timing(),
        retention_ms=_retention_ms(fields["retention_hours"])
        if "retention_hours" in fields
        else limits.RETENTION_MS_DEFAULT,
        allow_remote="allow_remote" in fields and fields["allow_remote"].boolean(),
        path=path,
        resources=_resources(fields["resources"], path.parent, places) if "resources" in fields else (),
    )


def _resources(value: Value, directory: Path, places: Places) -> tuple[ResourceConfig, ...]:
    read = []
    for index, item in enumerate(value.sequence("resource")):
        places["resources", index] = item
        keys = item.mapping(["name", "url"])
        places.update({("resources", index, key): each for key, each in keys.items()})
        url = keys["url"]
        read.append(ResourceConfig(Branch(keys["name"].text()), url.text_as_written(), url.place, directory))
    return tuple(read)


def _directory(value: Value, base: Path) -> Path:
    try:
        return (base / Path(value.text()).expanduser()).absolute()
    except RuntimeError:
        raise value.error(f"{value.text()!r} names the home of nobody; write a path") from None


def _retention_ms(value: Value) -> int:
    return round(value.number(limits.RETENTION_MS_MIN / HOUR_MS, limits.RETENTION_MS_MAX / HOUR_MS, "hours") * HOUR_MS)


def _address(value: Value) -> Address:
    text = value.text("127.0.0.1:7401")
    try:
        return Address.parse(text)
    except ConfigError as error:
        raise value.error(str(error)) from None


def _timing(value: Value, places: Places) -> Timing:
    keys = value.mapping([], ["heartbeat_ms", "election_ms"])
    places.update({("timing", key): each for key, each in keys.items()})
    read: dict[str, int] = {}
    if "heartbeat_ms" in keys:
        read["heartbeat_ms"] = keys["heartbeat_ms"].integer(
            limits.HEARTBEAT_MS_MIN, limits.HEARTBEAT_MS_MAX, "milliseconds"
        )
    if "election_ms" in keys:
        bounds = keys["election_ms"].sequence("election_ms")
        if len(bounds) != 2:
            raise keys["election_ms"].error(
                "election_ms must be a list of two: the shortest and the longest wait, [300, 600]"
            )
        read["election_ms_min"], read["election_ms_max"] = (
            bound.integer(1, limits.ELECTION_MS_MAX, "milliseconds") for bound in bounds
        )
    return Timing(**read)
