"""What a peer says: checked, or refused with RemoteProtocolError; and what is checked cannot make a replica raise.

With one exception, which is the peer's contradiction and not its form: DOCUMENTED lists every reason for which a replica
halts on a well-formed message of a peer that does not keep to Raft. Each protects what is committed.
"""

from __future__ import annotations

import random
from typing import Any, Final

from hypothesis import event, given
from hypothesis import strategies as st

from raftcoord.consensus import engine, messages
from raftcoord.consensus.engine import EngineTiming, StoredLog
from raftcoord.consensus.group import Group, Start
from raftcoord.consensus.pysyncobj.guard import Guarded
from raftcoord.core.commands import encode_command, encode_entry
from raftcoord.core.machine import Ledger
from raftcoord.core.tables.founding import Found
from raftcoord.core.tables.members import founded
from raftcoord.errors import Halt, RaftcoordError, RemoteProtocolError
from raftcoord.limits import NodeBounds
from raftcoord.types import NodeName

from .effort import examples
from .shapes import altered, commands, damaged, ints, packed, values

DOCUMENTED: Final = (
    "invariant broken: two leaders in term",  # Raft 5.2: one leader a term
    "invariant broken: the leader contradicts the committed entry",  # Raft 5.4: what is committed stays
)

TIMING = EngineTiming(0.05, 0.3, 0.6)
FOUNDING: Final = founded({NodeName(f"n{n}"): (n, f"{n:032x}", "", "") for n in (1, 2, 3)})
terms = st.integers(0, 4)
indexes = st.integers(0, 7)
far = st.sampled_from([8, 1000, (1 << 62)])
far_indexes = far | st.just(engine.NUMBER_MAX)
flags = st.booleans()
opaque = st.builds(
    lambda one, seq: encode_entry(1 + seq % 3, 7, seq, [encode_command(one)]), commands, st.integers(0, 3)
)
datas = opaque.map(lambda entry: engine.REGULAR + entry) | st.just(engine.NO_OP) | st.binary(max_size=4)


@st.composite
def appends(draw: st.DrawFn) -> list[Any]:
    """AppendEntries whose entries follow each other."""
    term, previous = draw(st.integers(1, 4)), draw(indexes)
    previous_term = draw(st.integers(0, term))
    entries, entry_term = [], previous_term
    for number in range(draw(st.integers(0, 3))):
        entry_term = draw(st.integers(entry_term, term))
        entries.append([draw(datas), previous + 1 + number, entry_term])
    return [1, term, draw(indexes | far_indexes), previous, previous_term, entries]


def _listed(*fields: Any) -> st.SearchStrategy[list[Any]]:
    return st.tuples(*fields).map(list)


checked = st.one_of(
    appends(),
    appends(),
    _listed(st.just(2), terms, indexes | far_indexes, flags, flags),
    _listed(st.just(3), terms | far, indexes | far_indexes, terms | far),
    _listed(st.just(4), terms),
    _listed(st.just(5), terms | far, indexes | far_indexes, terms | far),
    _listed(st.just(6), terms, terms, flags),
    _listed(st.just(7), st.lists(opaque | st.binary(max_size=8) | damaged(opaque), max_size=2)),
)
"""Messages as a node could send them, of small terms and indexes, so that they concern each other."""


@examples(300)
@given(checked | altered(checked, ints | values) | values)
def test_a_message_is_checked_or_refused(row: Any) -> None:
    try:
        message = messages.decode(row)
    except RemoteProtocolError:
        return
    event(message["type"])
    assert packed(messages.encode(message)) == packed(row)
    assert messages.decode(messages.encode(message)) == message


