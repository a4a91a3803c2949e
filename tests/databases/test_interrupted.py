"""Ctrl-C and cancellation while a database is spoken to: it goes on, nothing is guessed, every connection ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raftcoord import AsyncClient, Client, TxId
from raftcoord.config import Config
from raftcoord.databases import drivers, gid
from raftcoord.databases.gid import Gid
from raftcoord.databases.registry import named
from raftcoord.databases.session import DriverSession
from raftcoord.databases.sqlite.drivers import SqliteSession
from raftcoord.databases.steps import Effect, Result, Statement, Steps
from raftcoord.types import Branch

from .banks import Bank, SqliteBank
from .connecting import ASYNC, SYNC, Made, add, commit, connected, say

LITE = named("sqlite").dialect
ADD = "UPDATE accounts SET amount = amount + 1 WHERE name = 'alice'"


class Interrupt:
    """Ctrl-C at the ``at``-th statement from ``arm`` on: before it is carried out, or just behind it."""

    def __init__(self, at: int, *, behind: bool) -> None:
        self._left, self._behind, self._armed = at, behind, False

    def arm(self) -> None:
        self._armed = True

    def around(self, execute: Callable[[Any, Statement], Result]) -> Callable[[Any, Statement], Result]:
        def interrupted(session: Any, statement: Statement) -> Result:
            self._left -= self._armed
            if self._armed and self._left == 0 and not self._behind:
                raise KeyboardInterrupt
            try:
                return execute(session, statement)
            finally:
                if self._armed and self._left == 0:
                    raise KeyboardInterrupt

        return interrupted


def prepared(bank: SqliteBank, made: Gid) -> DriverSession:
    """A session that has prepared a branch."""
    session = drivers.session(bank.connect(), made.branch)
    session.enter()
    session.run(LITE.begin(made, checked=False))
    session.given.execute(ADD)
    session.run(LITE.prepare(made, marks=True))
    return session


PROTOCOLS: dict[str, Callable[[Gid], Steps[Any]]] = {
    "begin": lambda made: LITE.begin(made, checked=False),
    "commit": LITE.commit_prepared_here,
    "commit from another session": LITE.commit_prepared,
    "roll back": lambda made: LITE.rollback(made, touched=True),
    "make marks": lambda made: LITE.create_marks(),
}


@pytest.mark.parametrize("behind", [False, True], ids=["before", "behind"])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_an_interrupted_protocol_says_nothing_more_and_hides_nothing(
    tmp_path: Path, name: str, behind: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = 0
    finished = False
    while not finished:
        at += 1
        bank = SqliteBank(tmp_path / f"{at}.db")
        made = gid.make("00000000000000aa", TxId.new(), "bank")
        session = drivers.session(bank.connect(), made.branch) if name == "begin" else prepared(bank, made)
        interrupt = Interrupt(at, behind=behind)
        with monkeypatch.context() as patched:
            patched.setattr(SqliteSession, "execute", interrupt.around(SqliteSession.execute))
            interrupt.arm()
            try:
                session.run(PROTOCOLS[name](made))
                finished = True
            except KeyboardInterrupt:
                pass
        session.close()
        gc.collect()  # a protocol that was left half closed would complain now
        assert session.is_closed()
        assert bank.balance() in (100, 101)
        bank.close()
    assert at > 1


@pytest.mark.parametrize("behind", [False, True], ids=["before", "behind"])
@pytest.mark.parametrize("at", range(1, 14))
def test_ctrl_c_at_any_statement_of_the_commit_goes_on_and_the_resolver_finishes(
    config: Config, tmp_path: Path, at: int, behind: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt = Interrupt(at, behind=behind)
    monkeypatch.setattr(SqliteSession, "execute", interrupt.around(SqliteSession.execute))
    banks = [SqliteBank(tmp_path / f"{name}.db") for name in "ab"]
    connections = [bank.connect() for bank in banks]
    with Arming.from_config(config) as client:
        client.interrupt = interrupt
        tx = client.transaction(timeout=20)

        def block() -> None:
            with tx:
                for name, bank, connection in zip("ab", banks, connections, strict=True):
                    bank.add(tx.enlist(connection, name), 1)

        with pytest.raises(KeyboardInterrupt):
            block()
        cluster = client.cluster_id()
    monkeypatch.undo()
    assert tx.outcome is not None
    assert tx.outcome.committed
    for name, bank, connection in zip("ab", banks, connections, strict=True):
        session = drivers.session(connection, gid.make(cluster, tx.txid, name).branch)
        assert session.is_closed() or not session.is_in_transaction()
        assert bank.other.run(LITE.commit_prepared(gid.make(cluster, tx.txid, name))) is Effect.COMMITTED
        assert bank.balance() == 101
        bank.close()


class Arming(Client):
    """From the decision on."""

    interrupt: Interrupt

    def decide(self, *args: Any, **kwargs: Any) -> Any:
        outcome = super().decide(*args, **kwargs)
        self.interrupt.arm()
        return outcome


class TestCtrlC:
    @pytest.fixture(params=SYNC)
    def driver(self, request: pytest.FixtureRequest) -> Made:
        return SYNC[request.param]

    @pytest.fixture
    def connection(self, driver: Made, bank: Bank) -> Iterator[Any]:
        made = driver[1](bank)
        yield made
        with contextlib.suppress(Exception):
            made.close()

    @pytest.mark.parametrize("at", range(1, 5))
    def test_while_branches_are_rolled_back_ends_every_connection(
        self,
        client: Client,
        bank: Bank,
        other: SqliteBank,
        connection: Any,
        at: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        interrupt = Interrupt(at, behind=False)
        kind = type(drivers.session(connection, gid.make("0" * 16, TxId.new(), "bank").branch))
        monkeypatch.setattr(kind, "execute", interrupt.around(kind.execute))
        beside = other.connect()

        def block() -> None:
            with client.transaction() as tx:
                bank.add(tx.enlist(connection, "bank"), 1)
                other.add(tx.enlist(beside, "other"), -1)
                interrupt.arm()
                raise ZeroDivisionError

        with pytest.raises((KeyboardInterrupt, ZeroDivisionError)):
            block()
        monkeypatch.undo()
        for each in (connection, beside):
            session = drivers.session(each, gid.make("0" * 16, TxId.new(), "bank").branch)
            if not session.is_closed():
                session.check_fit()
        assert (bank.balance(), other.balance()) == (100, 100)
        assert not bank.prepared()


class TestCancellation:
    @pytest.fixture(params=[name for name in ASYNC if name != "sqlite3"])
    def driver(self, request: pytest.FixtureRequest) -> Made:
        return ASYNC[request.param]

    async def test_in_the_middle_of_a_statement_leaves_nothing_and_poisons_no_connection(
        self, config: Config, client: Client, driver: Made, bank: Bank, other: SqliteBank
    ) -> None:
        sleep = "SELECT pg_sleep(20)" if bank.kind == "postgresql" else "SELECT SLEEP(20)"
        async with AsyncClient.from_config(config) as asynchronous, connected(driver, bank) as connection:
            at_work = asyncio.Event()

            async def block() -> None:
                async with asynchronous.transaction(timeout=20) as tx:
                    other.add(await tx.enlist(other.connect(), "other"), -1)
                    await add(await tx.enlist(connection, "bank"), 1)
                    at_work.set()
                    await say(connection, sleep)

            task = asyncio.create_task(block())
            await at_work.wait()
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            session = drivers.async_session(connection, gid.make("0" * 16, TxId.new(), "bank").branch)
            if not session.is_closed():
                session.check_fit()
                await add(connection, 7)
                await commit(connection)
                assert bank.balance() == 107
        assert bank.balance() in (100, 107)
        assert other.balance() == 100
        assert not bank.prepared()


def test_ctrl_c_at_every_close_as_well_leaves_no_connection_open_and_keeps_the_txid(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    banks = [SqliteBank(tmp_path / f"{name}.db") for name in "abc"]
    connections = [bank.connect() for bank in banks]
    interrupt = Interrupt(1, behind=False)
    monkeypatch.setattr(SqliteSession, "execute", interrupt.around(SqliteSession.execute))
    close, closed = SqliteSession.close, list[SqliteSession]()

    def interrupted(session: SqliteSession) -> None:
        closed.append(session)
        if closed.count(session) == 1:
            raise KeyboardInterrupt
        close(session)

    monkeypatch.setattr(SqliteSession, "close", interrupted)
    with Arming.from_config(config) as client:
        client.interrupt = interrupt
        tx = client.transaction(timeout=20)

        def block() -> None:
            with tx:
                for name, bank, connection in zip("abc", banks, connections, strict=True):
                    bank.add(tx.enlist(connection, name), 1)

        with pytest.raises(KeyboardInterrupt) as raised:
            block()
        assert any(f"transaction {tx.txid}: it is committed" in note for note in raised.value.__notes__)
    monkeypatch.undo()
    for connection in connections:
        assert drivers.session(connection, Branch("bank")).is_closed()
    for bank in banks:
        bank.close()


async def test_cancelled_twice_leaves_no_connection_open_and_keeps_the_txid(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    banks = [SqliteBank(tmp_path / f"{name}.db") for name in "abc"]
    connections = [bank.connect() for bank in banks]
    close, closed = SqliteSession.close, list[SqliteSession]()

    def interrupted(session: SqliteSession) -> None:
        closed.append(session)
        if closed.count(session) == 1:
            raise asyncio.CancelledError
        close(session)

    monkeypatch.setattr(SqliteSession, "close", interrupted)
    async with AsyncClient.from_config(config) as client:
        deciding = asyncio.Event()

        async def never(*_: Any, **__: Any) -> Any:
            deciding.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(client, "decide", never)
        tx = client.transaction(timeout=20)

        async def block() -> None:
            async with tx:
                for name, bank, connection in zip("abc", banks, connections, strict=True):
                    bank.add(await tx.enlist(connection, name), 1)

        task = asyncio.create_task(block())
        await deciding.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as raised:
            await task
        assert any(f"transaction {tx.txid}: whether it is committed" in note for note in raised.value.__notes__)
    monkeypatch.undo()
    for connection in connections:
        assert drivers.session(connection, Branch("bank")).is_closed()
    for bank in banks:
        bank.close()
