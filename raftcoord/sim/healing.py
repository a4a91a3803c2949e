"""After the last fault: how soon everything is settled, and whether everything adds up.

LIVENESS_S    every request has an answer, everything decided is complete, nothing is in doubt, all ledgers are equal
LINKS_S       every node is linked to every other one
PROMPT_S      a decision that is asked of a follower takes a round, not a heartbeat (H13)
"""

from __future__ import annotations

import asyncio
from typing import Final

from raftcoord.client.asynchronous import AsyncClient
from raftcoord.errors import RaftcoordError
from raftcoord.history.checker import judge
from raftcoord.sim import strangers
from raftcoord.sim.cast import Cast
from raftcoord.sim.world import EPOCH_MS, World
from raftcoord.types import TxId, Verdict

LIVENESS_S: Final = 15.0
LINKS_S: Final = 2.5
PROMPT_S: Final = 0.04
"""Virtual seconds; see the module's head."""

_LOOK_S: Final = 0.05
_PROBES: Final = 5


class Healing:
    """Of one world whose faults have stopped at ``since`` (virtual s)."""

    def __init__(self, cast: Cast, since: float) -> None:
        self._world = cast.world
        self._invariants = cast.invariants
        self._workload = cast.workload
        self._estate = cast.estate
        self._since = since

    def settle(self) -> float:
        """Wait until everything is settled; how long it took (virtual s). A violation if it takes longer than LIVENESS_S."""
        world, invariants = self._world, self._invariants
        why, linked = "", False
        while world.loop.now < self._since + LIVENESS_S:
            world.loop.run_until(world.loop.now + _LOOK_S)
            if invariants.violation is not None:
                return 0.0
            world.run(self._workload.finish)
            took = world.loop.now - self._since
            down = self._unlinked()
            linked = linked or not down
            patience = LINKS_S * (1 + invariants.disks_lost)  # a new node is dialed again when it is enrolled
            late = took >= patience and not world.changing
            invariants.must(linked or not late, "links", f"{took:.2f} s after the last fault {down}")
            why = self._unsettled()
            if linked and not why:
                world.log("world", f"nothing is in doubt {took:.2f} s after the last fault")
                return took
        invariants.violate("liveness", f"{LIVENESS_S:g} s after the last fault {why}")
        return 0.0

    def _unlinked(self) -> str:
        """Which link is down, or "". A node that is being replaced comes in when it is enrolled, and that takes longer."""
        new = {name for name in self._world.nodes if self._is_new(name)} | self._world.changing
        for name in self._world.nodes:
            consensus = self._world.machines[name].consensus
            for peer, link in {} if consensus is None or name in new else consensus.peers_status().items():
                if not link["up"] and peer not in new:
                    return f"{name} has no link to {peer}: {link['why']}"
        return ""

    def _is_new(self, name: str) -> bool:
        consensus = self._world.machines[name].consensus
        return name in self._invariants.wiped or consensus is None or not consensus.group.raft.admitted

    def _unsettled(self) -> str:
        """What is not settled yet, or ""."""
        world, model = self._world, self._invariants.model
        if not self._workload.idle:
            return "a request has no answer"
        if world.changing:
            return f"{', '.join(sorted(world.changing))} is not a voter again"
        down = [name for name in (*world.nodes, *world.serves) if not world.machines[name].runs]
        if down:
            return f"{', '.join(down)} does not run"
        for name, txids in self._invariants.in_doubt().items():
            return f"{name} is in doubt about {min(txids)}"
        opened = [txid for txid, left in model.outstanding.items() if left and model.decided[txid].verdict]
        opened = [txid for txid in opened if txid not in self._invariants.careless]
        if opened:
            return f"{min(opened)} is decided and not complete"
        if self._estate is not None and (left := self._estate.unsettled()):
            return left
        last = len(self._invariants.log) - 1
        for name in world.nodes:
            consensus = world.machines[name].consensus
            if consensus is None or consensus.applied_index != last:
                return f"{name} has not applied entry {last}"
        return ""

    # -- the audit -----------------------------------------------------------------------------------------------------

    def audit(self) -> None:
        """Whether everything adds up."""
        world, invariants = self._world, self._invariants
        invariants.must(not strangers.executed, "nothing unknown", f"a stranger's pickle was {strangers.executed}")
        for name in world.nodes:
            consensus = world.machines[name].consensus
            if consensus is not None:
                invariants.compare(name, consensus.ledger, consensus.applied_index)
        judged = judge(self._workload.records, unseen_resolves=True, horizon_ms=invariants.horizon.ms_max)
        for found in judged.violations:
            invariants.violate("history", found.what, found.txid)
        participants = {name: made for name in world.banks if (made := world.machines[name].participant) is not None}
        complaint = self._workload.audit(participants)
        invariants.must(not complaint, "together", complaint)
        if self._estate is not None:
            self._estate.audit()
        if invariants.violation is None:
            self._probe()

    def _probe(self) -> None:
        """Decisions one by one at a follower, in a calm cluster: most take a round and no more."""
        world = self._world
        followers = [name for name in world.nodes if not _leads(world, name)]
        if not followers:
            return
        process, client = world.client("probe", at=followers[0])
        took: list[float] = []
        process.spawn(self._decide(client, took), "probe")
        world.loop.run_until(world.loop.now + 2.0, until=lambda: len(took) == _PROBES)
        usual = sorted(took)[len(took) // 2] if took else float("inf")
        self._invariants.must(
            usual < PROMPT_S, "late", f"a decision at follower {followers[0]} of a calm cluster took {usual:.4f} s"
        )

    async def _decide(self, client: AsyncClient, took: list[float]) -> None:
        rng = self._world.rng("probe")
        while len(took) < _PROBES:
            txid = TxId.new(EPOCH_MS + int(self._world.loop.now * 1000), rng.randbytes(10))
            began = self._world.loop.now
            try:
                await client.decide(txid, Verdict.ABORT, reason="a probe", timeout=1.0)
            except RaftcoordError:
                await asyncio.sleep(0.01)
            took.append(self._world.loop.now - began)


def _leads(world: World, name: str) -> bool:
    consensus = world.machines[name].consensus
    return consensus is not None and consensus.is_leader
