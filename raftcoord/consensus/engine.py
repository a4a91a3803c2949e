"""What a group needs of an engine: the thing that keeps one log the same on a majority of nodes.

``pysyncobj/`` is one; ``tests/consensus/one_node_engine.py`` is another. An engine takes values and returns values: no I/O,
no thread, no clock and no randomness of its own. The time comes with each call (``now``: seconds, monotonic, never
backwards), the members come with ``follow``, and which peers can take no more comes with ``step``. Of an entry it knows only
the kind.

    once        ``follow`` with the members of the log as it is stored
    any time    ``connected``, ``disconnected``, ``receive``, ``propose``
    a step      ``step``, then the caller stores ``Step.staged``, then ``synced``, then it sends ``Step.after_sync``
    after it    ``take_committed``: what is committed may be applied, and is on the disks of a majority

The engine counts itself only for what ``synced`` has named. Raises Halt for what cannot happen if every node follows Raft.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple, Protocol

from raftcoord.core.tables.members import Members

REGULAR: Final = b"\x00"
"""The first byte of an entry that holds commands (core/commands.py)."""

NO_OP: Final = b"\x01"
"""The whole of an entry with which a leader begins its term."""

MEMBERS: Final = b"\x02"
"""The first byte of an entry that holds a set of members."""

NUMBER_MAX: Final = (1 << 63) - 1
"""The largest term or index: what node.db can hold."""

EntryTriple = tuple[bytes, int, int]
"""An entry: (data, index, term). The first byte of ``data`` is its kind."""

Message = dict[str, Any]
"""What an engine sends to a peer's. Everybody may read ``type``; the rest is for the engine and its codec."""


class EngineTiming(NamedTuple):
    """Seconds. The election timeout is drawn anew from [election_min, election_max] each time."""

    heartbeat: float
    election_min: float
    election_max: float


class StoredLog(NamedTuple):
    """The log as the disk has it. ``entries``: from the anchor on; everything up to ``applied_index`` is applied."""

    entries: list[EntryTriple]
    term: int
    vote: int | None
    applied_index: int


class InForce(NamedTuple):
    """The newest set of members in the log, committed or not: a set counts from when it is appended.

    ``at``: the index of its entry. ``members`` None: none is known, and the node takes no part (hazard H16). ``hearsay``: it is
    only what another node said, and no log that this node had holds it.
    """

    members: Members | None
    at: int
    hearsay: bool = False


class Staged(NamedTuple):
    """Changes to be stored in one commit: first truncate, then append.

    ``truncate_from``: delete every stored entry at or above this index; None: delete nothing.
    ``hard_state``: (term, vote) if it changed. It and the entries must be on disk before a message that shows them is sent.
    """

    truncate_from: int | None
    append: list[EntryTriple]
    hard_state: tuple[int, int | None] | None


NOTHING_STAGED: Final = Staged(None, [], None)


class Arriving(NamedTuple):
    """What a message brings that the log does not hold: ``entries``, in order.

    ``fits``: the log holds the entry before the message's first one. If not, it will refuse them all.
    """

    entries: Sequence[EntryTriple]
    fits: bool


NOTHING_ARRIVES: Final = Arriving((), False)


class Step(NamedTuple):
    """What one step wants done. ``at_once`` may be sent before the sync, ``after_sync`` only after it.

    ``staged`` None: there is nothing to store now, and both may be sent.
    """

    at_once: list[tuple[int, Message]]
    staged: Staged | None
    after_sync: list[tuple[int, Message]]


class Log(Protocol):
    """The engine's log, to be read."""

    @property
    def first_index(self) -> int:
        """The index of the anchor, the newest entry that is known only by its index and term."""

    @property
    def last_index(self) -> int:
        """The index of the newest entry, on disk or not."""

    @property
    def synced_index(self) -> int:
        """Everything up to here is on disk."""

    @property
    def dirty(self) -> bool:
        """Whether something is staged."""

    def term_at(self, index: int) -> int | None:
        """The term of the entry at ``index``, or None if the log does not hold it."""

    def between(self, after: int, upto: int) -> Sequence[EntryTriple]:
        """Entries with after < index <= upto."""


class Engine(Protocol):
    """One group's engine on one node."""

    @property
    def log(self) -> Log:
        """Its log."""

    @property
    def id(self) -> int:
        """This node's id, 0 while it is no member."""

    @property
    def role(self) -> str:
        """leader, follower or candidate."""

    @property
    def is_leader(self) -> bool:
        """Whether this node believes itself leader."""

    @property
    def leader(self) -> int | None:
        """The leader's id as far as this node knows."""

    @property
    def term(self) -> int:
        """The current term."""

    @property
    def vote(self) -> int | None:
        """The node that this one has voted for in that term."""

    @property
    def commit_index(self) -> int:
        """The highest index known to be committed."""

    @property
    def admitted(self) -> bool:
        """Whether this node takes part: it knows members. If not, it ignores messages and starts no election (H16)."""

    @property
    def voters(self) -> frozenset[int]:
        """The ids of the members that count for a majority."""

    @property
    def majority(self) -> int:
        """How many voters decide."""

    @property
    def is_member(self) -> bool:
        """Whether this node is in the set that is in force."""

    @property
    def is_voter(self) -> bool:
        """Whether this node counts for a majority."""

    @property
    def may_change_members(self) -> bool:
        """Whether a set of members may be proposed here.

        It leads, has committed an entry of its own term (without that, two leaders in turn could each make a step that the
        other does not know: Ongaro's correction of section 4.1, raft-dev, July 2015), and the last step is committed.
        """

    @property
    def behind(self) -> set[int]:
        """Peers whose next entry is compacted here: they need a copy of the ledger. The reader removes what it serves."""

    def match_index(self, node: int) -> int:
        """At the leader: up to where that peer is known to hold the same log, on disk."""

    def follow(self, in_force: InForce) -> None:
        """Count over these members from now on."""

    def wait_a_while(self) -> None:
        """Do not start an election at once: all nodes of a new cluster begin at the same moment."""

    def connected(self, node: int, now: float) -> None:
        """The link to that peer is up: whatever was in flight before is sent again."""

    def disconnected(self, node: int, now: float) -> None:
        """The link to that peer is down."""

    def arriving(self, message: Message) -> Arriving:
        """What ``message`` would bring. A caller that cannot have that in the log refuses it before ``receive``."""

    def receive(self, sender: int, message: Message, now: float) -> None:
        """Take one message. RemoteProtocolError, and nothing is taken, if its numbers cannot be."""

    def propose(self, data: bytes, asker: int | None = None) -> int:
        """Leader only: append an entry, for the peer ``asker`` if there is one; return its index. The next step sends it."""

    def step(self, now: float, congested: Collection[int]) -> Step:
        """Let time pass, commit, and say what is to be stored and sent. ``congested``: peers that should get no entries now."""

    def synced(self, index: int) -> None:
        """What was staged is on disk, and with it everything up to ``index``."""

    def take_committed(self) -> list[EntryTriple]:
        """Entries committed since the last call, in order, each exactly once."""

    def compact(self, applied_index: int) -> int | None:
        """Forget entries far enough below ``applied_index``; the new first index, or None if there is nothing to do."""

    def installed(self, index: int, term: int) -> None:
        """A copy of the ledger up to (index, term) is now the log. The caller next gives the members (``follow``)."""
