"""Who is who, and how a node becomes a member: by founding the cluster with all others, or by being taken in.

Theory of operation. A vote or an acknowledgement is worth what its giver remembers of it. Each node.db is born with an
identity of its own; a node that has lost its node.db has another one (hazard H16). Members are identities with ids
(core/tables/members.py), so a node that lost its data is nobody until it is taken in as a new member.

Before this node knows members, cluster.yaml is all there is:

    first contact   the identity that a peer says it has, when nothing is known under its name, is recorded in a synced commit,
                    before anything else that it says is used, and before it is told that it is known here
    refused         a peer whose name has another identity here; a peer whose cluster.yaml names other nodes
    founded         this node has met every other one of its cluster.yaml: each had the other's identity on disk and said so.
                    Then it makes the founding set by itself and takes part
    taken in        a peer says a later set than the founding one, and this node's identity is in it; as a voter only if that
                    set is later than the confirmed one

Why two founding sets never elect two leaders. A node takes part with its founding set only when all nodes that the set names
have met it, with the same names. So all nodes that take part in the founding have the same names and ids, whatever their files
say. A node that is wiped before it met everybody never took part; one that is wiped later is refused by all others, who
have its former identity on disk. What nodes believe of identities may differ until the first leader has replicated
what it believes (epoch 2). Until that is committed, two leaders in turn may believe differently; so a voter of the confirmed set
takes part only when it has met everybody itself, and a later set is made only when the confirmed one is committed.

Why being taken in is safe. What another node says about the members is hearsay, and perhaps not even committed: such a node
answers votes and entries, and does not stand for election before its own log tells it the members. It is a learner at first, so
nobody counts it before a leader has seen that it has everything.

Once this node knows members, a peer is who its identity says, in the newest set of this node's log or in the newest set that a
member has said. Others are refused, and remembered: a name that is not a member's may be added, a member's name under which
another identity came may be replaced (consensus/membership.py).

Pure: no I/O. The driver stores ``unsaved`` in its own sync, peers.py asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from raftcoord import limits
from raftcoord.config import Address
from raftcoord.core.tables.members import Member, Members, founded, from_list, to_list
from raftcoord.errors import ConfigError, NoMember
from raftcoord.types import NodeName, checked_name, is_identity

STRANGER_S: Final = 5.0
"""Seconds for which a node that was refused counts as being there: it dials again after a second at most."""

CONFIRMED: Final = 2
"""The epoch of the set in which the first leader confirms the founding."""


class PlaceInFile(NamedTuple):
    """A node as cluster.yaml has it: the id that it gets if the cluster is founded from that file, and its addresses."""

    id: int
    peer: str
    client: str


class Stranger(NamedTuple):
    """A node that was refused because it is no member: its data's identity, and where it says that it listens."""

    identity: str
    peer: str
    client: str


class Introduction(NamedTuple):
    """What a hello says of its sender. ``knows``: the identity that it has on disk for this node, or ""."""

    name: NodeName
    identity: str
    knows: str
    names: tuple[str, ...]
    members: Members | None
    peer: str
    client: str


def said_in(details: Mapping[str, Any]) -> Introduction:
    """What a hello says. ConfigError if it does not say what every node says."""
    name, identity, knows = (details.get(key) for key in ("node", "identity", "knows"))
    names, addresses, rows = (details.get(key) for key in ("nodes", "addresses", "members"))
    checked = NodeName(checked_name(name, "node"))
    members = None if rows is None else from_list(rows)
    if (
        not is_identity(identity)
        or not isinstance(knows, str)
        or not _is_texts(names, limits.MEMBERS_MAX, limits.NAME_LENGTH_MAX)
        or not _is_texts(addresses, 2, limits.ADDRESS_LENGTH_MAX)
        or len(addresses) != 2  # type: ignore[arg-type]
        or (rows is not None and members is None)
    ):
        raise ConfigError(
            f"node {checked} does not say which node.db is its own and who the members are; run the same raftcoord release on "
            "every node"
        )
    peer, client = (str(Address.parse(each)) for each in addresses)  # type: ignore[union-attr]
    return Introduction(checked, identity, knows, tuple(names), members, peer, client)  # type: ignore[arg-type]


def _is_texts(value: object, most: int, length: int) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) <= most
        and all(isinstance(each, str) and len(each) <= length for each in value)
    )


