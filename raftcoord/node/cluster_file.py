"""A new cluster.yaml, with comments that say what each line is for: what ``raftcoord init`` writes.

Owed: a file that ``raftcoord up`` starts as it is, on ports that nobody uses now. Never: a file that was there is lost,
unless that was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from raftcoord.config import Address, Config
from raftcoord.errors import ConfigError, LocalProtocolError
from raftcoord.processes.local_cluster import free_ports
from raftcoord.types import checked_name

NAME: Final = "demo"
"""The cluster's name, if its directory has none that would do."""

_TEMPLATE: Final = """\
# A cluster of {number} on this machine. `raftcoord up` starts it as it is.

# The cluster's name: a-z, 0-9 and '-'. A node refuses data that belongs to another cluster.
cluster: {cluster}

# Where the nodes keep what they must not lose, relative to this file: data/{first} and so on, for their owner alone.
data_dir: data

# Three nodes outlive the loss of one, five the loss of two. An even number gains nothing over one node less, and is refused.
#   peer    the other nodes connect here
#   client  clients and participants connect here
nodes:
{nodes}
# How soon a lost leader is replaced: after election_ms of silence, a random wait between the two (milliseconds).
# Between machines that are far apart, multiply all three.
timing:
  heartbeat_ms: 50
  election_ms: [300, 600]

# How long finished transactions are remembered. A client that asks later gets FORGOTTEN.
retention_hours: 24

# Without TLS a node listens on loopback only. `true` allows other addresses: then everybody who reaches these ports is trusted.
allow_remote: false

# Databases that take part in transactions: for each the name of its branches, and the URL for the resolver, which finishes
# what crashed programs leave prepared there. `raftcoord up` starts one when resources are named. ${{NAME}}, here and in any
# other value, comes from the environment; in a url it is read by the resolver alone: nodes hold no credentials.
#resources:
#  - {{name: ledger, url: "postgresql://app:${{PG_PASSWORD}}@127.0.0.1:5432/shop"}}
#  - {{name: orders, url: "mariadb://app:${{MY_PASSWORD}}@127.0.0.1:3306/shop"}}
"""

_NUMBERS: Final = {
    1: "one raftcoord node",
    3: "three raftcoord nodes",
    5: "five raftcoord nodes",
    7: "seven raftcoord nodes",
}


def commented(cluster: str, addresses: Iterable[tuple[Address, Address]]) -> str:
    """The text for nodes n1, n2 and so on at these ``addresses``: for the other nodes, and for clients."""
    nodes = [
        f"  - name: n{number}\n    peer: {peer}\n    client: {client}\n"
        for number, (peer, client) in enumerate(addresses, 1)
    ]
    return _TEMPLATE.format(cluster=cluster, number=_NUMBERS[len(nodes)], first="n1", nodes="".join(nodes))


def write_new(path: Path, nodes: int, cluster: str = "", *, force: bool = False) -> Config:
    """Write ``path`` for ``nodes`` nodes (1, 3, 5 or 7) on free loopback ports. ``cluster``: "" for the directory's name.

    Raises ConfigError if ``path`` is there and not ``force``, or cannot be written; LocalProtocolError for a wrong name.
    """
    name = checked_name(cluster, "cluster") if cluster else _name_of(path.absolute().parent)
    ports = iter(free_ports(2 * nodes))
    text = commented(
        name, [(Address("127.0.0.1", next(ports)), Address("127.0.0.1", next(ports))) for _ in range(nodes)]
    )
    config = Config.parse(text, path)
    try:
        _write(path, text, force)
    except FileExistsError:
        raise ConfigError(
            f"{path} is there already and was not changed; --force replaces it, -c writes another file"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}; choose another with -c") from None
    return config


def _write(path: Path, text: str, force: bool) -> None:
    if not force:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
        return
    whole = path.with_name(f"{path.name}.new")
    whole.write_text(text, encoding="utf-8")
    whole.replace(path)


def _name_of(directory: Path) -> str:
    try:
        return checked_name(directory.name, "cluster")
    except LocalProtocolError:
        return NAME
