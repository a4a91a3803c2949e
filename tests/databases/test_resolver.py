"""The resolver brings what is prepared to the outcome that the ledger holds, and touches nothing else."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from raftcoord import COMMIT, TxId, limits
from raftcoord.core.tables.damages import Heuristic
from raftcoord.core.tables.decisions import Decide
from raftcoord.core.tables.horizon import Retire
from raftcoord.databases import drivers
from raftcoord.databases import gid as gids
from raftcoord.databases.gid import Gid
from raftcoord.databases.owners import Owner
from raftcoord.databases.resolver.resource import Resource
from raftcoord.databases.resolver.rules import ON_ANSWER, ON_EFFECT, ON_OPEN, Act, Paces
from raftcoord.databases.resolver.sweep_report import SweepReport
from raftcoord.databases.resource_config import ResourceConfig
from raftcoord.databases.session import DriverSession
from raftcoord.databases.steps import Effect
from raftcoord.errors import RemoteProtocolError
from raftcoord.limits import ResolverBounds
from raftcoord.processes.database_servers import DatabaseServer
from raftcoord.types import Branch, State, Verdict

from .banks import Bank, MariaDbBank, PostgreSqlBank, SqliteBank
from .nodes import Nodes, running

OTHER_CLUSTER = "00000000000000bb"
KINDS = ("postgresql", "mariadb", "sqlite")
QUICK = ResolverBounds(settle_ms=20, every_ms=20, open_ms=20, retry_ms_max=40, damage_ms=100)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with running() as made:
        yield made


@pytest.fixture(params=KINDS)
def bank(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bank]:
    """A database of each kind."""
    made = bank_of(request.param, request, tmp_path)
    yield made
    made.close()


def bank_of(kind: str, request: pytest.FixtureRequest, tmp_path: Path, *, marks: bool = True) -> Bank:
    if kind == "sqlite":
        return SqliteBank(tmp_path / "bank.db", marks=marks)
    server = request.getfixturevalue(kind)
    return PostgreSqlBank(server, marks=marks) if kind == "postgresql" else MariaDbBank(server, marks=marks)


@pytest.fixture
def pg(postgresql: DatabaseServer) -> Iterator[PostgreSqlBank]:
    made = PostgreSqlBank(postgresql)
    yield made
    made.close()


@pytest.fixture
def my(mariadb: DatabaseServer) -> Iterator[MariaDbBank]:
    made = MariaDbBank(mariadb)
    yield made
    made.close()


def prepare(bank: Bank, gid: Gid, amount: int = -10) -> DriverSession:
    """What a program does up to its yes: alice's amount changes by ``amount``, or 0: no lock is held. The session is alive."""
    session = drivers.session(bank.connect(), gid.branch)
    session.enter()
    marks = bank.kind == "sqlite" or bank.other.run(bank.dialect.owners()) is not None
    session.run(session.dialect.begin(gid, checked=bank.kind != "sqlite"))
    if amount:
        bank.add(session.given, amount)
    session.run(session.dialect.prepare(gid, marks=marks))
    return session


def leave(bank: Bank, gid: Gid, amount: int = -10) -> Gid:
    """The same, by a program that is killed then."""
    prepare(bank, gid, amount).close()
    return gid


def prepared(bank: Bank, name: str) -> list[TxId]:
    """XA RECOVER shows those of other tests too."""
    listed = bank.other.run(bank.dialect.list_prepared(None))
    return [each.gid.txid for each in listed if each.gid.branch == name and each.here]


def by_hand(bank: Bank, steps: Callable[[Gid], Any], gid: Gid, effect: Effect) -> None:
    """What an operator does; in MariaDB nothing while the preparing session is still on its way out."""
    deadline = time.monotonic() + 10
    while bank.other.run(steps(gid)) is not effect:
        assert time.monotonic() < deadline
        time.sleep(0.02)


_numbers = itertools.count(1)


def new_name() -> str:
    """Of a resource: XA RECOVER shows the branches of every database of the server, and so those of earlier tests."""
    return f"ledger-{next(_numbers)}"


class Looking:
    """A resolver for one bank, looked through from the test."""

    def __init__(
        self,
        bank: Bank,
        nodes: Any,
        name: str,
        *,
        safety_s: float = 0.0,
        url: str = "",
        named: tuple[str, ...] = (),
        bounds: ResolverBounds = QUICK,
    ) -> None:
        config = ResourceConfig(Branch(name), url or bank.url)
        self.resource = Resource(config, frozenset({name, *named}), nodes, safety_s=safety_s, bounds=bounds)
        self.total = SweepReport()

    def look(self) -> SweepReport:
        seen = self.resource.look(thorough=True)
        assert seen is not None, self.resource.trouble
        self.total.add(seen)
        return seen

    def until(self, condition: Callable[[], object]) -> SweepReport:
        """Look until it holds, for at most 10 s."""
        deadline = time.monotonic() + 10
        while True:
            seen = self.look()
            if condition():
                return seen
            assert time.monotonic() < deadline, f"it did not come about: {self.total}"
            time.sleep(0.02)


