"""What each kind of fault is, in a line, for those who choose among them. faults.py draws them, nemesis.py carries them out."""

from __future__ import annotations

from typing import Final

SUMMARIES: Final[dict[str, str]] = {
    "clog-one-way": "a link passes nothing in one direction",
    "clog-two-way": "a link passes nothing",
    "isolate": "a node or participant reaches nobody",
    "isolate-leader": "the leader of that moment is cut off from the other nodes, or from everybody",
    "split": "a minority of the nodes is cut off from the others",
    "ring": "each node hears only one other: a majority is connected, and nobody has one",
    "break": "a connection breaks; what was on its way is lost",
    "slow": "every message takes up to 0.2 s",
    "repeat": "messages between nodes are heard twice",
    "kill": "a process is killed, and starts again from its disk",
    "power": "a machine loses its power: what was not synced is gone, and nobody is told",
    "outage": "a process is killed early, and stays away until the faults stop",
    "kill-all": "every node is killed at once",
    "power-all": "every node loses its power at once",
    "late-start": "a node is started for the first time after the others",
    "storm": "processes are killed one after the other, and start again at once",
    "crash-at": "a process ends at a chosen moment: between stage, sync, apply and send, or around a prepare or commit",
    "pause": "a process stands still (SIGSTOP), and then goes on",
    "drift": "clocks run at different speeds",
    "jump": "a node's wall clock is wrong by up to 2 hours, and then right again",
    "slow-disk": "a node's disk takes 50 ms to sync",
    "disk-error": "a node's disk is full, or a write or fsync fails",
    "participant-disk": "a participant's disk is full for a while, or a commit fails and it must be opened again",
    "flip-bit": "a node is killed and a bit on its disk is flipped: it must refuse to start, and is replaced",
    "wipe": "a node is killed and its disk is lost: it is replaced",
    "break-copy": "the connection breaks in the middle of a ledger copy",
    "flip-copy": "a chunk of a ledger copy has a flipped bit",
    "stranger": "somebody sends garbage, pickles or administrative commands to a node's ports",
    "late-copy": "a ledger copy arrives after another leader has sent the entries instead",
    "client-jump": "a client's wall clock is wrong by up to 2 hours, and then right again",
    "moved-horizon": "the horizon is moved into the future by up to two days, and an operator lowers it",
    "silent": "a minority stands still with its links up, while the leader's clock is up to two days ahead",
    "twin": "another state is started under the name of a participant: no node may admit it",
    "close": "an operator gives up what waits for a participant, which comes back all the same",
    "node-remove": "a node is removed from the members, and added again as a new one with an empty disk",
    "other-file": "a node is started again with a cluster.yaml that names others: it must refuse",
}
"""One line for each of ``faults.KINDS``."""
