"""Who the members of the cluster are, and the one step at a time by which that changes.

Theory of operation. A majority is counted over a set of voters, so two nodes that count over different sets can elect two
leaders. The set is therefore part of the replicated log and not of a file: an entry that holds a whole new set counts from the
moment it is appended (Ongaro, "Consensus: Bridging Theory and Practice", 2014, section 4.1). Any majority of the old voters
and any majority of the new ones overlap, because a step adds or removes one voter at most.

    epoch 1    the founding set, made by every node from its own cluster.yaml when it has met all others (consensus/identity.py)
    epoch n+1  one step after epoch n:
               confirmed   nothing but the identities, by the first leader: from here on they are the same everywhere
               added       a learner more: it is sent the log, and does not vote
               promoted    a learner becomes a voter
               removed     a voter or a learner less
               replaced    a voter or a learner less, and a learner of the same name, with an id of its own, more

An id is given to one member and never again, so a vote or an acknowledgement under an id always means the same data.

Pure: no I/O. Who may propose a step, and when, is decided in consensus/membership.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, NamedTuple

import msgpack

from raftcoord import limits
from raftcoord.core.tables.table import Part, Table, TableField, Tables
from raftcoord.errors import ConfigError, LocalProtocolError
from raftcoord.types import NodeName, checked_name, is_identity

FORMAT: Final = 1


class Member(NamedTuple):
    """One node. ``identity``: of its data, 32 hex digits; ``voter`` False: a learner.

    ``peer``, ``client``: the addresses (``host:port``) under which it was made known; cluster.yaml goes before them.
    """

    id: int
    name: NodeName
    identity: str
    voter: bool
    peer: str
    client: str


class Members(NamedTuple):
    """One set. ``next_id``: the id of the next new member. ``past``: the names in earlier sets, newest last."""

    epoch: int
    next_id: int
    members: tuple[Member, ...]
    past: tuple[tuple[NodeName, ...], ...] = ()

    @property
    def names(self) -> tuple[NodeName, ...]:
        """The members' names in order, learners included."""
        return tuple(sorted(member.name for member in self.members))

    @property
    def voters(self) -> frozenset[int]:
        """The ids that count for a majority."""
        return frozenset(member.id for member in self.members if member.voter)

    @property
    def learner(self) -> Member | None:
        """The one that catches up, if there is one: there is never a second."""
        return next((member for member in self.members if not member.voter), None)

    def named(self, name: str) -> Member | None:
        """The member called ``name``."""
        return next((member for member in self.members if member.name == name), None)

    def with_id(self, number: int) -> Member | None:
        """The member with this id."""
        return next((member for member in self.members if member.id == number), None)

    def with_identity(self, identity: str) -> Member | None:
        """The member whose data has this identity."""
        return next((member for member in self.members if member.identity == identity), None)

    # -- steps ----------------------------------------------------------------------------------------------------

    def confirmed(self) -> Members:
        """The same members, as this node knows them, for all."""
        return self._replace(epoch=self.epoch + 1)

    def added(self, name: NodeName, identity: str, peer: str, client: str) -> Members:
        """A learner more. LocalProtocolError if the name or the identity is taken, or there is no room."""
        if self.named(name) is not None:
            raise LocalProtocolError(f"node {name} is a member already")
        self._must_have_room(identity)
        return self._next((*self.members, Member(self.next_id, name, identity, False, peer, client)), self.next_id + 1)

    def promoted(self) -> Members:
        """The learner votes from now on. LocalProtocolError if there is none."""
        if self.learner is None:
            raise LocalProtocolError("no learner is there to be promoted")
        return self._next(tuple(member._replace(voter=True) for member in self.members))

    def removed(self, name: NodeName) -> Members:
        """Without the member ``name``. LocalProtocolError if it is none, or the last voter."""
        gone = self._the(name)
        left = tuple(member for member in self.members if member is not gone)
        if not any(member.voter for member in left):
            raise LocalProtocolError(f"node {name} is the only voter; a cluster without one cannot go on")
        return self._next(left)

    def replaced(self, name: NodeName, identity: str, peer: str, client: str) -> Members:
        """A learner of the same name in place of the member ``name``. LocalProtocolError as for ``removed`` and ``added``."""
        without = self.removed(name)._replace(epoch=self.epoch, past=self.past)
        return without.added(name, identity, peer, client)._replace(past=self.past)

    def _next(self, members: tuple[Member, ...], next_id: int | None = None) -> Members:
        past = self.past
        made = Members(self.epoch + 1, next_id or self.next_id, members, past)
        if made.names != self.names:
            made = made._replace(past=(*past, self.names)[-limits.MEMBERS_PAST_MAX :])
        return made

    def _the(self, name: str) -> Member:
        member = self.named(name)
        if member is None:
            raise LocalProtocolError(f"node {name} is not a member; the members are {', '.join(self.names)}")
        return member

    def _must_have_room(self, identity: str) -> None:
        if self.with_identity(identity) is not None:
            raise LocalProtocolError(
                f"the data {identity[:8]} belongs to another member; give each node its own directory"
            )
        if self.learner is not None:
            raise LocalProtocolError(
                f"node {self.learner.name} is still catching up; one member is changed at a time: wait until it votes, or "
                f"take it out with `raftcoord node remove {self.learner.name}`"
            )
        if len(self.members) >= limits.MEMBERS_MAX:
            raise LocalProtocolError(
                f"the cluster has {len(self.members)} members, and {limits.MEMBERS_MAX} is the most"
            )