@pytest.fixture
def looking(nodes: Nodes) -> Iterator[Callable[..., Looking]]:
    made: list[Looking] = []

    def make(bank: Bank, name: str, **options: Any) -> Looking:
        made.append(Looking(bank, options.pop("nodes", nodes.client), name, **options))
        return made[-1]

    yield make
    for each in made:
        each.resource.close()


Look = Callable[..., Looking]


# -- what is prepared ---------------------------------------------------------------------------------------------


def test_what_is_committed_in_the_ledger_is_committed_and_acknowledged(bank: Bank, nodes: Nodes, looking: Look) -> None:
    gid = leave(bank, nodes.gid(new_name()))
    nodes.client.decide(gid.txid, COMMIT, [gid.branch])
    resolver = looking(bank, gid.branch)
    resolver.until(lambda: resolver.total.committed)
    assert (bank.balance(), prepared(bank, gid.branch)) == (90, [])
    assert nodes.outstanding(gid.txid) == ()
    assert resolver.look() == SweepReport(foreign=resolver.total.foreign, next_s=0.02)


def test_what_is_undecided_is_aborted_and_a_late_commit_loses(bank: Bank, nodes: Nodes, looking: Look) -> None:
    gid = leave(bank, nodes.gid(new_name()))
    resolver = looking(bank, gid.branch)
    resolver.until(lambda: resolver.total.rolled_back)
    assert (bank.balance(), prepared(bank, gid.branch)) == (100, [])
    assert not nodes.client.decide(gid.txid, COMMIT, [gid.branch]).committed


def test_a_branch_that_the_commit_does_not_name_is_rolled_back(bank: Bank, nodes: Nodes, looking: Look) -> None:
    gid = leave(bank, nodes.gid(new_name()))
    nodes.client.decide(gid.txid, COMMIT, ["somebody-else"])
    resolver = looking(bank, gid.branch)
    resolver.until(lambda: resolver.total.rolled_back)
    assert (bank.balance(), prepared(bank, gid.branch)) == (100, [])
    assert nodes.outstanding(gid.txid) == ("somebody-else",)


def test_what_is_aborted_in_the_ledger_is_rolled_back_and_acknowledged(bank: Bank, nodes: Nodes, looking: Look) -> None:
    gid = leave(bank, nodes.gid(new_name()))
    nodes.append(Decide(gid.txid, Verdict.ABORT, (gid.branch,), "no money", "", 0))
    resolver = looking(bank, gid.branch)
    resolver.until(lambda: not nodes.outstanding(gid.txid))
    assert (bank.balance(), prepared(bank, gid.branch)) == (100, [])
    assert resolver.total.rolled_back == resolver.total.completed == 1


def test_a_branch_of_another_cluster_is_counted_and_never_touched(bank: Bank, nodes: Nodes, looking: Look) -> None:
    """Two clusters on one server: presuming abort for the other's would undo its commits."""
    gid = leave(bank, gids.make(OTHER_CLUSTER, TxId.new(), new_name()))
    resolver = looking(bank, gid.branch)
    for _ in range(5):
        assert resolver.look().foreign >= 1
    assert gid.txid in prepared(bank, gid.branch)
    assert nodes.state(gid.txid) == "UNDECIDED"
    by_hand(bank, bank.dialect.commit_prepared, gid, Effect.COMMITTED)
    assert bank.balance() == 90


def test_a_young_branch_is_left_to_its_program_until_it_is_decided(bank: Bank, nodes: Nodes, looking: Look) -> None:
    gid = leave(bank, nodes.gid(new_name()))
    resolver = looking(bank, gid.branch, safety_s=60.0)
    for _ in range(5):
        assert resolver.look().waiting == {gid}
        time.sleep(0.02)
    assert nodes.state(gid.txid) == "UNDECIDED"
    nodes.client.decide(gid.txid, COMMIT, [gid.branch])
    resolver.until(lambda: resolver.total.committed)
    assert bank.balance() == 90


def test_the_age_that_the_database_tells_counts(pg: Bank, nodes: Nodes, looking: Look) -> None:
    gid = leave(pg, nodes.gid(new_name()))
    time.sleep(0.3)
    assert looking(pg, gid.branch, safety_s=0.3).look().rolled_back == 1


