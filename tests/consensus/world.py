"""Replicas on simulated links, disks and time: the real consensus code, single-stepped from a seed.

A disk is what the last ``Store`` left there; a crash loses what was not stored, or was being stored. Links are FIFO per
direction and lose everything in flight when they break, a copy of the ledger included. Nothing here is fair: who acts, for how
long a message or a sync waits, and what breaks, is drawn from the seed.

After every step the world checks what Raft promises (figure 3 of the paper), and before every message that what it shows
is on disk.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import msgpack
from shelf import Shelf

from raftcoord import limits
from raftcoord.consensus.engine import EngineTiming, EntryTriple, InForce, StoredLog
from raftcoord.consensus.group import Group, Ready, Start, Store
from raftcoord.consensus.messages import decode, encode
from raftcoord.consensus.pysyncobj.guard import Guarded
from raftcoord.core.machine import Ledger
from raftcoord.core.tables.decisions import Decide, Decision, Decisions, Result, Standing
from raftcoord.core.tables.members import Members, founded
from raftcoord.core.tables.table import Command
from raftcoord.errors import NotKnown, RaftcoordError, Unavailable
from raftcoord.limits import NodeBounds
from raftcoord.types import NodeName, TxId, Verdict

TIMING = EngineTiming(heartbeat=0.05, election_min=0.3, election_max=0.6)
ANCHOR: EntryTriple = (b"\x01", 1, 0)
EPOCH_MS = 1_700_000_000_000

Message = dict[str, Any]


def founding(nodes: int) -> Members:
    """The founding set of n1, n2, ...: the replicas have no addresses."""
    return founded({NodeName(f"n{n}"): (n, identity(n), "", "") for n in range(1, nodes + 1)})


def identity(n: int) -> str:
    """The identity of host ``n``'s disk."""
    return f"{n:032x}"


def a_group(
    n: int,
    stored: StoredLog,
    start: Start,
    rng: random.Random,
    now: float,
    horizon_ms_max: int = limits.TIME_MS_MAX,
    bounds: NodeBounds = NodeBounds(),
) -> Group:
    """The group on host ``n``, as consensus.py makes it."""
    boot = rng.getrandbits(63)
    engine = Guarded(identity(n), stored, TIMING, rng, now, bounds)
    return Group(engine, start, boot, now, bounds, horizon_ms_max=lambda: horizon_ms_max)


class Clocked(Guarded):
    """An engine whose time the test sets (``now``), with the first ``nodes`` for its members."""

    def __init__(self, stored: StoredLog, rng: random.Random, nodes: int, now: float = 100.0) -> None:
        self.now = now
        super().__init__(identity(1), stored, TIMING, rng, now, NodeBounds())
        self.follow(InForce(founding(nodes), stored.applied_index))

    def receive(self, sender: int, message: Message, now: float | None = None) -> None:
        super().receive(sender, message, self.now)

    def connected(self, node: int, now: float | None = None) -> None:
        super().connected(node, self.now)

    def tick(self, now: float | None = None, congested: Collection[int] = ()) -> None:
        super().tick(self.now, congested)


@dataclass
class Disk:
    """What survives a crash."""

    log: list[EntryTriple] = field(default_factory=lambda: [ANCHOR])
    term: int = 0
    vote: int | None = None
    tables: Shelf = field(default_factory=Shelf)
    joined: Members | None = None
    applied: tuple[int, int] = (1, 0)

    def write(self, store: Store) -> None:
        """One commit, in the order that Write, Staged and Changes document."""
        staged = store.staged
        if staged.truncate_from is not None:
            assert staged.truncate_from > self.applied[0], "an applied entry is truncated on disk"
            self.log = [entry for entry in self.log if entry[1] < staged.truncate_from]
        self.log += staged.append
        if staged.hard_state is not None:
            self.term, self.vote = staged.hard_state
        self.tables.store(store.changes)
        if store.applied is not None:
            self.applied = store.applied
        if store.drop_before is not None:
            assert store.drop_before <= self.applied[0], "the log is cut above what the stored ledger holds"
            self.log = [entry for entry in self.log if entry[1] >= store.drop_before]
        assert [entry[1] for entry in self.log] == list(range(self.log[0][1], self.log[-1][1] + 1)), "a gap on disk"
        assert self.log[0][1] <= self.applied[0] <= self.log[-1][1]

    @property
    def stored(self) -> StoredLog:
        """The log, as a node finds it when it starts."""
        return StoredLog(list(self.log), self.term, self.vote, self.applied[0])

    def copy(self) -> Disk:
        """The ledger alone, as a copy for another node."""
        return Disk(log=[], tables=self.tables.copy(), applied=self.applied)

    def install(self, copy: Disk) -> None:
        """One commit: the ledger is replaced, and the log by its anchor. Term and vote stay."""
        self.tables, self.applied = copy.tables.copy(), copy.applied
        index, term = copy.applied
        self.log = [(ANCHOR[0], index, term)]

    def ledger(self, keep: int) -> Ledger:
        """What a node starts with: the newest ``keep`` decisions and every open one; older ones are looked up."""
        return self.tables.ledger(keep)


