"""A process that writes to the data directory in argv[1] until it is killed, and says so after each write that returned.

Every number in a write follows from its log index, so that whoever looks afterwards knows what must be there.
argv[2]: a seed for the sizes of the writes. One line per acknowledged write: its last log index.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

from raftcoord.core.tables.decisions import Decision
from raftcoord.core.tables.table import TableChange
from raftcoord.limits import NodeBounds
from raftcoord.storage.node_db import LogRow, NodeDb, Write
from raftcoord.types import TxId, Verdict

DECISIONS_PER_ENTRY = 3


def decisions_of(index: int, *, complete: bool) -> list[Decision]:
    """The decisions that log entry ``index`` makes."""
    outstanding = () if complete else ("bank-a",)
    return [
        Decision(
            TxId.new(1_700_000_000_000 + index, bytes([number]) * 10),
            Verdict.COMMIT,
            ("bank-a",),
            outstanding,
            "",
            "",
            index,
            term_of(index),
            index,
        )
        for number in range(DECISIONS_PER_ENTRY)
    ]


def term_of(index: int) -> int:
    """Terms grow with the log."""
    return index // 10


def data_of(index: int) -> bytes:
    """The content of log entry ``index``: from nothing to some pages."""
    return random.Random(index).randbytes(index * 7919 % 9000)


def step(last: int, count: int) -> Write:
    """The write that appends ``count`` entries after ``last`` and applies them; the entries before are complete then."""
    new = range(last + 1, last + count + 1)
    puts = {d.txid: d for index in new for d in decisions_of(index, complete=False)}
    if last > 1:
        puts |= {d.txid: d for d in decisions_of(last, complete=True)}
    end = new[-1]
    return Write(
        None,
        [LogRow(index, term_of(index), data_of(index)) for index in new],
        (term_of(end), term_of(end) % 5),
        {"decisions": TableChange(puts=puts)},
        (end, term_of(end)),
        end - 20 if end > 40 and end % 3 == 0 else None,
    )


def main() -> None:
    """Write until killed."""
    rng = random.Random(int(sys.argv[2]))
    bounds = NodeBounds(wal_pages=40)  # so that kills fall into checkpoints as well
    db = NodeDb.open(Path(sys.argv[1]), cluster_name="demo", node="n1", bounds=bounds)
    last = db.load().log[-1].index
    while True:
        w = step(last, rng.choice((1, 1, 2, 5)))
        db.write(w)
        last = w.append[-1].index
        os.write(1, b"%d\n" % last)


if __name__ == "__main__":
    main()