def test_what_is_forgotten_is_rolled_back_unless_damage_was_recorded_for_it(
    bank: Bank, nodes: Nodes, looking: Look
) -> None:
    """A COMMIT is retired only when every branch that it names has acknowledged; a damaged branch did not do that itself."""
    name, long_ago = new_name(), int(time.time() * 1000) - 3_600_000
    sound = nodes.gid(name, TxId.new(long_ago))
    nodes.append(Retire(long_ago + 1))
    leave(bank, sound)
    resolver = looking(bank, name)
    resolver.until(lambda: resolver.total.rolled_back)
    damaged = nodes.gid(name, TxId.new(long_ago))
    leave(bank, damaged)
    nodes.append(Heuristic(damaged.txid, name, "restored from a backup", 0))
    (left,) = resolver.until(lambda: resolver.total.left).left
    assert (left.gid, prepared(bank, name)) == (damaged, [damaged.txid])
    assert "by hand" in left.why
    bank.other.run(bank.dialect.rollback_prepared(damaged))


# -- what the ledger waits for ------------------------------------------------------------------------------------


def test_what_its_program_had_committed_before_it_died_is_acknowledged_by_the_mark(
    bank: Bank, nodes: Nodes, looking: Look
) -> None:
    session = prepare(bank, gid := nodes.gid(new_name()))
    nodes.client.decide(gid.txid, COMMIT, [gid.branch])
    assert session.run(session.dialect.commit_prepared_here(gid)) is Effect.COMMITTED
    session.close()
    resolver = looking(bank, gid.branch)
    resolver.until(lambda: not nodes.outstanding(gid.txid))
    assert (resolver.total.completed, resolver.total.committed, bank.balance()) == (1, 0, 90)


def test_a_branch_rolled_back_by_hand_is_damage_recorded_once_and_in_nobodys_way(
    bank: Bank, nodes: Nodes, looking: Look, caplog: pytest.LogCaptureFixture
) -> None:
    name = new_name()
    gid = leave(bank, nodes.gid(name))
    nodes.client.decide(gid.txid, COMMIT, [name, "other"])
    by_hand(bank, bank.dialect.rollback_prepared, gid, Effect.ABSENT)
    resolver = looking(bank, name)
    with caplog.at_level(logging.CRITICAL):
        resolver.until(lambda: resolver.total.damaged)
        healthy = leave(bank, nodes.gid(name))
        nodes.client.decide(healthy.txid, COMMIT, [name])
        resolver.until(lambda: resolver.total.committed)
        for _ in range(5):
            resolver.look()
            time.sleep(0.02)
    (damage,) = [each for each in nodes.damages() if each.txid == gid.txid]
    assert (damage.branch, damage.acknowledged_by) == (name, "")
    assert "neither prepared nor marked" in damage.what
    assert len(resolver.total.damaged) == len(caplog.records) == 1
    assert nodes.outstanding(gid.txid) == (name, "other")
    assert nodes.state(gid.txid) == "COMMITTED"


def test_one_look_is_not_enough_for_damage(pg: Bank, nodes: Nodes, looking: Look) -> None:
    """A commit that is on its way is, for a moment, neither listed nor marked."""
    gid = nodes.gid(new_name())
    nodes.client.decide(gid.txid, COMMIT, [gid.branch])
    resolver = looking(pg, gid.branch, bounds=replace(QUICK, damage_ms=60_000))
    for _ in range(limits.RESOLVER_DAMAGE_LOOKS + 3):
        assert resolver.look().damaged == []
    assert not [each for each in nodes.damages() if each.txid == gid.txid]


def test_a_mark_that_contradicts_the_ledger_is_damage(bank: Bank, nodes: Nodes, looking: Look) -> None:
    gid = leave(bank, nodes.gid(new_name()))
    nodes.append(Decide(gid.txid, Verdict.ABORT, (gid.branch,), "no money", "", 0))
    by_hand(bank, bank.dialect.commit_prepared, gid, Effect.COMMITTED)
    resolver = looking(bank, gid.branch)
    resolver.until(lambda: resolver.total.damaged)
    (damage,) = [each for each in nodes.damages() if each.txid == gid.txid]
    assert "it was committed" in damage.what


def test_a_branch_committed_by_hand_whose_transaction_is_then_aborted_is_damage(
    bank: Bank, nodes: Nodes, looking: Look
) -> None:
    """Nothing waits for it, and nothing is prepared: the mark alone shows it."""
    gid = leave(bank, nodes.gid(new_name()))
    by_hand(bank, bank.dialect.commit_prepared, gid, Effect.COMMITTED)
    assert nodes.client.resolve(gid.txid).state is State.ABORTED
    for _ in range(3):
        assert (
            nodes.client.resolve(nodes.gid(gid.branch).txid).state is State.ABORTED
        )  # others, of which nothing is there
    resolver = looking(bank, gid.branch)
    resolver.until(lambda: resolver.total.damaged)
    for _ in range(3):
        resolver.look()
    (damage,) = [each for each in nodes.damages() if each.branch == gid.branch]
    assert damage.txid == gid.txid
    assert "it was committed" in damage.what
    assert len(resolver.total.damaged) == 1


