"""A node that breaks a promise: ``python -m drills.broken_node CLUSTER_YAML NAME``, with tests/ on the path.

The plants are here and nowhere in the product. RAFTCOORD_PLANT says which: reply-before-commit, or believe-any-identity.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import runpy
import sys

from raftcoord.consensus.consensus import Consensus
from raftcoord.consensus.identity import Identities
from raftcoord.consensus.steering import Steering
from raftcoord.core.tables.decisions import Decide, Decision, Standing
from raftcoord.core.tables.members import Members, founded
from raftcoord.core.tables.table import Command
from raftcoord.errors import Overloaded, Unavailable
from raftcoord.types import State, Verdict

LAZY_S = 0.05
"""How long the log is behind the replies, so that a single kill -9 finds some that were not kept."""

_propose = Consensus.propose


def reply_before_commit(self: Consensus, command: Command, deadline: float, done) -> None:  # type: ignore[no-untyped-def]
    """Say that a COMMIT stands before it is proposed, whatever becomes of the proposal."""
    if not isinstance(command, Decide) or command.verdict is not Verdict.COMMIT:
        _propose(self, command, deadline, done)
        return
    index = self.applied_index + 1
    made = Decision(command.txid, command.verdict, command.branches, command.branches, "", "", 0, self.term, index)
    done(Standing(State.COMMITTED, made, True))

    def propose() -> None:
        with contextlib.suppress(Unavailable, Overloaded):
            _propose(self, command, deadline, lambda result: None)

    asyncio.get_running_loop().call_later(LAZY_S, propose)


def believe_any_identity() -> None:
    """Hazard H16: who bears a name is taken for the one that bore it before."""
    Identities.judge = lambda self, said: None  # type: ignore[method-assign]
    Identities.acquainted = lambda self, said, told: True  # type: ignore[method-assign]
    Identities.id_of = lambda self, name, identity: self._file[name].id  # type: ignore[method-assign]
    Identities.founding = property(_founded_by_the_file)  # type: ignore[assignment]
    Steering.turn = lambda self, now: None  # type: ignore[method-assign]


def _founded_by_the_file(self: Identities) -> Members | None:
    if self.members is not None:
        return None
    others = {name: self.own if name == self.name else f"{place.id:032x}" for name, place in self._file.items()}
    return founded({name: (place.id, others[name], place.peer, place.client) for name, place in self._file.items()})


def plant(name: str | None) -> None:
    """Plant it in this process."""
    if name == "reply-before-commit":
        Consensus.propose = reply_before_commit  # type: ignore[method-assign]
    elif name == "believe-any-identity":
        believe_any_identity()
    else:
        sys.exit("this node breaks its promises: it is for tests of the drills, with RAFTCOORD_PLANT")


if __name__ == "__main__":
    plant(os.environ.get("RAFTCOORD_PLANT"))
    runpy.run_module("raftcoord.node", run_name="__main__")
