"""What became of each branch in a simulated database, held against the ledger.

together     a branch is committed only if the ledger has decided COMMIT and names it, and rolled back only if it has not and
             never will; by a resolver only if the ledger says so; a program that was told Aborted is never contradicted
votes first  a COMMIT names a branch of a server only while it is prepared there
complete     a branch counts as done only when it is committed, and as damaged only when its server has lost sight of it
foreign      no branch of another cluster is ever touched
"""

from __future__ import annotations

from typing import Final

from raftcoord.core.tables.damages import Heuristic
from raftcoord.core.tables.table import Command
from raftcoord.databases import gid as gids
from raftcoord.sim.database import SimServer
from raftcoord.sim.happening import note
from raftcoord.sim.invariants import Invariants
from raftcoord.sim.models.decisions import ModelDecision
from raftcoord.types import State, TxId, Verdict

FOREIGN: Final = ("f00df00df00df00d", "00000000deadbeef")
"""Ids of other clusters."""


class Effects:
    """See the module's head. ``unlisted``: branches that a server has lost sight of."""

    def __init__(self, invariants: Invariants) -> None:
        self.unlisted: set[str] = set()
        self.read: set[TxId] = set()
        """What programs have read: then it is decided by the nodes, over one branch or two."""
        self.by_resolver = {Verdict.COMMIT: 0, Verdict.ABORT: 0}
        self._invariants = invariants
        self._committed: set[tuple[TxId, str]] = set()
        self._rolled_back: set[tuple[TxId, str]] = set()
        self._aborted: set[TxId] = set()
        self._servers: dict[str, SimServer] = {}

    def log(self, who: str, what: str, txid: TxId | None) -> None:
        """Note what becomes of a branch of that transaction. ``who``: a server or a program."""
        note(self._invariants.events, who, what, txid)

    def watch(self, servers: dict[str, SimServer]) -> None:
        """From now on."""
        self._servers = servers
        self._invariants.databases = frozenset(servers)
        self._invariants.is_carried_out = lambda txid, name: (txid, name) in self._committed
        self._invariants.on_command = self.on_command
        before = self._invariants.on_decided

        def decided(txid: TxId, made: ModelDecision) -> None:
            before(txid, made)
            self._on_decided(txid, made)

        self._invariants.on_decided = decided

    def is_ours(self, gid: str) -> bool:
        """Whether it is of this cluster."""
        read = gids.parse(gid)
        return read is not None and read.cluster not in FOREIGN

    # -- what the servers tell ------------------------------------------------------------------------------------

    def on_commit(self, server: SimServer, gid: str, by: str, *, prepared: bool) -> None:
        """See Watcher."""
        read = gids.parse(gid)
        self.log(server.name, f"commits {gid} for a {by}", read and read.txid)
        must = self._invariants.must
        must(read is not None and self.is_ours(gid), "foreign", f"a {by} committed {gid} at {server.name}")
        if read is None:
            return
        txid, name = read.txid, str(read.branch)
        if prepared:
            known = self._invariants.model.decided.get(txid)
            good = known is not None and known.verdict is Verdict.COMMIT and name in known.branches
            says = self._invariants.says(txid)
            must(good, "together", f"a {by} committed {name}, and the ledger says {says}", txid)
            self.by_resolver[Verdict.COMMIT] += by == "resolver"
        must(prepared or txid not in self.read, "together", f"{name} was committed without a decision", txid)
        self._committed.add((txid, name))

    def on_rollback(self, server: SimServer, gid: str, by: str) -> None:
        """See Watcher."""
        read = gids.parse(gid)
        self.log(server.name, f"rolls {gid} back for a {by}", read and read.txid)
        must, model = self._invariants.must, self._invariants.model
        must(read is not None and self.is_ours(gid), "foreign", f"a {by} rolled {gid} back at {server.name}")
        if read is None:
            return
        txid, name = read.txid, str(read.branch)
        known = model.decided.get(txid)
        good = known is None or known.verdict is Verdict.ABORT or name not in known.branches
        if by == "resolver":
            good = good and (known is not None or model.state(txid) is State.FORGOTTEN)
            self.by_resolver[Verdict.ABORT] += 1
        must(good, "together", f"a {by} rolled {name} back, and the ledger says {self._invariants.says(txid)}", txid)
        self._rolled_back.add((txid, name))

    def on_unlisted(self, server: SimServer, gid: str) -> None:
        """A server has answered OK, and has lost sight of the branch."""
        read = gids.parse(gid)
        self.log(server.name, f"answers OK, and has lost sight of {gid}", read and read.txid)
        self.unlisted.add(gid)

    # -- what the ledger says -------------------------------------------------------------------------------------

    def _on_decided(self, txid: TxId, made: ModelDecision) -> None:
        if made.verdict is not Verdict.COMMIT:
            return
        must = self._invariants.must
        ours = made.branches & self._servers.keys()
        must(not ours or txid not in self._aborted, "together", "COMMIT, and its program was told Aborted", txid)
        for name in sorted(ours):
            must((txid, name) not in self._rolled_back, "together", f"COMMIT that names {name}, rolled back", txid)
            prepared = any(gid.endswith(f"{txid}.{name}") for gid in self._servers[name].prepared)
            must(prepared, "votes first", f"COMMIT that names {name}, where it is not prepared", txid)

    def on_command(self, command: Command) -> None:
        """It is committed."""
        if isinstance(command, Heuristic) and command.branch in self._servers:
            lost = any(gid.endswith(f"{command.txid}.{command.branch}") for gid in self.unlisted)
            what = f"{command.branch} is called damaged, and nothing ever happened to it"
            self._invariants.must(lost, "complete", what, command.txid)

    def aborted(self, txid: TxId) -> None:
        """A program was told Aborted."""
        self._aborted.add(txid)
        known = self._invariants.model.decided.get(txid)
        good = known is None or known.verdict is Verdict.ABORT
        self._invariants.must(good, "together", "a program was told Aborted, and it is COMMIT", txid)
