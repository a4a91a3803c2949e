"""The simulator is not blind: with a bug planted a seed breaks a promise, and without the bug the same seed keeps them all.

Here are the bugs that are found within a second or so. scripts/nightly hunts all of them, from a fresh seed, and
``python tests/sim/table.py`` tells how many seeds each takes.
"""

from __future__ import annotations

import random

import pytest

from sim.plants import NODES, PLANTS
from sim.table import hunt

SEEDS: dict[str, int] = {
    "H1 every append truncates": 1000008,
    "H2 an acknowledgement moves next index back": 2000007,
    "H3 acknowledgements of any term count": 2000009,
    "H4 commit up to the last index": 4000019,
    "H5 an unreadable copy is ignored": 98,
    "H6 flush before sync": 2000007,
    "H7 compaction empties and adds again": 2,
    "H7 no checksum": 2000007,
    "H8 pickle on the wire": 3000037,
    "H8 whatever comes over the wire": 3000037,
    "H9 a bad command raises": 1,
    "H9 whatever a peer proposes": 56,
    "H10 every vote counts": 3000030,
    "H11 leader for 30 s": 1000009,
    "H11 reconnecting waits 5 s": 2000026,
    "H12 a vote for whoever asks": 2,
    "H12 no pre vote": 2000007,
    "H13 the commit index waits for the heartbeat": 2000007,
    "H14 a proposal may wait for ever": 4000019,
    "H15 admin commands are wired": 1000020,
    "H15 admin messages pass": 1000020,
    "H16 a wiped node is taken for the old one": 2000007,
    "H16 an identity is used before it is on disk": 2000007,
    "H16 whoever bears a name is believed": 2000007,
    "H16 whoever runs takes part": 2000007,
    "reply before commit": 2000007,
    "deliver before it is decided": 2000007,
    "commit on a timed-out vote": 2000010,
    "the proposal is delivered, not what stands": 2000007,
    "not known is taken for an abort": 4000019,
    "not known is told as unavailable": 1000019,
    "an all read-only commit is not recorded": 3000013,
    "an abort is not recorded": 2000007,
    "absence read as abort": 1000010,
    "a barrier skipped": 2,
    "resolve without proposing": 2000007,
    "a commit is told to a branch that it does not name": 3000014,
    "a decision overwritten": 2000007,
    "a forgotten txid is decided anew": 3000075,
    "an open commit is forgotten": 3000031,
    "the horizon moved too early": 2000007,
    "the horizon moved by a wrong clock": 4000001,
    "complete before the last acknowledgement": 3000012,
    "an acknowledgement taken from another branch": 1000027,
    "a redelivery that aborts what timed out": 2000007,
    "tombstone missing": 3000018,
    "commit of an unknown txid is a success": 3000010,
    "a finished txid runs again": 1000006,
    "a prepared branch times out by itself": 2000007,
    "a yes vote before its commit": 4,
    "a yes vote before its sync": 4,
    "locks are lost with the process": 2000053,
    "a vote before its sync": 2000007,
    "the leader counts what it has not synced": 3000010,
    "entries of older terms are committed by counting": 2000007,
    "a vote for an incomplete log": 4,
    "a vote is forgotten by a restart": 2000007,
    "every life numbers its proposals alike": 11,
    "a copy replaces an acknowledged tail": 1000009,
    "a ledger copy without the open decisions": 3000010,
    "the applied index before the decisions": 2,
    "a sync that is left out after one that was not needed": 2000007,
}
"""A seed that finds the bug, for those whose simulation is short."""

PATIENCE = 12
"""Seeds from there on: a change of the product moves what happens in which seed."""

SEEDS_MAX = 2_000


@pytest.mark.parametrize("name", SEEDS)
def test_a_planted_bug_is_found_and_nothing_is_found_without_it(name: str) -> None:
    found = hunt(name, SEEDS[name], PATIENCE)
    assert found.seeds is not None, f"not found in seeds {SEEDS[name]} to {SEEDS[name] + PATIENCE - 1}; see table.py"
    assert not found.alarms, f"these seeds break a promise without the bug, too: {found.alarms}"


@pytest.mark.nightly
@pytest.mark.parametrize("name", PLANTS)
def test_every_planted_bug_is_found(name: str) -> None:
    start = random.SystemRandom().randrange(1 << 31)
    found = hunt(name, start, SEEDS_MAX)
    assert found.seeds is not None, f"not found in {SEEDS_MAX} seeds from {start} on"
    assert not found.alarms, f"these seeds break a promise without the bug, too: {found.alarms}"


@pytest.mark.parametrize("name", PLANTS)
def test_every_plant_replaces_what_is_still_there(name: str) -> None:
    with PLANTS[name]():
        pass


def test_every_correction_has_a_plant_and_so_has_our_own_protocol() -> None:
    hazards = {name.split()[0] for name in PLANTS if name[0] == "H" and name[1].isdigit()}
    assert hazards == {f"H{number}" for number in range(1, 17)}
    assert sum(name.split()[0] not in hazards for name in PLANTS) >= 10
    assert PLANTS.keys() >= SEEDS.keys() | NODES.keys()
