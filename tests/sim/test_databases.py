"""Databases in the simulated world: they do what misled others, and what reaches them is held against the ledger."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from raftcoord.databases import gid as gids
from raftcoord.databases.registry import named
from raftcoord.databases.steps import Effect
from raftcoord.sim.database import SimBranch, SimServer
from raftcoord.sim.database_mariadb import MariaDbServer
from raftcoord.sim.database_postgresql import PostgreSqlServer
from raftcoord.sim.loop import Process, SimLoop
from raftcoord.sim.sessions import ProgramSession
from raftcoord.sim.simulation import Settings, Simulation
from raftcoord.types import TxId

CLUSTER = "0123456789abcdef"


class Ends:
    """How branches ended."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def on_commit(self, server: SimServer, gid: str, by: str, *, prepared: bool) -> None:
        self.told.append(f"{by} commits{' what was prepared' if prepared else ''}")

    def on_rollback(self, server: SimServer, gid: str, by: str) -> None:
        self.told.append(f"{by} rolls back")


class Bench:
    """One server, and sessions to it."""

    def __init__(self, kind: type[SimServer], seed: int = 0) -> None:
        self.errors: list[str] = []
        self.loop = SimLoop(random.Random(seed), lambda *what: self.errors.append(str(what)))  # type: ignore[abstract]
        self.ends = Ends()
        self.server = kind(self.loop, "ledger", random.Random(seed), self.ends, 0)
        self.gid = gids.make(CLUSTER, TxId.new(1_000, bytes(10)), "ledger")

    def session(self, by: str = "program") -> ProgramSession:
        process = Process(self.loop, by)
        return ProgramSession(self.server.connect(process, by), self.gid.branch, lambda label: None)

    def run(self, session: ProgramSession, steps: object) -> object:
        task = session.connection.process.spawn(session.run(steps), "run")  # type: ignore[arg-type]
        self.loop.run_until(self.loop.now + 5.0, until=task.done)
        return task.result()

    def prepared(self) -> ProgramSession:
        session = self.session()
        dialect = session.dialect
        self.run(session, dialect.begin(self.gid, checked=True))
        self.run(session, dialect.prepare(self.gid, marks=True))
        return session

    def pass_s(self, seconds: float) -> None:
        self.loop.run_until(self.loop.now + seconds)


@pytest.mark.parametrize("kind", [MariaDbServer, PostgreSqlServer])
def test_what_is_prepared_outlives_its_session_and_its_server(kind: type[SimServer]) -> None:
    bench = Bench(kind)
    bench.prepared().connection.hang_up()
    bench.pass_s(1.0)
    bench.server.kill()
    bench.server.start()
    session = bench.session("resolver")
    assert bench.run(session, named(kind.kind).dialect.proof(bench.gid)) is Effect.PREPARED
    assert bench.run(session, named(kind.kind).dialect.commit_prepared(bench.gid)) is Effect.COMMITTED
    assert bench.ends.told == ["resolver commits what was prepared"]


@pytest.mark.parametrize("kind", [MariaDbServer, PostgreSqlServer])
def test_what_is_not_prepared_is_rolled_back_with_its_session(kind: type[SimServer]) -> None:
    bench = Bench(kind)
    session = bench.session()
    bench.run(session, session.dialect.begin(bench.gid, checked=True))
    session.connection.hang_up()
    bench.pass_s(1.0)
    assert bench.ends.told == ["program rolls back"]


def test_in_mariadb_nobody_else_ends_a_branch_while_its_session_lives() -> None:
    bench = Bench(MariaDbServer)
    bench.prepared()
    other = bench.session("resolver")
    assert bench.run(other, other.dialect.commit_prepared(bench.gid)) is Effect.PREPARED
    assert bench.ends.told == []


def test_in_mariadb_an_ok_just_after_the_session_may_be_no_commit() -> None:
    effects = Counter()
    for seed in range(100):
        bench = Bench(MariaDbServer, seed)
        bench.prepared().connection.hang_up()
        bench.pass_s(0.2)
        other = bench.session("resolver")
        effect = bench.run(other, other.dialect.commit_prepared(bench.gid))
        effects[effect] += 1
        if effect is Effect.ABSENT:  # until the server is restarted
            bench.server.kill()
            bench.server.start()
            assert bench.run(bench.session(), other.dialect.proof(bench.gid)) is Effect.PREPARED
    assert set(effects) == {Effect.COMMITTED, Effect.PREPARED, Effect.ABSENT}


def test_seeds_with_databases_reach_what_they_are_for() -> None:
    reached: Counter[str] = Counter()
    for seed in range(8):
        report = Simulation(seed, Settings(databases=1.0)).run()
        assert report.violation is None, f"seed {seed}: {report.violation}"
        reached.update({**report.outcomes, **report.states})
    assert reached["block committed"] > 50
    assert reached["branches committed by a resolver"] > 0
    assert reached["branches rolled back by a resolver"] > 0


def test_a_branch_of_another_cluster_is_listed() -> None:
    bench = Bench(PostgreSqlServer)
    foreign = str(bench.gid).replace(CLUSTER, "f00df00df00df00d")
    bench.server.prepared[foreign] = SimBranch(foreign, None)
    listed = bench.run(bench.session(), named("postgresql").dialect.list_prepared(None))
    assert [str(each.gid) for each in listed] == [foreign]  # type: ignore[attr-defined]
