"""Writing down whose a table of marks is, for those that know the url of a resource: the resolver, and ``resource init``.

Owed: a database that is another resource's by its marks is a ConfigError before anything is looked at: what is missing there
would pass for damage. Never: a name that is taken away; a program that names its own connection.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

from raftcoord.config import Config
from raftcoord.databases.owners import Owner
from raftcoord.databases.resource_config import ResourceConfig
from raftcoord.databases.session import DriverSession
from raftcoord.errors import ConfigError


class Claim(NamedTuple):
    """What ``claim`` found: whether there are marks at all, and whether they bore the name before."""

    marks: bool
    named: bool


def claim(session: DriverSession, owner: Owner, is_elsewhere: Callable[[str], bool]) -> Claim:
    """Name the marks for ``owner``, unless they are. ``is_elsewhere``: whether cluster.yaml has that resource in another place.

    Raises ConfigError if they are of such a resource, SqlError and ConnectionLost as the session does.
    """
    owners = session.run(session.dialect.owners())
    if owners is None:
        return Claim(False, False)
    if owner in owners:
        return Claim(True, True)
    _refuse(owner, [each.name for each in owners if each.cluster == owner.cluster], is_elsewhere)
    session.run(session.dialect.add_owner(owner))
    return Claim(True, False)


def elsewhere(config: Config, resource: ResourceConfig) -> frozenset[str]:
    """The names of the resources of ``config`` that are in another place than ``resource``, as far as their urls can be read."""
    here = resource.shown()
    return frozenset(each.name for each in config.resources if _place(each) != here)


def _place(resource: ResourceConfig) -> str:
    try:
        return resource.shown()
    except ConfigError:  # a variable of its url is not set here
        return ""


def _refuse(owner: Owner, ours: Collection[str], is_elsewhere: Callable[[str], bool]) -> None:
    others = sorted(name for name in ours if is_elsewhere(name))
    if others:
        raise ConfigError(
            f"the url of resource {owner.name!r} leads to the database of resource {others[0]!r}, as its table of marks says; "
            "correct the urls in cluster.yaml"
        )
