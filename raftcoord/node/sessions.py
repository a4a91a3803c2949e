"""The participants that are connected to this node.

Owed: ``pick`` gives a live session of that name or None; a caller that waits for a name is called back when it connects.
Several instances may serve one name when they share its state, and the one with the least to do is picked. No participant has
the name of a resource, whose branches the resolver finishes. Never: what is asked of a participant.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from raftcoord import limits
from raftcoord.errors import LocalProtocolError, Overloaded
from raftcoord.foreign import Rationed
from raftcoord.node.endpoint import Endpoint

log: Final = logging.getLogger("raftcoord.node")


class ParticipantSession:
    """One instance of the participant ``name``, as long as it can be reached."""

    __slots__ = ("endpoint", "identity", "instance", "name")

    def __init__(self, name: str, instance: str, endpoint: Endpoint, identity: str) -> None:
        self.name = name
        self.instance = instance
        self.endpoint = endpoint
        self.identity = identity
        """Of its state: 32 hex digits, or "" from one that gives none."""


class Sessions:
    """All sessions of this node, by participant. ``resources``: the names of those in this node's cluster.yaml."""

    def __init__(self, resources: Iterable[str] = ()) -> None:
        self._resources = frozenset(resources)
        self._log = Rationed(log, asyncio.get_running_loop().time)
        self._by_name: dict[str, list[ParticipantSession]] = {}
        self.on_connected: list[Callable[[str], None]] = []
        """Called with a participant's name whenever an instance of it has connected."""

    def add(self, name: str, instance: str, endpoint: Endpoint, identity: str = "") -> ParticipantSession:
        """An instance has said hello. An older session of the same instance is half dead and is closed.

        The caller has made sure that ``identity`` may go by that name (admission.py).
        """
        if sum(map(len, self._by_name.values())) >= limits.SESSIONS_MAX:
            raise Overloaded(
                f"{limits.SESSIONS_MAX} participants are connected to this node, the most that it serves; stop some"
            )
        made = ParticipantSession(name, instance, endpoint, identity)
        sessions = self._by_name.setdefault(name, [])
        for old in [old for old in sessions if old.instance == instance]:
            sessions.remove(old)
            old.endpoint.close(f"participant {name!r} has connected anew")
        sessions.append(made)
        self._log.info("participant %s connected from %s (%d here)", name, endpoint, len(sessions))
        for listener in self.on_connected:
            listener(name)
        return made

    def check_free(self, name: str) -> None:
        """Raise LocalProtocolError if ``name`` is that of a resource: both would finish its branches."""
        if name in self._resources:
            raise LocalProtocolError(
                f"{name!r} is a resource of this node's cluster.yaml, which the resolver finishes; give the participant "
                "another name, or rename the resource on every node and start the nodes again"
            )

    def check_participant(self, name: str) -> None:
        """Raise LocalProtocolError if ``name`` is that of a resource, which is asked for no vote here."""
        if name in self._resources:
            raise LocalProtocolError(
                f"{name!r} is a resource of cluster.yaml and no participant: submit() asks participants alone. Work on a "
                f"database over your own connection: with client.transaction() as tx: tx.enlist(connection, {name!r}). "
                "Nothing was attempted"
            )

    def remove(self, session: ParticipantSession, reason: str) -> None:
        """Its connection has ended."""
        sessions = self._by_name.get(session.name, [])
        if session in sessions:
            sessions.remove(session)
            self._log.info("participant %s disconnected (%d left): %s", session.name, len(sessions), reason)
            if not sessions:
                del self._by_name[session.name]

    def pick(self, name: str, *, but: ParticipantSession | None = None) -> ParticipantSession | None:
        """The live session of ``name`` with the fewest open requests, other than ``but``; None if there is none."""
        sessions = self._by_name.get(name)
        if sessions is None:
            return None
        if len(sessions) == 1:
            only = sessions[0]
            return None if only.endpoint.gone or only is but else only
        live = [session for session in sessions if not session.endpoint.gone and session is not but]
        return min(live, key=lambda session: session.endpoint.waiting, default=None)

    def of(self, name: str) -> list[ParticipantSession]:
        """The live sessions of ``name``."""
        return [session for session in self._by_name.get(name, ()) if not session.endpoint.gone]

    def names(self) -> list[str]:
        """The participants that are connected here, sorted."""
        return sorted(self._by_name)
