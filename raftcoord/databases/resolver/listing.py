"""Resources for an operator: what is prepared in each, whose it is, and the marks made.

Owed: every resource is listed, reachable or not; every branch with the format of our gids, of whichever cluster. Never: a
change, but for ``make_marks``, which is asked to.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from raftcoord.client.synchronous import Client
from raftcoord.config import Config
from raftcoord.databases.drivers import connect
from raftcoord.databases.owners import Owner
from raftcoord.databases.resolver.claiming import claim, elsewhere
from raftcoord.databases.resource_config import ResourceConfig
from raftcoord.databases.session import DriverSession
from raftcoord.databases.steps import ConnectionLost, Finding, LoginRefused, PreparedHere, SqlError
from raftcoord.errors import ConfigError, RaftcoordError, Unavailable


class ListedBranch(NamedTuple):
    """A prepared branch. ``whose``: ours, another cluster's id, or "" if no node could be asked for the id of ours.

    ``state``: what the ledger says of its transaction; "" if it is not ours, or no node could be asked.
    """

    each: PreparedHere
    whose: str
    state: str

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        gid, age_s, database, here = self.each
        return {
            "txid": str(gid.txid),
            "branch": gid.branch,
            "gid": str(gid),
            "cluster": gid.cluster,
            "ours": self.whose == OURS if self.whose else None,
            "state": self.state or None,
            "age_s": None if age_s is None else round(age_s, 1),
            "database": database,
            "here": here,
        }


class Listed(NamedTuple):
    """One resource: its branches, or why they are not known (``trouble``)."""

    name: str
    where: str
    branches: list[ListedBranch]
    trouble: str


OURS = "ours"


def listing(config: Config) -> list[Listed]:
    """Every resource of ``config``. Raises ConfigError for one whose URL cannot be used."""
    named(config)
    with Client.from_config(config, name="resource") as client:
        try:
            cluster = str(client.node_info()["cluster"])
        except RaftcoordError:
            cluster = ""
        return [_listed(resource, cluster, client) for resource in config.resources]


class Made(NamedTuple):
    """``named``: whether the marks have the resource's name; ``findings``: what the database lacks."""

    named: bool
    findings: list[Finding]


def cluster_of(config: Config) -> str:
    """The cluster's id, or "" if no node tells it."""
    try:
        with Client.from_config(config, name="resource") as client:
            return str(client.node_info()["cluster"])
    except RaftcoordError:
        return ""


def make_marks(config: Config, resource: ResourceConfig, cluster: str) -> Made:
    """Make the table that proves what was committed, unless it is there, and write down that it is of ``resource``.

    ``cluster``: its id; "": not known, so that the resolver names the table. Raises Unavailable if it cannot be reached,
    ConfigError if it refuses, or is another resource's.
    """
    session = _connected(resource)
    try:
        session.run(session.dialect.create_marks())
        if cluster:
            others = elsewhere(config, resource)
            claim(session, Owner(cluster, resource.name), others.__contains__)
        return Made(bool(cluster), session.run(session.database.checks.check()))
    except SqlError as error:
        raise ConfigError(
            f"resource {resource.name} ({resource.shown()}) refuses: {resource.scrub(session.database.explained(error))}; run "
            "this with a url whose user may create tables there, once"
        ) from None
    except ConnectionLost as error:
        raise Unavailable(_unreachable(resource, error)) from None
    finally:
        session.close()


def named(config: Config, name: str | None = None) -> list[ResourceConfig]:
    """The resource ``name``, or all. Raises ConfigError if there is none."""
    if name is not None:
        return [config.resource(name)]
    if not config.resources:
        raise ConfigError(f"{config.path or 'cluster.yaml'} names no resources; write them under 'resources:'")
    return list(config.resources)


def _listed(resource: ResourceConfig, cluster: str, client: Client) -> Listed:
    where = resource.shown()
    try:
        session = _connected(resource)
        try:
            found = session.run(session.dialect.list_prepared(None))
        finally:
            session.close()
    except SqlError as error:
        return Listed(resource.name, where, [], resource.scrub(resource.database().explained(error)))
    except (ConnectionLost, Unavailable, ConfigError) as error:
        return Listed(resource.name, where, [], resource.scrub(str(error)))
    return Listed(resource.name, where, [_branch(each, cluster, client) for each in found], "")


def _branch(each: PreparedHere, cluster: str, client: Client) -> ListedBranch:
    if each.gid.cluster != cluster:
        return ListedBranch(each, f"cluster {each.gid.cluster}" if cluster else "", "")
    try:
        return ListedBranch(each, OURS, str(client.status(each.gid.txid).state))
    except RaftcoordError:
        return ListedBranch(each, OURS, "")


def _connected(resource: ResourceConfig) -> DriverSession:
    try:
        return connect(resource.url())
    except LoginRefused as error:
        raise ConfigError(
            f"resource {resource.name} ({resource.shown()}): {resource.scrub(str(error))}; correct user, password and database "
            "of its url, or the variable that it names"
        ) from None
    except ConnectionLost as error:
        raise Unavailable(_unreachable(resource, error)) from None


def _unreachable(resource: ResourceConfig, error: ConnectionLost) -> str:
    return f"resource {resource.name} ({resource.shown()}) cannot be reached: {resource.scrub(str(error))}"
