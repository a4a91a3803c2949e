"""Clusters that are mistaken for each other: a client or a participant names its own in the hello, by name and by id.

Two clusters may have one name, such as ``demo`` in two directories; the id tells them apart.

Owed: a client or a participant of the other one is noticed before anything is done for it, and both ids are in the log. Never: a
question to one that does not know an id yet; it learns ours.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from raftcoord.errors import ConfigError
from raftcoord.foreign import shown

log: Final = logging.getLogger("raftcoord.node")


def of_another_cluster(details: dict[str, Any], ours: str, name: str) -> str:
    """Why a hello with these ``details`` is of another cluster than ours (id ``ours``, called ``name``); "" if it is not."""
    called = details.get("cluster_name")
    if type(called) is str and called and called != name:
        return f"it is for cluster {shown(called)!r}, and this node is of {name!r}; correct the addresses in its cluster.yaml"
    theirs = details.get("cluster")
    if type(theirs) is not str or not theirs or not ours or theirs == ours:
        return ""
    return (
        f"it belongs to the cluster with the id {theirs[:16]!r}, and this node to {ours!r}: two clusters are called {name!r}; "
        "correct the addresses in its cluster.yaml"
    )


def refuse_client(why: str) -> None:
    """Raise ConfigError if there is a reason ``why``."""
    if why:
        raise ConfigError(why)


def note_participant(name: str, why: str) -> None:
    """Log that a participant is not admitted. Its worker reads the same in our answer, and ends with one sentence."""
    log.warning("participant %s is not admitted: %s", name, why)