class Identities:
    """What one node knows of the others, and whom it has met since it started.

    ``own``, ``name``: its identity (32 hex digits) and name; ``file``: the nodes of its cluster.yaml, itself included; ``known``:
    what its node.db knows of them; ``members``: the newest set in its log, or what it was told when it was taken in; None:
    none; ``joined``: what it was told then, whatever its log has reached. ``on_change``: called when there is something to be
    stored, or another peer was met.
    """

    def __init__(
        self,
        own: str,
        name: NodeName,
        file: Mapping[NodeName, PlaceInFile],
        known: Mapping[str, str],
        members: Members | None,
        joined: Members | None = None,
        *,
        on_change: Callable[[], None],
        now: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.own: Final = own
        self.name: Final = name
        self._file: Final = dict(file)
        self._others: Final = frozenset(file) - {name}
        self._known = {other: known[other] for other in sorted(self._others) if other in known}
        self._unsaved: dict[NodeName, str] = {}
        self._refused: dict[NodeName, tuple[float, Stranger]] = {}
        self._now = now
        self._met: set[NodeName] = set()
        self._on_change = on_change
        self.members = members
        """The newest set in the log; None before the founding."""
        self.applied: Members | None = None
        """The newest set that is applied here."""
        self.heard: Members | None = None
        """A later set than ``members``, as another member has said it, or as it was before the log was truncated."""
        self._keep_later(joined)

    # -- taking part ----------------------------------------------------------------------------------------------

    @property
    def waiting_for(self) -> list[NodeName]:
        """Whom it must meet before the cluster is founded."""
        return [] if self.members is not None else sorted(self._others - self._met)

    @property
    def founding(self) -> Members | None:
        """The founding set, if this node may make it now. ConfigError if a cluster cannot have so many nodes."""
        if self.members is not None or self._met < self._others or self._unsaved:
            return None
        all_known = {**self._known, self.name: self.own}
        return founded(
            {name: (place.id, all_known[name], place.peer, place.client) for name, place in self._file.items()}
        )

    @property
    def invitation(self) -> Members | None:
        """The set that this node is taken into, and has not stored."""
        return self.heard if self.members is None else None

    @property
    def has_news(self) -> bool:
        """Whether something is to be stored, or this node may begin to take part."""
        return bool(self._unsaved) or self.invitation is not None or (self.members is None and not self.waiting_for)

    @property
    def contradiction(self) -> str:
        """Why this node must not start with its cluster.yaml: it names others than the members, now or ever; or ""."""
        newest = self.heard or self.members
        if newest is None or set(newest.names) == set(self._file) or self.file_is_old:
            return ""
        return (
            f"cluster.yaml names the nodes {', '.join(sorted(self._file))}, and the members of this cluster are "
            f"{', '.join(newest.names)} (epoch {newest.epoch}, stored in this node's data directory). The file does not change "
            "who the members are: write these names into it; to change them, use `raftcoord node add`, `node remove` and `node "
            "replace` while the cluster runs"
        )

    @property
    def file_is_old(self) -> bool:
        """Whether cluster.yaml names members of before: it was not brought up to date after a change."""
        newest = self.heard or self.members
        names = tuple(sorted(self._file))
        return newest is not None and names != newest.names and names in newest.past

    def follow(self, members: Members, applied: Members | None = None) -> None:
        """The newest set in the log is this one now; it may be an earlier one, while this node catches up.

        ``applied``: the newest one that is applied here. A node that is being removed stays linked until that is committed: it
        may be the leader, who waits for the acknowledgements.
        """
        before, heard = self.members, self.heard
        self.members, self.heard, self.applied = members, None, applied
        for later in (before, heard):
            self._keep_later(later)
        for name, (_, stranger) in tuple(self._refused.items()):
            if self._member(stranger.identity) is not None:
                del self._refused[name]

    def _keep_later(self, members: Members | None) -> None:
        newest = self.heard or self.members
        if members is not None and (newest is None or members.epoch > newest.epoch):
            self.heard = members

    def meet(self, name: NodeName) -> None:
        """A hello has shown that that peer and this node know each other, both on disk."""
        if name not in self._met:
            self._met.add(name)
            self._on_change()

    # -- who is who -----------------------------------------------------------------------------------------------

    def introduction(self, to: NodeName, identity: str = "") -> dict[str, Any]:
        """What this node says in a hello of itself, and of the peer ``to``, whose ``identity`` is known if it has said hello."""
        names = self._file if self.members is None else self.members.names
        place = self._file[self.name]
        return {
            "node": self.name,
            "identity": self.own,
            "knows": self.known(to, identity),
            "nodes": sorted(names),
            "members": None if self.members is None else to_list(self.members),
            "addresses": [place.peer, place.client],
        }

    @property
    def to_dial(self) -> dict[NodeName, str]:
        """Every other node, and where it is found: where cluster.yaml says, else where it was when it became a member."""
        if self.members is None:
            return {name: place.peer for name, place in self._file.items() if name != self.name}
        return {
            member.name: self._file[member.name].peer if member.name in self._file else member.peer
            for member in self._all()
            if member.name != self.name
        }

    def id_of(self, name: NodeName, identity: str) -> int | None:
        """The id of the peer that has this name and identity; None: it is none of ours, or none any more."""
        if self.members is None:
            return self._file[name].id if self._standing(name) == identity else None
        member = self._member(identity)
        return None if member is None or member.name != name else member.id

    def known(self, name: NodeName, identity: str = "") -> str:
        """That peer's identity as it is on disk here, or "": what it may be told. ``identity``: what it says, if it has."""
        if self.members is not None:
            if identity and self.id_of(name, identity) is not None:
                return identity
            named = [member for member in self._all() if member.name == name]
            return max(named).identity if named else ""
        return "" if name in self._unsaved else self._known.get(name, "")

    def refused(self, name: str) -> Stranger | None:
        """The node that was refused under this name just now: one that still runs comes again every second."""
        return self.strangers.get(NodeName(name))

    @property
    def strangers(self) -> dict[NodeName, Stranger]:
        """Who was refused just now, by name, and is no member of any name yet."""
        since = self._now() - STRANGER_S
        return {name: stranger for name, (at, stranger) in self._refused.items() if at >= since}

    def judge(self, said: Introduction) -> None:
        """Take note of a peer by what its hello says. ConfigError if it is refused."""
        if said.identity == self.own:
            raise ConfigError(
                f"another process uses a copy of the data of node {self.name} ({self.own[:8]}); stop one of the two, and give "
                "each node a data directory of its own"
            )
        if self.members is None:
            self._judge_by_file(said)
        else:
            self._judge_by_members(said, self.members)

    def _judge_by_file(self, said: Introduction) -> None:
        name = said.name
        if said.members is not None and said.members.epoch > 1:
            own = said.members.with_identity(self.own)
            if own is None:
                raise self._not_in(said.members)
            if said.members.epoch > CONFIRMED or not own.voter:
                if self.heard is None or said.members.epoch > self.heard.epoch:
                    self.heard = said.members
                    self._on_change()
                return
        if set(said.names) != set(self._file) or name not in self._others:
            raise ConfigError(
                f"node {name} was started for the nodes {', '.join(said.names)}, and node {self.name} for "
                f"{', '.join(sorted(self._file))}; use the same cluster.yaml on every node"
            )
        standing = self._standing(name)
        if not standing:
            self._unsaved[name] = said.identity
            self._on_change()
        elif standing != said.identity:
            way = "give it back its data directory, or found the cluster again from empty ones"
            raise _another(name, said.identity, standing, way)

    def _judge_by_members(self, said: Introduction, members: Members) -> None:
        if self._member(said.identity) is None and not self._hears_of(said):
            member = members.named(said.name)
            self._refuse(said)
            if member is not None:
                raise _another(said.name, said.identity, member.identity, _way_back(said.name))
            raise _no_member(said.name, members)
        self._hears_of(said)
        member = self._member(said.identity)
        if member is None or member.name != said.name:
            raise ConfigError(
                f"a node called {said.name} has the data {said.identity[:8]} of another; give each node a directory of its own"
            )

    def _hears_of(self, said: Introduction) -> bool:
        """Whether a member, or a newer one that this node's log does not know yet, says a later set; it is kept."""
        newest = self.heard or self.members
        later = said.members is not None and newest is not None and said.members.epoch > newest.epoch
        if not later or said.members is None or said.members.with_identity(said.identity) is None:
            return False
        if said.members.with_identity(self.own) is None and self._member(said.identity) is None:
            return False
        self.heard = said.members
        self._on_change()
        return True

    def acquainted(self, said: Introduction, told: str) -> bool:
        """Whether both ends have each other on disk and have said so. ``told``: the identity that the peer was told is known
        of it here.
        """
        return told == said.identity == self.known(said.name, said.identity) and said.knows == self.own

    def _not_in(self, members: Members) -> ConfigError:
        member = members.named(self.name)
        if member is not None:
            return _another(self.name, self.own, member.identity, _way_back(self.name))
        return _no_member(self.name, members)

    def _refuse(self, said: Introduction) -> None:
        if said.name not in self._refused and len(self._refused) >= limits.MEMBERS_MAX:
            del self._refused[next(iter(self._refused))]
        self._refused[said.name] = (self._now(), Stranger(said.identity, said.peer, said.client))

    def _standing(self, name: NodeName) -> str:
        return self._unsaved.get(name) or self._known.get(name, "")

    def _all(self) -> Iterator[Member]:
        for members in (self.members, self.applied, self.heard):
            if members is not None:
                yield from members.members

    def _member(self, identity: str) -> Member | None:
        """A later set goes first: a learner's id in this node's log may never have been committed, and be another's since."""
        sets = (self.heard, self.members, self.applied)
        return next((member for each in sets if each is not None if (member := each.with_identity(identity))), None)

    # -- storing --------------------------------------------------------------------------------------------------

    @property
    def unsaved(self) -> dict[NodeName, str]:
        """What must be stored before it is used."""
        return dict(self._unsaved)

    def saved(self, stored: Mapping[NodeName, str]) -> None:
        """``stored`` is on disk."""
        for name, identity in stored.items():
            self._known[name] = identity
            if self._unsaved.get(name) == identity:
                del self._unsaved[name]


def _another(name: NodeName, identity: str, standing: str, way: str) -> ConfigError:
    return ConfigError(
        f"node {name} was wiped or replaced: it says it is {identity[:8]}, known of it is {standing[:8]}; {way}"
    )


def _way_back(name: NodeName) -> str:
    return f"if its data is lost for good, run `raftcoord node replace {name}`; else give it back its data directory"


def _no_member(name: NodeName, members: Members) -> NoMember:
    gone = "is no longer a member" if any(name in names for names in members.past) else "is no member"
    return NoMember(
        f"node {name} {gone} of this cluster, whose members are {', '.join(members.names)}; to take it in, run "
        f"`raftcoord node add {name}`"
    )