def test_an_old_abort_is_looked_at_again_behind_a_page_of_newer_ones(
    pg: PostgreSqlBank, nodes: Nodes, looking: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ROWS_MAX", 3)
    gid = leave(pg, nodes.gid(new_name()))
    assert nodes.client.resolve(gid.txid).state is State.ABORTED
    newer = [TxId.new() for _ in range(13)]
    for txid in newer:
        nodes.append(Decide(txid, Verdict.ABORT, (), "", "", 0))
    by_hand(pg, pg.dialect.commit_prepared, gid, Effect.COMMITTED)
    resolver = looking(pg, gid.branch)
    resolver.until(lambda: resolver.total.damaged)
    assert [each.gid for each in resolver.total.damaged] == [gid]


def test_without_marks_nothing_is_inferred_of_a_branch_that_is_gone(
    postgresql: DatabaseServer, nodes: Nodes, looking: Look
) -> None:
    bank = PostgreSqlBank(postgresql, marks=False)
    gid = leave(bank, nodes.gid(new_name()))
    nodes.client.decide(gid.txid, COMMIT, [gid.branch])
    bank.other.run(bank.dialect.commit_prepared(gid))
    resolver = looking(bank, gid.branch)
    (left,) = resolver.until(lambda: resolver.total.left).left
    assert f"raftcoord resource init {gid.branch}" in left.why
    assert f"raftcoord txn close {gid.branch} --all" in left.why
    assert nodes.outstanding(gid.txid) == (gid.branch,)
    assert not [each for each in nodes.damages() if each.txid == gid.txid]
    bank.other.run(bank.dialect.create_marks())  # as resource init does, and as that message says
    (left,) = resolver.until(lambda: "younger" in resolver.look().left[0].why).left
    assert not [each for each in nodes.damages() if each.txid == gid.txid]
    assert nodes.client.close_branches({gid.txid: [gid.branch]}, "ann", "compared: it was committed") == 1
    assert nodes.outstanding(gid.txid) == ()
    assert not resolver.look().left
    bank.close()


@pytest.mark.parametrize("how", ["emptied", "dropped and made again"])
def test_marks_that_are_younger_than_commits_make_them_no_damage_and_are_said_once(
    bank: Bank, nodes: Nodes, looking: Look, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    name, count = new_name(), 7
    table = "raftcoord.marks" if bank.kind == "postgresql" else "raftcoord_marks"
    for _ in range(count):
        gid = leave(bank, nodes.gid(name), -1)
        nodes.client.decide(gid.txid, COMMIT, [name])
        by_hand(bank, bank.dialect.commit_prepared, gid, Effect.COMMITTED)
    time.sleep(0.005)  # the table is younger by the clock's smallest step, which is a millisecond
    if how == "emptied":
        bank.sql(f"DELETE FROM {table}")
    else:
        bank.sql(f"DROP TABLE {table}")
        bank.other.run(bank.dialect.create_marks())
    resolver = looking(bank, name)
    with caplog.at_level(logging.WARNING):
        seen = resolver.until(lambda: len(resolver.look().left) == count)
    for _ in range(limits.RESOLVER_DAMAGE_LOOKS + 3):
        time.sleep(0.04)
        assert not resolver.look().damaged
    assert {each.why for each in seen.left} == {each.why for each in seen.left if "younger" in each.why}
    assert len([line for line in caplog.messages if "left alone" in line]) == 1
    assert f"and {count - 1} more" in "".join(caplog.messages)
    assert not [each for each in nodes.damages() if each.branch == name]
    later = leave(bank, nodes.gid(name), -1)
    nodes.client.decide(later.txid, COMMIT, [name, "other"])
    by_hand(bank, bank.dialect.rollback_prepared, later, Effect.ABSENT)
    resolver.until(lambda: resolver.total.damaged)
    assert [each.gid for each in resolver.total.damaged] == [later]


def test_damage_against_an_abort_that_was_acknowledged_is_not_reported_anew(
    pg: PostgreSqlBank, nodes: Nodes, looking: Look, caplog: pytest.LogCaptureFixture
) -> None:
    gid = leave(pg, nodes.gid(new_name()))
    by_hand(pg, pg.dialect.commit_prepared, gid, Effect.COMMITTED)
    assert nodes.client.resolve(gid.txid).state is State.ABORTED
    looking(pg, gid.branch).until(lambda: nodes.damages()[-1].txid == gid.txid)
    nodes.client.acknowledge(gid.txid, gid.branch, "ann")
    caplog.clear()
    with caplog.at_level(logging.CRITICAL):
        again = looking(pg, gid.branch)
        for _ in range(3):
            assert not again.look().damaged
    assert not caplog.records


# -- what cannot be finished here ---------------------------------------------------------------------------------


def test_a_user_without_the_right_is_told_what_to_do_and_stops_nothing_else(
    pg: PostgreSqlBank, nodes: Nodes, looking: Look
) -> None:
    name = new_name()
    with psycopg.connect(pg.server.url(), autocommit=True) as admin:
        admin.execute(f'CREATE ROLE "{name}" LOGIN')
        admin.execute(f'GRANT pg_read_all_data, pg_write_all_data TO "{name}"')
    others = leave(pg, nodes.gid(name))
    nodes.client.decide(others.txid, COMMIT, [name])
    url = pg.url.replace("postgres@", f"{name}@")
    resolver = looking(pg, name, url=url)
    (left,) = resolver.until(lambda: resolver.total.left).left
    assert left.gid == others
    assert "only the user that prepared a branch, or a superuser" in left.why
    own = nodes.gid(name)
    session = drivers.session(psycopg.connect(url), own.branch)
    session.enter()
    marks = session.run(session.dialect.begin(own, checked=False))
    session.run(session.dialect.prepare(own, marks=marks))
    session.close()
    nodes.client.decide(own.txid, COMMIT, [name])
    resolver.until(lambda: resolver.total.committed)
    assert prepared(pg, name) == [others.txid]
    assert not [each for each in nodes.damages() if each.txid == others.txid]
    pg.other.run(pg.dialect.rollback_prepared(others))


def test_a_branch_in_another_database_of_the_server_is_reported_and_no_damage(
    pg: PostgreSqlBank, nodes: Nodes, looking: Look
) -> None:
    gid = leave(pg, nodes.gid(new_name()))
    nodes.client.decide(gid.txid, COMMIT, [gid.branch])
    resolver = looking(pg, gid.branch, url=pg.server.url("postgres"))
    for _ in range(6):
        (left,) = resolver.look().left
        assert left.gid == gid
        assert f"{pg.database!r}, and the url names another one" in left.why
        time.sleep(0.03)
    assert not [each for each in nodes.damages() if each.txid == gid.txid]
    pg.other.run(pg.dialect.rollback_prepared(gid))


def test_a_branch_of_no_resource_is_reported_and_left_alone(bank: Bank, nodes: Nodes, looking: Look) -> None:
    gid = leave(bank, nodes.gid(new_name()))
    resolver = looking(bank, "something-else")
    assert gid in [left.gid for left in resolver.look().left]
    assert gid.txid in prepared(bank, gid.branch)
    named = looking(bank, "something-else", named=(gid.branch,))
    assert gid not in [left.gid for left in named.look().left]
    assert nodes.state(gid.txid) == "UNDECIDED"
    bank.other.run(bank.dialect.rollback_prepared(gid))


def test_1397_while_the_preparing_session_lives_is_a_question_that_is_asked_again(
    my: Bank, nodes: Nodes, looking: Look
) -> None:
    session = prepare(my, gid := nodes.gid(new_name()))
    nodes.client.decide(gid.txid, COMMIT, [gid.branch])
    resolver = looking(my, gid.branch)
    (left,) = resolver.until(lambda: resolver.total.left).left
    assert "the session that prepared it may be alive still" in left.why
    assert (nodes.outstanding(gid.txid), resolver.total.committed) == ((gid.branch,), 0)
    session.close()
    resolver.until(lambda: resolver.total.committed)
    assert (my.balance(), nodes.outstanding(gid.txid)) == (90, ())


@pytest.mark.parametrize("behind_ms", [30 * 60_000, 366 * 86_400_000 // 2])
def test_branches_are_finished_though_the_clock_of_the_node_is_behind(
    pg: Bank, nodes: Nodes, looking: Look, behind_ms: int
) -> None:
    name = new_name()
    committed = leave(pg, nodes.gid(name))
    nodes.client.decide(committed.txid, COMMIT, [name])
    nodes.set_clock(-behind_ms)
    resolver = looking(pg, name)
    try:
        resolver.until(lambda: resolver.total.committed)
        undecided = leave(pg, nodes.gid(name))
        resolver.until(lambda: resolver.total.rolled_back)
    finally:
        nodes.set_clock(0)
    assert not prepared(pg, name)
    assert nodes.outstanding(committed.txid) == ()
    assert (nodes.state(committed.txid), nodes.state(undecided.txid)) == ("COMMITTED", "ABORTED")


def test_a_txid_from_the_future_is_reported_and_stops_nothing_else(pg: Bank, nodes: Nodes, looking: Look) -> None:
    name = new_name()
    future = leave(pg, nodes.gid(name, TxId.new(int(time.time() * 1000) + limits.DECIDE_FUTURE_MS_MAX + 60_000)), 0)
    good = leave(pg, nodes.gid(name))
    resolver = looking(pg, name)
    resolver.until(lambda: resolver.total.rolled_back)
    assert "in the future" in resolver.total.left[0].why
    assert good.txid not in prepared(pg, name)
    pg.other.run(pg.dialect.rollback_prepared(future))


# -- trouble ------------------------------------------------------------------------------------------------------


def test_a_database_that_is_away_is_one_line_in_the_log_and_looked_at_at_once_when_it_is_back(
    nodes: Nodes, looking: Look, caplog: pytest.LogCaptureFixture
) -> None:
    server = DatabaseServer("postgresql", durable=True)
    try:
        server.start()
        bank = PostgreSqlBank(server)
        gid = leave(bank, nodes.gid(new_name()))
        resolver = looking(bank, gid.branch).resource
        nodes.client.decide(gid.txid, COMMIT, [gid.branch])
        server.kill()
        with caplog.at_level(logging.INFO, "raftcoord.resolver"):
            pauses = [resolver.step() for _ in range(8)]
            assert [record.levelname for record in caplog.records] == ["WARNING"]
            assert "cannot be reached" in caplog.text
            assert 0 < min(pauses) < max(pauses) <= limits.RESOLVER_BACKOFF_MS_MAX / 1000
            server.start()
            while gid.txid in prepared_now(bank, gid.branch):
                time.sleep(resolver.step())
        assert "it is looked at again" in caplog.text
        assert nodes.outstanding(gid.txid) == ()
    finally:
        server.stop()


def prepared_now(bank: Bank, name: str) -> list[TxId]:
    """Through a connection that has seen no crash."""
    bank.other.close()
    bank.other = drivers.connect(bank.url)
    return prepared(bank, name)


def test_a_lost_connection_is_made_anew(pg: PostgreSqlBank, nodes: Nodes, looking: Look) -> None:
    gid = leave(pg, nodes.gid(new_name()))
    resolver = looking(pg, gid.branch, safety_s=60.0)
    resolver.look()
    session = resolver.resource._session
    assert session is not None
    with psycopg.connect(pg.server.url(), autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(%s)", [session.connection.info.backend_pid])
    assert resolver.resource.look() is None
    nodes.client.decide(gid.txid, COMMIT, [gid.branch])
    resolver.until(lambda: resolver.total.committed)
    assert pg.balance() == 90


def test_without_nodes_nothing_is_touched(bank: Bank, nodes: Nodes, looking: Look) -> None:
    gid = leave(bank, nodes.gid(new_name()))
    with running() as gone:
        client = gone.client
        resolver = looking(bank, gid.branch, nodes=client, safety_s=60.0).resource
        assert resolver.look() is not None
    for _ in range(2):
        assert resolver.look(thorough=True) is None
        assert resolver.trouble.startswith("the nodes do not answer for it: ")
    assert gid.txid in prepared(bank, gid.branch)
    bank.other.run(bank.dialect.rollback_prepared(gid))


def test_each_change_of_trouble_is_told(nodes: Nodes, looking: Look, caplog: pytest.LogCaptureFixture) -> None:
    """A database lost while the nodes were missing is news: the operator must not look at the nodes alone."""
    server = DatabaseServer("postgresql")
    try:
        server.start()
        with running() as gone:
            client = gone.client
        resolver = looking(PostgreSqlBank(server), new_name(), nodes=client).resource
        with caplog.at_level(logging.INFO, "raftcoord.resolver"):
            for _ in range(2):
                assert resolver.look(thorough=True) is None
            server.kill()
            resolver._nodes = nodes.client
            for _ in range(2):
                assert resolver.look(thorough=True) is None
        told = [record.getMessage() for record in caplog.records]
        assert ["the nodes do not answer" in told[0], "cannot be reached" in told[1], len(told)] == [True, True, 2]
    finally:
        server.stop()


def test_no_password_is_logged(my: MariaDbBank, looking: Look, caplog: pytest.LogCaptureFixture) -> None:
    resolver = looking(my, new_name(), url=my.url.replace("root@", "root:s3cret@")).resource
    with caplog.at_level(logging.DEBUG):
        assert resolver.look() is None
    assert "1045" in resolver.trouble or "Access denied" in resolver.trouble
    assert "s3cret" not in caplog.text + resolver.trouble + repr(resolver.__dict__["_config"])


# -- several at once ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_two_resolvers_at_once_do_everything_once(
    kind: str, nodes: Nodes, request: pytest.FixtureRequest, tmp_path: Path, looking: Look
) -> None:
    bank, name = bank_of(kind, request, tmp_path), new_name()
    bank.sql("CREATE TABLE payments (number INT PRIMARY KEY)")
    gids_left = []
    for number in range(40):
        gid = nodes.gid(name)
        session = drivers.session(bank.connect(), gid.branch)
        session.enter()
        marks = session.run(session.dialect.begin(gid, checked=False))
        session.given.cursor().execute(f"INSERT INTO payments VALUES ({number})")
        session.run(session.dialect.prepare(gid, marks=marks))
        session.close()
        if number % 2:
            nodes.client.decide(gid.txid, COMMIT, [name])
        gids_left.append(gid)
    pair = [looking(bank, name), looking(bank, name)]
    stop = threading.Event()
    threads = [threading.Thread(target=each.resource.run, args=(stop,)) for each in pair]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    while prepared(bank, name) or any(nodes.outstanding(gid.txid) for gid in gids_left):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    stop.set()
    for thread in threads:
        thread.join(10)
    assert prepared(bank, name) == []
    assert sorted(number for (number,) in bank.sql("SELECT number FROM payments")) == list(range(1, 40, 2))
    for number, gid in enumerate(gids_left):
        assert (nodes.state(gid.txid), nodes.outstanding(gid.txid)) == (("COMMITTED" if number % 2 else "ABORTED"), ())
    assert not [each for each in nodes.damages() if each.branch == name]
    bank.close()


# -- killed at any point ------------------------------------------------------------------------------------------


class Killed(BaseException):
    """kill -9: nothing of this process goes on."""


def test_a_listing_that_fails_keeps_nobody_from_what_is_prepared(bank: Bank, nodes: Nodes, looking: Look) -> None:
    class Unlisted:
        def __getattr__(self, name: str) -> Any:
            return getattr(nodes.client, name)

        def transactions(self, *_: Any, **__: Any) -> Any:
            raise RemoteProtocolError("the answer cannot be sent")

    gid = leave(bank, nodes.gid(new_name()), -1)
    nodes.client.decide(gid.txid, COMMIT, [gid.branch])
    looker = looking(bank, gid.branch, nodes=Unlisted())
    deadline = time.monotonic() + 10
    while prepared(bank, gid.branch):
        assert looker.resource.look(thorough=True) is None
        assert time.monotonic() < deadline
    assert "the answer cannot be sent" in looker.resource.trouble
    assert bank.balance() == 99


def test_an_answer_that_fails_for_one_branch_stops_no_other(pg: PostgreSqlBank, nodes: Nodes, looking: Look) -> None:
    name = new_name()
    bad, good = (leave(pg, nodes.gid(name), 0) for _ in range(2))

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(nodes.client, name)

        def resolve(self, txid: TxId, **options: Any) -> Any:
            if txid == bad.txid:
                raise RemoteProtocolError("it cannot be read")
            return nodes.client.resolve(txid, **options)

    looker = looking(pg, name, nodes=Failing())
    looker.until(lambda: prepared(pg, name) == [bad.txid])
    assert good.txid != bad.txid
    seen = looker.resource.look(thorough=True)
    assert seen is not None
    assert [left.why for left in seen.left] == ["it cannot be read"]
    looking(pg, name).until(lambda: not prepared(pg, name))


class Mortal:
    """Counts the steps of a resolver, what it says to the database and to the nodes, and is killed before or after one."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.at, self.after, self.step = at, after, 0

    def lives(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            self.step += 1
            here = self.step == self.at
            if here and not self.after:
                raise Killed
            result = call(*args, **kwargs)
            if here:
                raise Killed
            return result

        return step


class MortalNodes:
    def __init__(self, nodes: Nodes, mortal: Mortal) -> None:
        self._nodes, self._mortal = nodes, mortal

    def __getattr__(self, name: str) -> Any:
        return self._mortal.lives(getattr(self._nodes.client, name))


@pytest.mark.parametrize("verdict", [Verdict.COMMIT, Verdict.ABORT])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_resolver_killed_at_any_step_loses_nothing(
    bank: Bank,
    nodes: Nodes,
    looking: Look,
    verdict: Verdict,
    after: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    amount, at, killed = bank.balance(), 0, True
    while killed:
        at += 1
        gid = nodes.gid(new_name())
        bank.other.run(bank.dialect.add_owner(Owner(gid.cluster, gid.branch)))
        leave(bank, gid, -1)
        if verdict is Verdict.COMMIT:
            nodes.client.decide(gid.txid, COMMIT, [gid.branch])
            amount -= 1
        mortal = Mortal(at, after=after)
        first = looking(bank, gid.branch, nodes=MortalNodes(nodes, mortal))
        with monkeypatch.context() as patch:
            patch.setattr(first.resource, "_connect", lambda url: mortal_session(url, mortal))  # noqa: B023
            with contextlib.suppress(Killed):
                for _ in range(4):
                    first.resource.look(thorough=True)
                    if mortal.step >= mortal.at:
                        break  # the kill has surfaced as another error
                    time.sleep(0.02)
        killed = mortal.step >= mortal.at
        first.resource.close()
        second = looking(bank, gid.branch)
        second.until(lambda: not prepared(bank, gid.branch))  # noqa: B023
        if verdict is Verdict.COMMIT:
            second.until(lambda: not nodes.outstanding(gid.txid))  # noqa: B023
        assert bank.balance() == amount
        assert nodes.state(gid.txid) == ("COMMITTED" if verdict else "ABORTED")
        assert nodes.client.damages(gid.txid).total == 0
        second.resource.close()
    assert at > 5, "it was killed nowhere"


def mortal_session(url: str, mortal: Mortal) -> DriverSession:
    session = drivers.connect(url)
    session.execute = mortal.lives(session.execute)  # type: ignore[method-assign]
    return session


# -- marks --------------------------------------------------------------------------------------------------------


def test_old_marks_are_deleted_and_none_that_an_open_decision_needs(bank: Bank, looking: Look) -> None:
    name, now_ms = new_name(), int(time.time() * 1000) - 3_600_000
    with running() as nodes:
        old, needed, new = (nodes.gid(name, TxId.new(now_ms - ago)) for ago in (9000, 6000, 3000))
        fresh = nodes.gid(name, TxId.new())
        for gid in (old, needed, new, fresh):
            session = prepare(bank, gid, -1)
            session.run(session.dialect.commit_prepared_here(gid))
            session.close()
        nodes.append(Decide(needed.txid, Verdict.COMMIT, (name, "participant-that-is-away"), "", "", 0))
        nodes.append(Retire(now_ms - 4000))
        resolver = looking(bank, name, nodes=nodes.client, bounds=replace(QUICK, forget_ms=0))
        resolver.until(lambda: bank.other.run(bank.dialect.proof(old)) is Effect.ABSENT)
        assert [bank.other.run(bank.dialect.proof(gid)) for gid in (needed, new)] == [Effect.COMMITTED] * 2
        nodes.client.complete(needed.txid)
        resolver.until(lambda: bank.other.run(bank.dialect.proof(needed)) is Effect.ABSENT)
        assert bank.other.run(bank.dialect.proof(new)) is Effect.COMMITTED
        nodes.append(Retire(now_ms + 86_400_000))  # by a wrong clock
        resolver.until(lambda: bank.other.run(bank.dialect.proof(new)) is Effect.ABSENT)
        assert bank.other.run(bank.dialect.proof(fresh)) is Effect.COMMITTED
        resolver.resource.close()


def test_no_mark_is_deleted_of_a_decision_that_came_after_the_open_ones_were_read(bank: Bank, looking: Look) -> None:
    name, now_ms = new_name(), int(time.time() * 1000) - 3_600_000
    with running() as nodes:
        late = nodes.gid(name, TxId.new(now_ms - 9000))  # of a program whose clock is behind
        bounds = replace(QUICK, forget_ms=0, open_ms=60_000)
        resolver = looking(bank, name, nodes=nodes.client, bounds=bounds)
        assert resolver.resource.look(thorough=True) is not None  # nothing is open
        session = prepare(bank, late, -1)
        nodes.append(Decide(late.txid, Verdict.COMMIT, (name, "participant-that-is-away"), "", "", 0))
        session.run(session.dialect.commit_prepared_here(late))
        session.close()
        nodes.append(Retire(now_ms - 4000))
        for thorough in (False, True, True):
            assert resolver.resource.look(thorough=thorough) is not None
            assert bank.other.run(bank.dialect.proof(late)) is Effect.COMMITTED
        resolver.resource.close()


# -- the rules ----------------------------------------------------------------------------------------------------


def test_every_answer_and_every_effect_has_its_rule() -> None:
    assert set(ON_ANSWER) == set(State)
    assert set(ON_EFFECT) == set(itertools.product((Act.COMMIT, Act.ROLL_BACK), Effect))
    assert set(ON_OPEN) == set(itertools.product((State.COMMITTED, State.ABORTED), Effect))


def test_nothing_is_called_done_that_the_database_does_not_show() -> None:
    done = {Act.COMPLETE, Act.NOTHING}
    assert {pair for pair, act in ON_EFFECT.items() if act in done and pair[0] is Act.COMMIT} == {
        (Act.COMMIT, Effect.COMMITTED)
    }
    assert {pair for pair, act in ON_OPEN.items() if act in done and pair[0] is State.COMMITTED} == {
        (State.COMMITTED, Effect.COMMITTED)
    }
    assert ON_ANSWER[State.UNDECIDED] is Act.AGAIN  # absence is never abort
    assert ON_ANSWER[State.FORGOTTEN] is Act.LEAVE


def test_what_ended_is_forgotten_and_what_is_tried_in_vain_is_tried_more_slowly() -> None:
    paces = Paces(ResolverBounds(every_ms=1000, retry_ms_max=30_000))
    pace = paces.of("a", 0.0)
    waits = []
    for now in range(8):
        pace.again(float(now), 1.0)
        waits.append(pace.next_at - now)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert paces.of("b", 50.0) is not pace
    paces.forget(10.0)
    assert len(paces) == 1
    paces.of("b", 50.0).again(50.0, 0.0)
    paces.hurry(60.0)
    assert paces.of("b", 60.0).next_at == 60.0
