"""kill -9 at random points under load: every answer that was given is kept, and no money is made or lost."""

import os
import random
import subprocess
import sys
from pathlib import Path

import crash_load

from raftcoord.participants.sqlite import SqliteParticipant
from raftcoord.types import TxId, Verdict

ROUNDS = 6


def load_until_killed(path: Path, seed: str, lines_before: int) -> list[str]:
    """The complete lines that the load wrote before it was killed, at least ``lines_before``."""
    process = subprocess.Popen(
        [sys.executable, crash_load.__file__, str(path), seed],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline().decode() for _ in range(lines_before)]
    finally:
        process.kill()
    lines += process.stdout.read().decode().splitlines(keepends=True)
    process.stdout.close()
    assert process.wait(10) == -9
    return [line for line in lines if line.endswith("\n")]


def amounts_after(moves: list[str]) -> dict[str, int]:
    amounts = {f"a{i}": crash_load.AMOUNT for i in range(crash_load.ACCOUNTS)}
    for move in moves:
        source, target, amount = move.split()
        amounts[f"a{source}"] -= int(amount)
        amounts[f"a{target}"] += int(amount)
    return amounts


def test_every_answer_outlives_kill_9_and_money_is_conserved(tmp_path: Path) -> None:
    path, rng = tmp_path / "bank.db", random.Random("when to kill")
    bank = SqliteParticipant(path)
    bank.open_accounts({f"a{i}": crash_load.AMOUNT for i in range(crash_load.ACCOUNTS)})
    bank.close()
    committed: dict[TxId, str] = {}
    for number in range(ROUNDS):
        voted: dict[TxId, str] = {}
        ended: dict[TxId, str] = {}
        for line in load_until_killed(path, f"round {number}", rng.randrange(1, 1_500)):
            txid, answer, move = line.rstrip("\n").split(" ", 2)
            (voted if answer == "yes" else ended)[TxId.parse(txid)] = move if answer == "yes" else answer

        bank = SqliteParticipant(path)
        in_doubt = set(bank.prepared())
        for txid, move in voted.items():
            verdict = bank.finished(txid)
            assert verdict is not None or txid in in_doubt, f"the yes of {txid} is lost"
            if verdict is Verdict.COMMIT:
                committed[txid] = move
        for txid, answer in ended.items():
            expected = Verdict.COMMIT if answer == "committed" else Verdict.ABORT
            assert bank.finished(txid) is expected, f"{txid} was {answer}, and is not any more"
            assert txid not in in_doubt
        # What was written and killed before it was answered is told by nobody: the file's own account of it must add up.
        for txid in in_doubt:
            bank.abort(txid)
        assert bank.total() == crash_load.ACCOUNTS * crash_load.AMOUNT
        assert bank.balances() == amounts_after(list(committed.values()))
        bank.close()
    assert len(committed) > 100
