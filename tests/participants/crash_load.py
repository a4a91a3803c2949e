"""A process that puts load on a SQLite participant until it is killed: ``crash_load.py FILE SEED``.

Every reply is written to stdout as one line (txid, answer, the accounts and the amount) after ``run`` has returned it.
"""

import os
import random
import sys
import time
from pathlib import Path

from raftcoord.participants.interface import Abort, Commit, Prepare, Request
from raftcoord.participants.sqlite import SqliteParticipant
from raftcoord.types import TxId, Vote, VoteKind

ACCOUNTS = 40
AMOUNT = 1_000


def main(path: str, seed: str) -> None:
    bank = SqliteParticipant(Path(path))
    rng = random.Random(seed)
    moves: dict[TxId, str] = {}
    ready: list[TxId] = []
    while True:
        batch: list[Request] = []
        for _ in range(rng.randrange(1, 40)):
            txid = TxId.new()
            source, target = rng.sample(range(ACCOUNTS), 2)
            amount = rng.randrange(1, 400)
            moves[txid] = f"{source} {target} {amount}"
            payload = [
                {"op": "add", "key": f"a{source}", "amount": -amount, "min": 0},
                {"op": "add", "key": f"a{target}", "amount": amount},
            ]
            batch.append(Prepare(txid, payload, time.time_ns() // 1_000_000 + rng.randrange(5, 50)))
        for txid in ready:
            batch.append(Commit(txid) if rng.random() < 0.8 else Abort(txid))
        rng.shuffle(batch)
        lines = []
        for request, reply in bank.run(batch):
            answer = {Prepare: "yes", Commit: "committed", Abort: "aborted"}[type(request)]
            if isinstance(request, Prepare) and not (isinstance(reply, Vote) and reply.kind is VoteKind.YES):
                continue
            lines.append(f"{request.txid} {answer} {moves[request.txid]}\n")
            if isinstance(request, Prepare):
                ready.append(request.txid)
            else:
                ready.remove(request.txid)
        os.write(1, "".join(lines).encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
