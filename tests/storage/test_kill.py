"""kill -9 at any point: what was acknowledged is there, and what is there is whole."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from .filling import items, opened
from .writing_process import DECISIONS_PER_ENTRY, data_of, decisions_of, term_of

PROGRAM = Path(__file__).with_name("writing_process.py")
ROOT = PROGRAM.parent.parent.parent


def killed_writer(directory: Path, seed: int, acknowledgements: int) -> int:
    """Run a writer, kill it after so many acknowledgements; the last index that it acknowledged (0: none)."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, str(PROGRAM), str(directory), str(seed)], stdout=subprocess.PIPE, env=environment
    ) as writer:
        assert writer.stdout is not None
        heard = b"".join(writer.stdout.readline() for _ in range(acknowledgements))
        writer.kill()
        heard += writer.stdout.read()
    whole = heard[: heard.rfind(b"\n") + 1].split()
    return int(whole[-1]) if whole else 0


def assert_whole(directory: Path, acknowledged: int) -> int:
    """Everything up to ``acknowledged`` is there, and log, term, vote, ledger and applied index are of one write."""
    db = opened(directory)
    stored = db.load()
    last = stored.log[-1].index
    assert last >= acknowledged
    assert stored.applied_index == last
    if last > 1:
        assert (stored.term, stored.vote, stored.applied_term) == (term_of(last), term_of(last) % 5, term_of(last))
    for row in stored.log:
        assert row.index == 1 or row == (row.index, term_of(row.index), data_of(row.index))
    decided = {d.txid: d for d in items(stored)}
    assert len(decided) == DECISIONS_PER_ENTRY * (last - 1)
    for index in range(2, last + 1):
        for expected in decisions_of(index, complete=False):
            found = decided[expected.txid]
            assert found._replace(outstanding=expected.outstanding) == expected
    assert all(decided[d.txid] == d for d in decisions_of(last, complete=False)) or last == 1
    db.close()
    return last


@pytest.mark.parametrize("seed", range(3))
def test_what_was_acknowledged_survives_kill_9(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    last = 1
    for _ in range(4):
        acknowledged = killed_writer(tmp_path / "n1", rng.randrange(1 << 30), rng.randrange(1, 60))
        assert acknowledged > last
        last = assert_whole(tmp_path / "n1", acknowledged)


def test_a_writer_killed_right_after_its_first_write_has_written_it(tmp_path: Path) -> None:
    for seed in range(3):
        acknowledged = killed_writer(tmp_path / f"n{seed}", seed, 1)
        assert acknowledged > 1
        assert_whole(tmp_path / f"n{seed}", acknowledged)
