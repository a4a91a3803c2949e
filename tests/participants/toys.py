"""A toy participant that keeps every obligation short of a power cut, and toys that each break one.

It does not sync its file: thousands of scenarios run over it, and the end of a process does not need that. The participant of
docs/tutorial.md does.
"""

import copy
import json
import os
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from raftcoord.core.participant import TABLE, Action, Ask, BranchState
from raftcoord.participants.interface import (
    AlreadyCommitted,
    NotPrepared,
    Participant,
    Reply,
    Request,
    WrongCluster,
)
from raftcoord.types import Payload, TxId, Vote

DAY_S = 24 * 3600


class Toy(Participant):
    """A set of words. Payload: a word to put into it."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "toy.json"
        self.state: dict[str, Any] = {"cluster": "", "prepared": {}, "since": {}, "finished": {}, "words": []}
        self.state["identity"] = ""
        if self.file.exists():
            self.state = json.loads(self.file.read_text())

    def save(self, state: dict[str, Any]) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(state))
        new.replace(self.file)
        self.state = state

    def action(self, txid: TxId, ask: Ask) -> Action:
        key = str(txid)
        known = "prepared" if key in self.state["prepared"] else self.state["finished"].get(key, "unknown")
        return TABLE[BranchState(known), ask].action

    def identity(self) -> str:
        if not self.state["identity"]:
            self.save({**self.state, "identity": os.urandom(16).hex()})
        return str(self.state["identity"])

    def join(self, cluster: str) -> None:
        if self.state["cluster"] not in ("", cluster):
            raise WrongCluster(f"of cluster {self.state['cluster']}")
        self.save({**self.state, "cluster": cluster})

    def prepare(self, txid: TxId, payload: Payload) -> Vote:
        action = self.action(txid, Ask.PREPARE)
        if action is Action.REFUSE:
            return Vote.no(f"{txid} is finished")
        if action is Action.VOTE_AGAIN:
            return Vote.yes() if self.state["prepared"][str(txid)] == payload else Vote.no("another payload")
        if not isinstance(payload, str) or not payload:
            return Vote.no("the payload must be a word")
        state = copy.deepcopy(self.state)
        state["prepared"][str(txid)] = payload
        state["since"][str(txid)] = time.time()
        self.save(state)
        return Vote.yes()

    def commit(self, txid: TxId) -> None:
        action = self.action(txid, Ask.COMMIT)
        if action is Action.NOT_PREPARED:
            raise NotPrepared(str(txid))
        if action is Action.COMMIT:
            state = copy.deepcopy(self.state)
            state["words"].append(state["prepared"].pop(str(txid)))
            state["finished"][str(txid)] = "committed"
            self.save(state)

    def abort(self, txid: TxId) -> None:
        action = self.action(txid, Ask.ABORT)
        if action is Action.ALREADY_COMMITTED:
            raise AlreadyCommitted(str(txid))
        state = copy.deepcopy(self.state)
        state["prepared"].pop(str(txid), None)
        state["finished"][str(txid)] = "aborted"
        self.save(state)

    def shown(self) -> list[str]:
        return sorted(self.state["words"])

    def prepared(self) -> Collection[TxId]:
        return [TxId.parse(key) for key in self.state["prepared"]]


class NoTombstone(Toy):
    def abort(self, txid: TxId) -> None:
        if self.action(txid, Ask.ABORT) is not Action.TOMBSTONE:
            super().abort(txid)


class TombstoneInMemory(Toy):
    def abort(self, txid: TxId) -> None:
        unknown = self.action(txid, Ask.ABORT) is Action.TOMBSTONE
        super().abort(txid)
        if unknown:
            state = copy.deepcopy(self.state)
            del state["finished"][str(txid)]
            self.file.write_text(json.dumps(state))


class CommitsTheUnknown(Toy):
    def commit(self, txid: TxId) -> None:
        if self.action(txid, Ask.COMMIT) is not Action.NOT_PREPARED or str(txid) in self.state["finished"]:
            super().commit(txid)


class CommitsTheAborted(Toy):
    def commit(self, txid: TxId) -> None:
        if self.state["finished"].get(str(txid)) != "aborted":
            super().commit(txid)


class PreparesInMemory(Toy):
    def prepare(self, txid: TxId, payload: Payload) -> Vote:
        before = self.state
        vote = super().prepare(txid, payload)
        self.file.write_text(json.dumps(before))
        return vote


class CommitsInMemory(Toy):
    def commit(self, txid: TxId) -> None:
        words = self.state["words"]
        super().commit(txid)
        self.file.write_text(json.dumps({**self.state, "words": words}))


class DecidesByTime(Toy):
    def run(self, batch: Sequence[Request]) -> Sequence[tuple[Request, Reply]]:
        for key, since in tuple(self.state["since"].items()):
            if key in self.state["prepared"] and time.time() - since > DAY_S:
                self.abort(TxId.parse(key))
        return super().run(batch)


class RunsAgain(Toy):
    def action(self, txid: TxId, ask: Ask) -> Action:
        action = super().action(txid, ask)
        ran = self.state["finished"].get(str(txid)) == "committed"
        return Action.VOTE if ran and action is Action.REFUSE else action


class TakesAnyPayload(Toy):
    def prepare(self, txid: TxId, payload: Payload) -> Vote:
        return Vote.yes() if str(txid) in self.state["prepared"] else super().prepare(txid, payload)


class SaysNoToARepeat(Toy):
    def prepare(self, txid: TxId, payload: Payload) -> Vote:
        return Vote.no("once only") if str(txid) in self.state["prepared"] else super().prepare(txid, payload)


class CommitsTwice(Toy):
    def commit(self, txid: TxId) -> None:
        again = self.state["finished"].get(str(txid)) == "committed"
        super().commit(txid)
        if again:
            self.save({**self.state, "words": [*self.state["words"], "again"]})


class RaisesOnABadPayload(Toy):
    def prepare(self, txid: TxId, payload: Payload) -> Vote:
        if isinstance(payload, dict) and "word" in payload:
            raise ValueError("not a word")
        return super().prepare(txid, payload)


class RaisesOnNothing(Toy):
    def prepare(self, txid: TxId, payload: Payload) -> Vote:
        if payload is None:
            raise TypeError("None has no length")
        return super().prepare(txid, payload)


class GivesNoReason(Toy):
    def prepare(self, txid: TxId, payload: Payload) -> Vote:
        vote = super().prepare(txid, payload)
        return Vote.no("") if isinstance(payload, dict) else vote


class UndoesACommit(Toy):
    def abort(self, txid: TxId) -> None:
        if self.action(txid, Ask.ABORT) is not Action.ALREADY_COMMITTED:
            super().abort(txid)


class ForgetsItsCluster(Toy):
    def join(self, cluster: str) -> None:
        pass


class ForgetsItsIdentity(Toy):
    def identity(self) -> str:
        return os.urandom(16).hex()


class IdentityInMemory(Toy):
    def identity(self) -> str:
        if not self.state["identity"]:
            self.state["identity"] = os.urandom(16).hex()
        return str(self.state["identity"])

    def save(self, state: dict[str, Any]) -> None:
        super().save({**state, "identity": ""})
        self.state = state


class IdentityOfTheProgram(Toy):
    def identity(self) -> str:
        return "ab" * 16


class WithoutIdentity(Toy):
    def identity(self) -> str:
        return ""


class ShowsTooEarly(Toy):
    def shown(self) -> list[str]:
        return sorted([*self.state["words"], *self.state["prepared"].values()])


class LeavesATrace(Toy):
    def abort(self, txid: TxId) -> None:
        word = self.state["prepared"].get(str(txid))
        alone = len(self.state["prepared"]) == 1 and not self.state["words"]
        super().abort(txid)
        if word and alone:
            self.save({**self.state, "words": [word]})


class ListsTooFew(Toy):
    def prepared(self) -> Collection[TxId]:
        return [] if len(self.state["prepared"]) == 2 else super().prepared()


class LosesARequest(Toy):
    def run(self, batch: Sequence[Request]) -> Sequence[tuple[Request, Reply]]:
        return super().run(batch)[:-1] if len(batch) > 4 else super().run(batch)
