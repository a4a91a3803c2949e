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
    "an all read-only commit is not recorded": 2,
    "a vote for an incomplete log": 1,
    "tombstone missing": 2004,
    "a yes vote before its sync": 3,
    "H16 an identity is used before it is on disk": 1,
    "the horizon moved too early": 1,
    "FORGOTTEN is told 50 ms early": 1,
    "deliver before it is decided": 1,
    "a prepared branch times out by itself": 1,
    "the proposal is delivered, not what stands": 1000008,
    "H14 a proposal may wait for ever": 2003,
    "a horizon is believed that was not confirmed": 1,
    "H2 an acknowledgement moves next index back": 1,
    "H3 acknowledgements of any term count": 1,
    "H6 flush before sync": 1,
    "H7 compaction empties and adds again": 1000007,
    "H12 no pre vote": 1,
    "reply before commit": 1,
    "absence read as abort": 4,
    "a barrier skipped": 2,
    "a decision overwritten": 2,
    "a forgotten txid is decided anew": 2000,
    "commit of an unknown txid is a success": 1,
    "a yes vote before its commit": 1,
    "a vote before its sync": 1,
    "the leader counts what it has not synced": 1,
    "a vote is forgotten by a restart": 1,
    "a ledger copy without the open decisions": 2,
    "the applied index before the decisions": 1,
    "a clock's offset outlives its measurement": 5,
    "the ledger is shed before it is stored": 1,
    "a decided or running txid runs again": 1,
    "locks are granted with the first key": 2,
    "the horizon moved by a wrong clock": 1000012,
    "H10 every vote counts": 2000,
    "H7 no checksum": 1000007,
    "every life numbers its proposals alike": 1000011,
    "a copy replaces an acknowledged tail": 4000007,
    "the whole log is acknowledged, an unverified tail included": 3000037,
}
"""A seed that finds the bug, for those whose simulation is short."""

PATIENCE = 25
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
