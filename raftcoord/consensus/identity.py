"""Who is who: a node that lost its data must not vote again under its old name (hazard H16).

Theory of operation. A vote or an acknowledgement is worth what its giver remembers of it. Each node.db is born with an
identity of its own; who has lost its node.db has another one. So it is told apart from the node that the others believed.

    first contact   what a peer says it is when nothing is known under its name is recorded in a synced commit, before
                    anything else that it says is used, and before it is told that it is known here
    refused         a peer whose name has another identity here, whoever of the two dialed
    admitted        a node that has ever taken part; or one that has met every other node: each knew its identity, on disk,
                    and it knew theirs. Who is not admitted ignores every message and stands for nothing
    enrolled        the ledger says which identity a name has now (Enroll): it replaces what was known of that name

Why a wiped node gives no second vote. Before the first one it was admitted, so every other node has the old identity on disk and
refuses the new one. It is admitted only when every other node has taken it for the one of its name.

Why that is safe after Enroll. Enroll is proposed when the new node has been seen, so when the old one is gone. It is committed
by a majority M that does not count the new node, which is not admitted.
- Entries: M holds every entry that was committed before, and whatever is committed until the new node is admitted
  is held by a majority that does not count it either. Any majority that elects a leader later has a member of M in it that is
  not the new node, and that member gives its vote only to a log which is as complete.
- Terms: a vote of the old node in some term t was given before Enroll was proposed. If Enroll was committed in a term below t,
  the member of M that voted in t as well had Enroll in its log, and its candidate had not: it cannot have voted so, and nobody
  was elected in t. Otherwise every node that has applied Enroll is in term t or a later one and has followed a leader there: none
  of them can be a candidate in t any more, and the new node is admitted only when all of them have applied it.

Both rest on the old node being gone: stop it before its name is enrolled anew. Whoever is linked to it refuses to propose that.

Pure: no I/O. The driver stores ``unsaved`` in its own sync, peers.py asks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from raftcoord.errors import ConfigError
from raftcoord.types import NodeName

_IDENTITY: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)


class Identities:
    """What one node knows of its peers, and whom it has met since it started.

    ``own``: its identity (32 hex digits); ``known``: what its node.db knows of ``peers``; ``took_part``: whether node.db shows
    that it ever took part. ``on_change``: called when there is something to be stored, or another peer was met.
    """

    def __init__(
        self,
        own: str,
        peers: Iterable[NodeName],
        known: Mapping[str, str],
        *,
        took_part: bool,
        on_change: Callable[[], None],
    ) -> None:
        self.own: Final = own
        self._peers: Final = frozenset(peers)
        self._known = {name: known[name] for name in self._peers if name in known}
        self._unsaved: dict[NodeName, str] = {}
        self._refused: dict[NodeName, str] = {}
        self._met: set[NodeName] = set()
        self._took_part = took_part
        self._on_change = on_change

    # -- taking part ----------------------------------------------------------------------------------------------

    @property
    def admitted(self) -> bool:
        """Whether this node may take part."""
        return self._took_part or self._met >= self._peers

    @property
    def waiting_for(self) -> list[NodeName]:
        """Whom it must meet before it may take part."""
        return [] if self.admitted else sorted(self._peers - self._met)

    def meet(self, name: NodeName) -> None:
        """A hello has shown that that peer and this node know each other, both on disk."""
        if name not in self._met:
            self._met.add(name)
            self._on_change()

    # -- who is who -----------------------------------------------------------------------------------------------

    def known(self, name: NodeName) -> str:
        """That peer's identity as it is on disk here and still stands, or "": what it may be told."""
        return "" if name in self._unsaved else self._known.get(name, "")

    def refused(self, name: NodeName) -> str:
        """The identity that was refused under this name most recently, or ""."""
        return self._refused.get(name, "")

    def stands(self, name: NodeName, identity: str) -> bool:
        """Whether that peer is the one of its name, on disk or about to be."""
        return self._standing(name) == identity

    def judge(self, name: NodeName, identity: object) -> str:
        """The identity that a peer says it has, recorded if it is the first under this name. ConfigError if it is another."""
        if not isinstance(identity, str) or _IDENTITY.fullmatch(identity) is None:
            raise ConfigError(
                f"node {name} does not say which node.db is its own; run the same raftcoord release on every node"
            )
        standing = self._standing(name)
        if not standing:
            self._unsaved[name] = identity
            self._on_change()
        elif standing != identity:
            self._refused[name] = identity
            raise ConfigError(
                f"node {name} was wiped or replaced: it says it is {identity[:8]}, known here is {standing[:8]}; if its data is "
                f"lost for good, run `raftcoord node replace {name}`; else give it back its data directory"
            )
        return identity

    def acquainted(self, name: NodeName, identity: str, *, told: str, knows: object) -> bool:
        """Whether both ends have each other on disk and have said so. The peer is ``identity``; ``told``: the one that it was
        told is known of it here; ``knows``: the one that it says it knows of this node.
        """
        return told == identity == self.known(name) and knows == self.own

    def _standing(self, name: NodeName) -> str:
        return self._unsaved.get(name) or self._known.get(name, "")

    # -- storing --------------------------------------------------------------------------------------------------

    @property
    def unsaved(self) -> dict[NodeName, str]:
        """What must be stored before it is used."""
        return dict(self._unsaved)

    def enroll(self, enrolled: Mapping[str, str]) -> bool:
        """What the ledger says stands at once: the former one of a name is refused from now on. Whether it said anything new."""
        new = {
            name: enrolled[name]
            for name in self._peers
            if not self.stands(name, enrolled.get(name, self._standing(name)))
        }
        self._unsaved.update(new)
        if new:
            self._on_change()
        return bool(new)

    def saved(self, stored: Mapping[NodeName, str]) -> None:
        """``stored`` is on disk."""
        for name, identity in stored.items():
            self._known[name] = identity
            if self._unsaved.get(name) == identity:
                del self._unsaved[name]
            if self._refused.get(name) == identity:
                del self._refused[name]