def founded(names: Mapping[NodeName, tuple[int, str, str, str]]) -> Members:
    """The first set: ``names`` gives each node's id, identity, peer and client address. ConfigError for a bad number of nodes."""
    if len(names) not in limits.NODES_ALLOWED:
        raise ConfigError(
            f"a cluster cannot be founded with {len(names)} nodes: write 1, 3, 5 or 7 into cluster.yaml; an even number survives "
            "no more losses than one node less"
        )
    members = [Member(number, name, identity, True, p, c) for name, (number, identity, p, c) in names.items()]
    return Members(1, max(member.id for member in members) + 1, tuple(sorted(members)))


def follows(old: Members, new: Members) -> bool:
    """Whether ``new`` is one step after ``old``: what an entry of the log must be."""
    before, after = ({member.id: member for member in each.members} for each in (old, new))
    fresh = [number for number in after if number not in before]
    same = all(
        (after[number].name, after[number].voter or not before[number].voter) == (before[number].name, True)
        for number in after
        if number in before
    )
    return (
        new.epoch == old.epoch + 1
        and new.next_id == old.next_id + len(fresh)
        and fresh in ([], [old.next_id])
        and all(not after[number].voter for number in fresh)
        and same
        and len(old.voters ^ new.voters) <= 1
        and bool(new.voters)
    )


def described(members: Members) -> str:
    """The members as a person reads them: "n1, n2, n3, n4 (learner)"."""
    rows = sorted((member.name, "" if member.voter else " (learner)") for member in members.members)
    return ", ".join(name + note for name, note in rows)


# -- the codec --------------------------------------------------------------------------------------------------------


def encode(members: Members) -> bytes:
    """The set as MessagePack: [FORMAT, epoch, next id, [[id, name, identity, voter, peer, client], ...], [[name, ...], ...]]."""
    return msgpack.packb(to_list(members))  # type: ignore[no-any-return]


def to_list(members: Members) -> list[Any]:
    """The set as lists, numbers and text."""
    rows = [list(member) for member in members.members]
    return [FORMAT, members.epoch, members.next_id, rows, [list(names) for names in members.past]]


def decode(data: bytes) -> Members | None:
    """The set that ``data`` writes, or None if it is none that this release would write."""
    try:
        value = msgpack.unpackb(data, use_list=True, strict_map_key=True)
    except Exception:
        return None
    return from_list(value)


def from_list(value: object) -> Members | None:
    """The set that these lists write, or None if they write none."""
    match value:
        case [int(form), int(epoch), int(next_id), [*rows], [*past]] if (
            form == FORMAT
            and 0 < epoch <= limits.MEMBERS_NUMBER_MAX
            and 0 < next_id <= limits.MEMBERS_NUMBER_MAX
            and 0 < len(rows) <= limits.MEMBERS_MAX
            and len(past) <= limits.MEMBERS_PAST_MAX
        ):
            members = [member for row in rows if (member := _member(row, next_id)) is not None]
            names = [each for row in past if (each := _names(row)) is not None]
            made = Members(epoch, next_id, tuple(members), tuple(names))
            return made if len(members) == len(rows) and len(names) == len(past) and _is_whole(made) else None
    return None


def _member(row: object, next_id: int) -> Member | None:
    match row:
        case [int(number), name, str(identity), bool(voter), str(peer), str(client)] if (
            type(number) is int
            and 0 < number < next_id
            and _is_name(name)
            and is_identity(identity)
            and max(len(peer), len(client)) <= limits.ADDRESS_LENGTH_MAX
        ):
            return Member(number, NodeName(str(name)), identity, voter, peer, client)
    return None


def _names(value: object) -> tuple[NodeName, ...] | None:
    match value:
        case [*names] if len(names) <= limits.MEMBERS_MAX and all(map(_is_name, names)):
            return tuple(NodeName(str(name)) for name in names)
    return None


def _is_name(value: object) -> bool:
    try:
        checked_name(value, "node")
    except LocalProtocolError:
        return False
    return True


def _is_whole(made: Members) -> bool:
    """Whether nobody is in it twice, somebody votes, and one learner is the most."""
    members = made.members
    different = all(
        len({member[field] for member in members}) == len(members)
        for field in (Member._fields.index("id"), Member._fields.index("name"), Member._fields.index("identity"))
    )
    return different and bool(made.voters) and len(members) - len(made.voters) <= 1


# -- the table --------------------------------------------------------------------------------------------------------


def _stored(lists: object) -> Members | None:
    """The set that is stored as these lists. Raises ValueError for what is none."""
    members = None if lists is None else from_list(lists)
    if members is None and lists is not None:
        raise ValueError("not a set of members")
    return members


class ClusterMembers(Table):
    """The set of members as of what is applied; None: not known. An entry of the log holds a whole set, and not a command."""

    name = "members"
    fields: ClassVar[dict[str, TableField]] = {
        "members": TableField(
            None, epoch=lambda members: members.epoch, write=lambda members: members and to_list(members), read=_stored
        )
    }

    def __init__(self, ledger: Tables, stored: Part) -> None:
        super().__init__(ledger, stored)
        self.members: Members | None = stored.fields.get("members")

    def change(self, members: Members) -> None:
        """A committed entry holds this set."""
        self.members = self.pending.fields["members"] = members
