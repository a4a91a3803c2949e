"""A database that falls silent holds nobody for ever: whoever waits for it is told in time, through every driver."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from raftcoord import Aborted, AsyncClient, Client, LocalProtocolError, Unavailable, limits
from raftcoord.config import Config
from raftcoord.databases import drivers, gid, patience
from raftcoord.databases.mariadb import drivers as mariadb_drivers
from raftcoord.databases.postgresql import drivers as postgresql_drivers
from raftcoord.databases.steps import ConnectionLost, Effect

from .banks import Bank, SqliteBank
from .connecting import ASYNC, SYNC, Made, add, connected, the_only
from .proxy import Proxy, mute, proxied

_T = TypeVar("_T")

GRACE_S = 0.3

OWN = {
    "psycopg": postgresql_drivers.PsycopgSession,
    "psycopg2": postgresql_drivers.Psycopg2Session,
    "pg8000": postgresql_drivers.Pg8000Session,
    "pymysql": mariadb_drivers.PyMySqlSession,
    "mysqlclient": mariadb_drivers.MySqlClientSession,
    "mariadb": mariadb_drivers.MariaDbSession,
}
"""What the resolver and the doctor connect with."""


def in_time(do: Callable[[], _T]) -> _T:
    """What ``do`` returns or raises. It fails if that takes half a minute, which is for ever here."""
    ended: list[Any] = []

    def run() -> None:
        try:
            ended.append((do(), None))
        except BaseException as error:
            ended.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert ended, "it waits for ever"
    value, error = ended[0]
    if error is not None:
        raise error
    return value  # type: ignore[no-any-return]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "client" in request.fixturenames:
        monkeypatch.setattr(request.getfixturevalue("client")._client, "grace", GRACE_S)
    monkeypatch.setattr(limits, "RESOURCE_ANSWER_MS", 300)


class TestOurOwnConnections:
    @pytest.fixture(params=OWN)
    def name(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture
    def driver(self, name: str) -> Made:
        return SYNC[name]

    @pytest.fixture
    def only(self, name: str, driver: Made, monkeypatch: pytest.MonkeyPatch) -> None:
        """As if no other driver were installed."""
        module = {"mysqlclient": "MySQLdb"}.get(name, name)
        pytest.importorskip(module)
        assert the_only(module, monkeypatch) == driver[0]

    def test_a_protocol_ends_though_nothing_is_answered(self, impatient: None, only: None, bank: Bank) -> None:
        with proxied(bank) as (behind, proxy):
            session = drivers.connect(behind.url)
            assert session.run(bank.dialect.list_prepared(None)) == []
            proxy.silence()
            with pytest.raises(ConnectionLost, match=r"did not answer within 0\.3 s"):
                in_time(lambda: session.run(bank.dialect.list_prepared(None)))
            session.close()

    def test_connecting_ends_though_nobody_says_hello(
        self, only: None, bank: Bank, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in (postgresql_drivers, mariadb_drivers):
            monkeypatch.setattr(module, "CONNECT_S", 1)
        with mute() as port:
            url = bank.url.replace(f":{bank.server.port}/", f":{port}/")  # type: ignore[attr-defined]
            with pytest.raises(ConnectionLost):
                in_time(lambda: drivers.connect(url))

    def test_the_kernel_asks_whether_the_host_is_there(self, only: None, bank: Bank) -> None:
        session = drivers.connect(bank.url)
        with socket.socket(fileno=os.dup(session.fileno())) as twin:
            assert twin.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            waits_s = twin.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
            waits_s += twin.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) * 2
            assert waits_s * 1000 <= limits.RESOURCE_SILENT_MS
            assert twin.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == limits.RESOURCE_SILENT_MS
        assert session.answer_s == limits.RESOURCE_ANSWER_MS / 1000
        session.close()


class TestTheCallersConnections:
    @pytest.fixture(params=[name for name in SYNC if name != "sqlite3"])
    def driver(self, request: pytest.FixtureRequest) -> Made:
        return SYNC[request.param]

    def test_a_prepare_that_nobody_answers_aborts(
        self, impatient: None, client: Client, driver: Made, bank: Bank, other: SqliteBank
    ) -> None:
        with proxied(bank) as (behind, proxy):
            connection = driver[1](behind)

            def block() -> None:
                with client.transaction(timeout=1) as tx:
                    other.add(tx.enlist(other.connect(), "other"), -1)
                    bank.add(tx.enlist(connection, "bank"), 1)
                    proxy.silence()

            with pytest.raises(Aborted, match="did not answer within") as raised:
                in_time(block)
            assert raised.value.branch == "bank"
        assert other.balance() == 100
        assert not other.prepared()
        until_rolled_back(bank)

    def test_an_enlistment_that_nobody_answers_is_refused(
        self, impatient: None, client: Client, driver: Made, bank: Bank
    ) -> None:
        with proxied(bank) as (behind, proxy):
            connection = driver[1](behind)
            proxy.silence()

            def block() -> None:
                with client.transaction(timeout=0.5) as tx:
                    tx.enlist(connection, "bank")

            with pytest.raises((Unavailable, LocalProtocolError), match=r"did not answer within|is closed"):
                in_time(block)

    def test_a_commit_that_nobody_answers_is_success_and_left_to_the_resolver(
        self, impatient: None, config: Config, driver: Made, bank: Bank, other: SqliteBank
    ) -> None:
        with proxied(bank) as (behind, proxy), Silencing.from_config(config, grace=GRACE_S) as client:
            client.proxy = proxy
            connection = driver[1](behind)

            def block() -> Any:
                with client.transaction(timeout=1) as tx:
                    other.add(tx.enlist(other.connect(), "other"), -1)
                    bank.add(tx.enlist(connection, "bank"), 1)
                return tx

            tx = in_time(block)
            assert tx.outcome.committed
            assert bank.prepared() == [tx.txid]
            made = gid.make(client.cluster_id(), tx.txid, "bank")
        deadline = time.monotonic() + 20
        while (effect := bank.other.run(bank.dialect.commit_prepared(made))) is not Effect.COMMITTED:
            assert (effect, time.monotonic() < deadline) == (Effect.PREPARED, True)  # its session is ending
            time.sleep(0.1)
        assert (bank.balance(), other.balance()) == (101, 99)


class Silencing(Client):
    """The databases fall silent when the decision has been taken."""

    proxy: Proxy

    def decide(self, *args: Any, **kwargs: Any) -> Any:
        outcome = super().decide(*args, **kwargs)
        self.proxy.silence()
        return outcome


class TestTheCallersAsynchronousConnections:
    @pytest.fixture(params=[name for name in ASYNC if name != "sqlite3"])
    def driver(self, request: pytest.FixtureRequest) -> Made:
        return ASYNC[request.param]

    async def test_a_prepare_that_nobody_answers_aborts(
        self, impatient: None, config: Config, client: Client, driver: Made, bank: Bank, other: SqliteBank
    ) -> None:
        with proxied(bank) as (behind, proxy):
            async with (
                AsyncClient.from_config(config, grace=GRACE_S) as asynchronous,
                connected(driver, behind) as connection,
            ):

                async def block() -> None:
                    async with asynchronous.transaction(timeout=1) as tx:
                        other.add(await tx.enlist(other.connect(), "other"), -1)
                        await add(await tx.enlist(connection, "bank"), 1)
                        proxy.silence()

                with pytest.raises(Aborted, match="did not answer within") as raised:
                    await block()
                assert raised.value.branch == "bank"
        assert other.balance() == 100
        until_rolled_back(bank)

    async def test_an_enlistment_that_nobody_answers_is_refused(
        self, impatient: None, config: Config, client: Client, driver: Made, bank: Bank
    ) -> None:
        with proxied(bank) as (behind, proxy):
            async with (
                AsyncClient.from_config(config, grace=GRACE_S) as asynchronous,
                connected(driver, behind) as connection,
            ):
                proxy.silence()
                with pytest.raises(Unavailable, match="did not answer within"):
                    async with asynchronous.transaction(timeout=0.5) as tx:
                        await tx.enlist(connection, "bank")


def until_rolled_back(bank: Bank) -> None:
    """The server sees that the connection has gone, and has rolled back what was not prepared."""
    bank.sql("SELECT 1")
    deadline = time.monotonic() + 20
    while bank.kind == "mariadb" and bank.sql("SELECT 1 FROM information_schema.innodb_trx"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert bank.balance() == 100
    assert not bank.prepared()


class Line:
    """A session that is only watched: both ends of a connection."""

    def __init__(self) -> None:
        self._near, self.far = socket.socketpair()

    def fileno(self) -> int:
        return self._near.fileno()

    def hung_up(self) -> bool:
        """Whether it was, or is within 20 s."""
        self.far.settimeout(20)
        return self.far.recv(1) == b""


def test_a_wait_that_ends_in_time_is_left_alone_and_the_next_one_is_watched() -> None:
    quick, slow = Line(), Line()
    with patience.within(quick, 0.05):
        pass
    with patience.within(slow, 0.05):
        assert slow.hung_up()
    quick.far.setblocking(False)
    with pytest.raises(BlockingIOError):
        quick.far.recv(1)


def test_what_else_is_raised_goes_on() -> None:
    with pytest.raises(ConnectionLost, match="by itself"), patience.within(Line(), 60):
        raise ConnectionLost("by itself")
    with pytest.raises(ZeroDivisionError), patience.within(Line(), 60):
        raise ZeroDivisionError


def test_a_forked_child_is_watched_too() -> None:
    with patience.within(Line(), 60):
        pass  # so that there is a thread, which the child does not have
    child = os.fork()
    if not child:
        slow = Line()
        with patience.within(slow, 0.05):
            os._exit(0 if slow.hung_up() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_cancelled_wait_is_not_called_silence() -> None:
    async def main() -> None:
        async def waits() -> None:
            with patience.within_loop(asyncio.get_running_loop().call_later, lambda: None, 60):
                await asyncio.Event().wait()

        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