@dataclass
class Host:
    """One node: its disk, and its replica while it runs. ``unsynced``: what a step wants stored and was not yet."""

    id: int
    disk: Disk = field(default_factory=Disk)
    replica: Group | None = None
    unsynced: Ready | None = None


@dataclass
class Proposal:
    """A command that somebody proposed, and the answer that came, if one did."""

    node: int
    command: Command | None
    reached: int
    """What was known to be committed when it was made: a barrier must not answer from before that."""
    answer: Any = None
    lost: bool = False
    """Its node crashed: nobody is left to be answered."""


class World:
    """``nodes`` replicas with the ids 1, 2, ... ``keep``: decisions that a node holds in memory."""

    def __init__(self, nodes: int = 3, seed: int = 0, keep: int = 1000, bounds: NodeBounds = NodeBounds()) -> None:
        self.rng = random.Random(seed)
        self.now = 100.0
        self.keep = keep
        self.bounds = bounds
        self.hosts = {n: Host(n, Disk(tables=Shelf(members=founding(nodes)))) for n in range(1, nodes + 1)}
        self.queues: dict[tuple[int, int], deque[Any]] = {}
        self.copies: dict[tuple[int, int], Disk] = {}
        self.linked: dict[tuple[int, int], int] = {}  # the id under which the other end of a link was made known
        self.cut: set[tuple[int, int]] = set()
        self.applied: dict[int, tuple[int, bytes]] = {}
        self.logged: dict[tuple[int, int], tuple[bytes, int]] = {}
        self.leaders: dict[int, int] = {}
        self.proposals: list[Proposal] = []
        self.sent: list[tuple[int, int, Message]] = []
        self.installs = 0
        for n in self.hosts:
            self.start(n)

    # -- nodes ----------------------------------------------------------------------------------------------------

    def start(self, n: int) -> None:
        """Start the node from its disk."""
        host, disk = self.hosts[n], self.hosts[n].disk
        start = Start(
            disk.ledger(self.keep),
            disk.applied,
            disk.tables.fields["members"] or disk.joined,
            hearsay=disk.tables.fields["members"] is None,
        )
        others = [o for o in self.hosts if o != n]
        host.replica = a_group(n, disk.stored, start, self.rng, self.now, bounds=self.bounds)
        host.unsynced = None
        for o in others:
            self.link(n, o)
            self.link(o, n)

    def crash(self, n: int) -> None:
        """kill -9 and a power cut: what was being stored is stored or not, what was not is gone."""
        host = self.hosts[n]
        if host.unsynced is not None and host.unsynced.store is not None and self.rng.random() < 0.5:
            host.disk.write(host.unsynced.store)
        self._end(n)

    def stop(self, n: int) -> None:
        """A clean stop: every proposal gets an answer, and nothing more is stored."""
        self.replica(n).fail_all(Unavailable("this node stops"))
        self._end(n)

    def _end(self, n: int) -> None:
        self.hosts[n].replica = self.hosts[n].unsynced = None
        for o in self.hosts:
            if o != n:
                self.unlink(n, o)
                self.unlink(o, n)
        for proposal in self.proposals:
            if proposal.node == n and proposal.answer is None:
                proposal.lost = True

    @property
    def running(self) -> list[int]:
        """The nodes that run."""
        return [n for n, host in self.hosts.items() if host.replica is not None]

    def replica(self, n: int) -> Group:
        """The replica of a node that runs."""
        replica = self.hosts[n].replica
        assert replica is not None
        return replica

    # -- links ----------------------------------------------------------------------------------------------------

    def link(self, a: int, b: int) -> None:
        """Bring the link from ``a`` to ``b`` up, if both run and it is not cut."""
        if (a, b) in self.cut or (a, b) in self.queues or not {a, b} <= set(self.running):
            return
        self.queues[a, b] = deque()
        self.finish(a)
        self.linked[a, b] = self.id_at(a, b)
        self.replica(a).connected(self.linked[a, b], self.now)

    def unlink(self, a: int, b: int) -> None:
        """Break the link: what is in flight is lost."""
        self.copies.pop((a, b), None)
        if self.queues.pop((a, b), None) is not None and self.hosts[a].replica is not None:
            self.finish(a)
            if not any(a == pair[0] and self.linked[pair] == self.linked[a, b] for pair in self.queues):
                self.replica(a).disconnected(self.linked[a, b], self.now)

    def sever(self, a: int, b: int) -> None:
        """Break it and keep it down."""
        self.cut.add((a, b))
        self.unlink(a, b)

    def isolate(self, n: int) -> None:
        """Cut a node off, both ways."""
        for o in self.hosts:
            if o != n:
                self.sever(n, o)
                self.sever(o, n)

    def heal(self) -> None:
        """Every link comes up."""
        self.cut.clear()
        for a in self.hosts:
            for b in self.hosts:
                if a != b:
                    self.link(a, b)

    def id_at(self, n: int, host: int) -> int:
        """The id by which ``n`` knows that host. Here, where the members stay, ids are the hosts' numbers."""
        return host

    def host_at(self, n: int, number: int) -> int:
        """The host that ``n`` knows by this id."""
        return number

    # -- what a driver does ---------------------------------------------------------------------------------------

    def step(self, n: int) -> None:
        """Step, and leave the sync for later: ``finish`` completes it."""
        self.finish(n)
        ready = self.replica(n).step(self.now)
        self.send(n, ready.at_once)
        self.hosts[n].unsynced = ready
        self.replica(n).apply(self.now)
        self.check(n)
        self.serve_behind(n)

    def finish(self, n: int) -> None:
        """The sync that the last step wanted is done: flush."""
        host = self.hosts[n]
        ready, host.unsynced = host.unsynced, None
        if ready is None:
            return
        if ready.store is not None:
            host.disk.write(ready.store)
            self.replica(n).stored(ready.store, self.now)
        self.send(n, ready.after_sync)
        if (ledger := self.replica(n).ledger_store(self.now)) is not None:
            host.disk.write(ledger)
            self.replica(n).stored(ledger, self.now)

    def turn(self, n: int) -> None:
        """Tick, sync, flush."""
        self.step(n)
        self.finish(n)

    def turns(self, count: int = 10) -> None:
        """Everybody acts and every message arrives at once, ``count`` times, in no time."""
        for _ in range(count):
            for n in self.running:
                self.turn(n)
            for a, b in list(self.queues):
                self.deliver_all(a, b)

    def send(self, n: int, messages: list[tuple[int, Message]]) -> None:
        """Put messages on their links, if those are up."""
        for to, message in messages:
            self.check_is_on_disk(n, message)
            self.sent.append((n, to, message))
            host = self.host_at(n, to)
            if (n, host) in self.queues:
                self.queues[n, host].append(msgpack.packb(encode(message)))

    def deliver(self, a: int, b: int) -> None:
        """Hand the oldest message of a link over."""
        self.finish(b)
        message = decode(msgpack.unpackb(self.queues[a, b].popleft()))
        self.replica(b).receive(self.id_at(b, a), message, self.now)

    def deliver_all(self, a: int, b: int) -> None:
        """Hand everything over that is on this link now."""
        for _ in range(len(self.queues[a, b])):
            self.deliver(a, b)

    def serve_behind(self, n: int) -> None:
        """Begin to copy the ledger to whoever needs it."""
        raft = self.replica(n).raft
        for peer in (self.host_at(n, behind) for behind in raft.behind):
            if raft.is_leader and (n, peer) in self.queues and (n, peer) not in self.copies:
                self.copies[n, peer] = self.hosts[n].disk.copy()
        raft.behind.clear()

    def install(self, a: int, b: int) -> None:
        """A copy has arrived: it is installed in one commit between two turns, or it is not needed."""
        copy = self.copies.pop((a, b))
        host, replica = self.hosts[b], self.replica(b)
        self.turn(b)
        if replica.needs_copy(*copy.applied):
            host.disk.install(copy)
            replica.installed(host.disk.ledger(self.keep), *copy.applied)
            self.installs += 1

    # -- time -----------------------------------------------------------------------------------------------------

    def run(self, seconds: float, loss: float = 0.0) -> None:
        """Random deliveries, steps and syncs, interleaved; ``loss``: the chance of a link break per action."""
        end, rng = self.now + seconds, self.rng
        while self.now < end:
            self.now += rng.random() * 0.004
            n = rng.choice(list(self.hosts))
            if self.hosts[n].replica is None:
                continue
            if loss and self.queues and rng.random() < loss:
                pair = rng.choice(list(self.queues))
                self.unlink(*pair)
                self.link(*pair)
            action = rng.random()
            waiting = [pair for pair, queue in self.queues.items() if pair[1] == n and queue]
            if waiting and action < 0.6:
                self.deliver(*rng.choice(waiting))
            elif action < 0.8:
                self.finish(n)
                self.shed(n)
            else:
                self.step(n)
            if self.copies and rng.random() < 0.02:
                self.install(*rng.choice(list(self.copies)))

    def shed(self, n: int) -> None:
        """What Group.stored does when too much is in memory, with this world's bound."""
        ledger = self.replica(n).ledger
        if ledger.memory_count > 2 * self.keep and not ledger.changed_count:
            ledger[Decisions].keep_newest(self.keep, self.hosts[n].disk.applied[0])

    def until(self, condition: Callable[[], Any], seconds: float = 20.0) -> None:
        """Run until ``condition()``; fail if it does not come true in ``seconds`` of simulated time."""
        end = self.now + seconds
        while not condition():
            assert self.now < end, "the condition did not come true in time"
            self.run(0.02)

    # -- use ------------------------------------------------------------------------------------------------------

    @property
    def leader(self) -> int | None:
        """The leader of the highest term."""
        leading = [n for n in self.running if self.replica(n).raft.is_leader]
        return max(leading, key=lambda n: self.replica(n).raft.term) if leading else None

    def elect(self) -> int:
        """Run until there is a leader that everybody who can hear it follows, and its first entry is applied."""
        self.until(lambda: self.leader is not None and self.settled(self.running))
        assert self.leader is not None
        return self.leader

    def settled(self, nodes: list[int]) -> bool:
        """Whether these nodes have applied the same, and nothing is on its way."""
        replicas = [self.replica(n) for n in nodes]
        return (
            len({(r.applied_index, r.log.last_index, r.raft.term, r.raft.leader) for r in replicas}) == 1
            and replicas[0].applied_index == replicas[0].log.last_index
            and replicas[0].raft.leader is not None
        )

    def txid(self) -> TxId:
        """A new txid of this world's time."""
        return TxId.new(EPOCH_MS + int(self.now * 1000), self.rng.randbytes(10))

    def decide(
        self,
        n: int,
        verdict: Verdict = Verdict.COMMIT,
        txid: TxId | None = None,
        wait: float = 5.0,
        branches: tuple[str, ...] = (),
    ) -> TxId:
        """Propose a decision at node ``n``."""
        txid = txid or self.txid()
        self.propose(n, Decide(txid, verdict, branches, "", "", 0), wait)
        return txid

    def propose(self, n: int, command: Command, wait: float = 5.0) -> Proposal:
        """Propose; the answer is recorded, once."""
        proposal = self._proposal(n, command)
        self.replica(n).propose(command, self.now + wait, lambda result: self._answer(proposal, result))
        return proposal

    def barrier(self, n: int, wait: float = 5.0) -> Proposal:
        """A linearizable read: it must answer with at least what anybody had applied before."""
        proposal = self._proposal(n, None)

        def done(result: tuple[int, int] | RaftcoordError) -> None:
            if isinstance(result, tuple):
                assert proposal.reached <= result[1] <= self.replica(n).applied_index, "a barrier answered too early"
            self._answer(proposal, result)

        self.replica(n).barrier(self.now + wait, done)
        return proposal

    def _proposal(self, n: int, command: Command | None) -> Proposal:
        reached = max((self.replica(o).applied_index for o in self.running), default=0)
        self.proposals.append(Proposal(n, command, reached))
        return self.proposals[-1]

    def _answer(self, proposal: Proposal, result: Any) -> None:
        assert proposal.answer is None, "a second answer"
        assert not proposal.lost, "an answer from a node that is gone"
        proposal.answer = result

    def answer(self, txid: TxId) -> Result | RaftcoordError | None:
        """The first answer to a decision for ``txid``."""
        answers = [p.answer for p in self.proposals if isinstance(p.command, Decide) and p.command.txid == txid]
        return next((answer for answer in answers if answer is not None), None)

    def verdict(self, txid: TxId) -> Verdict | None:
        """The verdict that stands, as answered."""
        answer = self.answer(txid)
        return answer.decision.verdict if isinstance(answer, Standing) and answer.decision is not None else None

    # -- promises -------------------------------------------------------------------------------------------------

    def check(self, n: int) -> None:
        """The five properties of figure 3, as far as this node can now contradict them."""
        replica, raft, log = self.replica(n), self.replica(n).raft, self.replica(n).log
        assert raft.commit_index <= log.last_index, "committed what is not there"
        if raft.is_leader and raft.term not in self.leaders:
            self.check_completeness(n)
        if raft.is_leader:
            assert self.leaders.setdefault(raft.term, n) == n, f"two leaders in term {raft.term} (election safety)"
        first = log.first_index
        for index in range(max(first + 1, log.last_index - 8), log.last_index + 1):
            data, _, term = log[index - first]
            here = (data, log[index - 1 - first][2])
            known = self.logged.setdefault((index, term), here)
            assert known == here, f"node {n} has another log up to {index} in term {term} (log matching)"
        for index in range(max(first + 1, replica.applied_index - 8), replica.applied_index + 1):
            data, _, term = log[index - first]
            known_applied = self.applied.setdefault(index, (term, data))
            assert known_applied == (term, data), f"node {n} applied another entry at {index} (state machine safety)"

    def check_completeness(self, n: int) -> None:
        """Leader completeness: whatever anybody has applied is in a new leader's log."""
        log = self.replica(n).log
        for index, (term, _) in self.applied.items():
            if index > log.first_index:
                assert log.term_at(index) == term, f"leader {n} lacks the committed entry {index} (leader completeness)"

    def check_is_on_disk(self, n: int, message: Message) -> None:
        """Votes and acknowledgements show only what survives a crash."""
        disk, kind = self.hosts[n].disk, message["type"]
        if kind not in ("pre_vote", "propose"):
            assert message["term"] <= disk.term, f"{kind} of a term that is not on disk"
        if kind == "response_vote" and message["term"] == disk.term:
            assert disk.vote is not None, "a vote that is not on disk"
        if kind == "next_node_idx" and message["success"]:
            index = message["next_node_idx"] - 1
            assert index <= disk.log[-1][1], "acknowledged what is not on disk"
            on_disk = next((entry[2] for entry in reversed(disk.log) if entry[1] == index), None)
            assert on_disk == self.replica(n).log.term_at(index), "acknowledged another entry than is on disk"

    def table(self, n: int) -> dict[TxId, Decision]:
        """Every decision that this node knows, in memory or on its disk."""
        ledger, disk = self.replica(n).ledger, self.hosts[n].disk
        txids = {*disk.tables.decisions, *(p.command.txid for p in self.proposals if isinstance(p.command, Decide))}
        found = {txid: ledger.decision(txid) for txid in txids}
        return {txid: decision for txid, decision in found.items() if decision is not None}

    def check_answers(self) -> None:
        """Every answer that anybody got agrees with every ledger, and with every other answer."""
        running = self.running
        tables = {n: self.table(n) for n in running}
        ledgers = {n: self.replica(n).ledger for n in running}
        model = tables[running[0]]
        for n in running:
            assert tables[n] == model, "two ledgers differ"
            assert {d.txid for d in ledgers[n].open_decisions()} == {t for t, d in model.items() if d.outstanding}
            assert set(ledgers[n].damages()) == set(ledgers[running[0]].damages())
            assert ledgers[n].horizon_ms == ledgers[running[0]].horizon_ms
            assert ledgers[n].cluster == ledgers[running[0]].cluster
            assert ledgers[n].enrolled == ledgers[running[0]].enrolled
        by_txid: dict[TxId, list[Any]] = {}
        for proposal in self.proposals:
            if isinstance(proposal.command, Decide):
                by_txid.setdefault(proposal.command.txid, []).append(proposal.answer)
        horizon_ms = ledgers[running[0]].horizon_ms
        for txid, answers in by_txid.items():
            standings = [answer for answer in answers if isinstance(answer, Standing)]
            told = {standing.state for standing in standings if standing.decision is not None}
            assert len(told) <= 1, f"two outcomes were told for {txid}"
            assert sum(standing.first for standing in standings) <= 1
            for state in told:
                stands = ledgers[running[0]].state(txid)
                forgotten = txid not in model and txid.ms < horizon_ms
                assert stands == state or forgotten, f"{txid} was told {state!s} and is now {stands!s}"
            if all(isinstance(answer, Unavailable) for answer in answers):
                assert txid not in model, "told that nothing was attempted, and it was"
        for proposal in self.proposals:
            assert proposal.answer is not None or proposal.lost, "a proposal without an answer"
            assert not isinstance(proposal.answer, RaftcoordError) or isinstance(
                proposal.answer, (Unavailable, NotKnown)
            )