class Node:
    """A replica of three, whose disk is quick, and two peers that say anything."""

    def __init__(self, seed: int) -> None:
        stored = StoredLog([(engine.NO_OP, 1, 0)], 0, None, 1)
        self.now = 0.0
        guarded = Guarded(f"{1:032x}", stored, TIMING, random.Random(seed), 0.0, NodeBounds())
        # The boot is that of the entries of ``opaque``: a peer may take the name of what this node proposed.
        self.replica = Group(guarded, Start(Ledger(), (1, 0), FOUNDING, hearsay=False), 7, 0.0, NodeBounds())
        self.refused = 0
        self.answered = 0
        self.asked = 0

    def do(self, step: tuple[Any, ...]) -> None:
        replica, now = self.replica, self.now
        match step:
            case ("say", peer, row):
                try:
                    replica.receive(peer, messages.decode(row), now)
                except RemoteProtocolError:
                    self.refused += 1
            case ("link", peer, True):
                replica.connected(peer, now)
            case ("link", peer, False):
                replica.disconnected(peer, now)
            case ("wait", seconds):
                self.now += seconds
            case ("propose", command):
                self.asked += 1
                replica.propose(command, now + 1, lambda _: self._answer())
            case ("barrier",):
                self.asked += 1
                replica.barrier(now + 1, lambda _: self._answer())
            case ("turn",):
                self.turn()

    def turn(self) -> None:
        """Tick, sync, flush, apply, and store the ledger if that is due."""
        replica, now = self.replica, self.now
        before = (replica.raft.term, replica.raft.commit_index, replica.applied_index)
        ready = replica.step(now)
        for _, message in (*ready.at_once, *ready.after_sync):
            assert messages.decode(messages.encode(message)) == message
        if ready.store is not None:
            replica.stored(ready.store, now)
        replica.apply(now)
        ledger = replica.ledger_store(now)
        if ledger is not None:
            replica.stored(ledger, now)
        after = (replica.raft.term, replica.raft.commit_index, replica.applied_index)
        assert all(late >= early for early, late in zip(before, after, strict=True)), (before, after)
        assert replica.applied_index <= replica.raft.commit_index <= replica.log.last_index

    def _answer(self) -> None:
        self.answered += 1


peers = st.sampled_from([2, 3])
said = st.tuples(st.just("say"), peers, checked)
linked = [("link", 2, True), ("link", 3, True)]
elected = [*linked, ("wait", 1.0), ("turn",), ("say", 2, [6, 0, 1, True]), ("turn",), ("say", 2, [4, 1]), ("turn",)]
leading = [*elected, ("say", 2, [2, 1, 3, False, True]), ("turn",), ("propose", Found("0123456789abcdef")), ("turn",)]
acked = st.tuples(st.just("say"), peers, _listed(st.just(2), st.just(1), indexes, flags, flags))
led = [("link", 2, True), ("say", 2, [1, 1, 2, 1, 0, [[engine.NO_OP, 2, 1]]]), ("turn",)]
steps = st.tuples(
    st.sampled_from([[], leading, elected, leading, led, led]),
    st.lists(
        st.one_of(
            *(said, said, said, acked),
            st.tuples(st.just("say"), peers, altered(checked, ints, 1)),
            st.tuples(st.just("link"), peers, flags),
            st.tuples(st.just("wait"), st.sampled_from([0.01, 0.06, 0.3, 1.0])),
            st.tuples(st.just("propose"), commands),
            *(st.just(("barrier",)), st.just(("turn",)), st.just(("turn",))),
        ),
        min_size=4,
        max_size=25,
    ),
).map(lambda parts: [*parts[0], *parts[1]])


@examples(250)
@given(steps, st.integers(0, 3))
def test_no_checked_message_makes_a_replica_raise_but_for_the_documented_contradictions(
    done: list[Any], seed: int
) -> None:
    node = Node(seed)
    try:
        for step in done:
            node.do(step)
        node.turn()
        event(f"leader: {node.replica.raft.is_leader}, {node.replica.applied_index - 1} applied")
        node.now += 2
        node.turn()
    except Halt as halt:
        reason = next((reason for reason in DOCUMENTED if str(halt).startswith(reason)), None)
        if reason is None:
            raise
        event(f"halted: {reason}")
        return
    except RaftcoordError as error:
        raise AssertionError(f"{type(error).__name__} from a replica: {error}") from error
    assert node.answered == node.asked
