"""The ledger: total on whatever the codec lets through, and the same on every node, whatever is stored and shed meanwhile."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from shelf import Shelf
from storage.filling import opened, write

from raftcoord.consensus.disk import ledger_of
from raftcoord.core.commands import encode_command, encode_entry, open_entry
from raftcoord.core.machine import Ledger
from raftcoord.core.tables.damages import Acknowledge, Heuristic, Settle
from raftcoord.core.tables.decisions import Close, Complete, Decide, Decisions
from raftcoord.core.tables.horizon import Lower, Retire
from raftcoord.core.tables.participants import Bind
from raftcoord.core.tables.table import Changes, Command
from raftcoord.errors import Halt
from raftcoord.types import TxId, Verdict

from .effort import examples
from .shapes import TXIDS, commands, txids

TERM = 3
KEPT = 2
"""Decisions that ``shed`` leaves in memory: few, so that most are looked up."""


def _through_the_codec(command: Command) -> list[Command]:
    """What a node would read of it: nothing, if it would halt."""
    try:
        return list(open_entry(encode_entry(1, 1, 1, [encode_command(command)])).commands())
    except Halt:
        return []


verdicts = st.sampled_from(Verdict)
branches = st.lists(st.sampled_from("abc"), max_size=3).map(tuple)
decides = st.builds(Decide, txids, verdicts, branches, st.just("why"), st.just(""), st.just(5))
completes = st.builds(Complete, st.lists(st.tuples(txids, branches), max_size=3).map(tuple))
retires = st.builds(Retire, st.sampled_from([txid.ms + 1 for txid in TXIDS[:-1]]))
lowers = st.builds(
    Lower,
    st.sampled_from([txid.ms + 1 for txid in TXIDS[1:-1]]),
    st.sampled_from([txid.ms + 1 for txid in TXIDS[:-2]]),
    st.just("ops"),
    st.just(7),
)
damages = st.builds(Heuristic, txids, st.sampled_from("ab"), st.just("rolled back by hand"), st.just(5))
seen = st.builds(Acknowledge, txids, st.sampled_from("ab"), st.sampled_from(["ops", ""]), st.just(6))
pairs = st.lists(st.tuples(txids, branches), max_size=2).map(tuple)
closes = st.builds(Close, pairs, st.just("ops"), st.just("gone"), st.just(7))
settles = st.builds(Settle, pairs, st.sampled_from(["ops", "dev"]), st.sampled_from([0, 8]))
identities = st.sampled_from(["1a" * 16, "2b" * 16, ""])
binds = st.builds(Bind, st.sampled_from("ab"), identities, identities, st.just(""), st.just(9))
busy = st.one_of(
    decides, decides, decides, completes, completes, retires, lowers, damages, seen, closes, settles, binds
)
"""Commands that concern each other, in a mix as a cluster has it."""

readable = (busy | busy | busy | commands).map(_through_the_codec)
steps = st.tuples(
    st.lists(decides.map(_through_the_codec), min_size=4, max_size=12),
    st.sampled_from(["shed", "restart", "take"]),
    st.lists(readable | readable | st.sampled_from(["take", "confirm", "shed", "restart"]), min_size=5, max_size=25),
).map(lambda parts: [*parts[0], parts[1], *parts[2]])
"""A command to apply (or none), or something that only one of the two ledgers is put through."""


class Worn:
    """A ledger that is stored, shed and loaded again as the steps say."""

    def __init__(self) -> None:
        self.shelf = Shelf()
        self.ledger = self.shelf.ledger(KEPT)
        self.taken: list[Changes] = []
        self.stored_index = 0
        self.index = 0

    def do(self, step: str) -> None:
        if step == "take":
            self.taken.append(self.ledger.take_changes())
            self.shelf.store(self.taken[-1])
        elif step == "confirm":
            self._confirm()
        elif step == "shed":
            self.do("take")
            self._confirm()
            self.ledger[Decisions].keep_newest(KEPT, self.index)
        else:
            self.do("take")
            self.taken.clear()
            self.ledger = self.shelf.ledger(KEPT)

    def _confirm(self) -> None:
        for changes in self.taken:
            self.ledger.stored(changes)
        self.taken.clear()


def everything(ledger: Ledger) -> dict[str, Any]:
    """All that a ledger says; the order of what is open and of damage is not promised."""
    return {
        "decisions": [ledger.decision(txid) for txid in TXIDS],
        "states": [ledger.state(txid) for txid in TXIDS],
        "open": sorted(ledger.open_decisions()),
        "open_count": ledger.open_count,
        "damages": sorted(ledger.damages()),
        "horizon_ms": ledger.horizon_ms,
        "cluster": ledger.cluster,
        "enrolled": getattr(ledger, "enrolled", None),
        "participants": dict(ledger.participants),
    }


@examples(180)
@given(steps)
def test_two_ledgers_given_the_same_commands_say_the_same(done: list[Any]) -> None:
    plain, worn = Ledger(), Worn()
    for step in done:
        if isinstance(step, str):
            worn.do(step)
            continue
        for command in step:
            worn.index += 1
            result = plain.apply(command, TERM, worn.index)
            assert worn.ledger.apply(command, TERM, worn.index) == result
        assert everything(worn.ledger) == everything(plain)
    for last in ("shed", "restart"):
        worn.do(last)
        assert everything(worn.ledger) == everything(plain)


@examples(150)
@given(st.lists(readable, max_size=30))
def test_the_first_decision_stands_for_ever(batches: list[list[Command]]) -> None:
    ledger = Ledger()
    stood: dict[TxId, Any] = {}
    for index, command in enumerate((command for batch in batches for command in batch), 1):
        ledger.apply(command, TERM, index)
        for txid in TXIDS:
            decision = ledger.decision(txid)
            if decision is not None:
                assert stood.setdefault(txid, decision.verdict) == decision.verdict
            if txid in stood:
                assert ledger.state(txid).name in ("FORGOTTEN", decision.state.name if decision else "FORGOTTEN")


@examples(25)
@given(st.lists(readable, min_size=1, max_size=12))
def test_what_is_stored_in_node_db_is_loaded_as_it_was(batches: list[list[Command]]) -> None:
    with tempfile.TemporaryDirectory() as place, closing(opened(Path(place) / "n1")) as db:
        ledger = ledger_of(db.load())
        index = db.load().applied_index
        for batch in batches:
            for command in batch:
                ledger.apply(command, TERM, index)
            changes = ledger.take_changes()
            db.write(write(changes=changes, applied=(index, TERM), synced=False))
            ledger.stored(changes)
            assert everything(ledger_of(db.load())) == everything(ledger)
