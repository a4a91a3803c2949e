"""The tutorial's model in a PostgreSQL and a MariaDB, reached by any two drivers, and what can be seen of it from outside."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from databases.banks import Bank, MariaDbBank, PostgreSqlBank
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker
from sqlalchemy.schema import CreateTable

from raftcoord import ABORT, AsyncClient, Client, InDoubt, Outcome, TxId, Verdict
from raftcoord.databases.steps import SqlError
from raftcoord.integrations.sqlalchemy import Session, attach

from .recipes.model import Address, Base, User
from .world import Astray, Banks, until


def create(engine: Any, model: type[Base]) -> None:
    """The table, without foreign keys: the other table is in another database."""
    with engine.begin() as connection:
        connection.execute(CreateTable(model.__table__, include_foreign_key_constraints=[]))  # type: ignore[arg-type]


def url(bank: Bank, driver: str) -> str:
    """As SQLAlchemy writes it."""
    if isinstance(bank, PostgreSqlBank):
        return f"postgresql+{driver}://postgres@127.0.0.1:{bank.server.port}/{bank.database}"
    assert isinstance(bank, MariaDbBank)
    kind = "mariadb" if driver == "mariadbconnector" else "mysql"
    return f"{kind}+{driver}://root@127.0.0.1:{bank.server.port}/{bank.database}"


class Shop(Banks):
    """Users in PostgreSQL, addresses in MariaDB; ``urls``: by the drivers that most have."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.urls = (url(self.ledger, "psycopg"), url(self.orders, "pymysql"))
        for each, model in zip(self.urls, (User, Address), strict=True):
            engine = create_engine(each)
            create(engine, model)
            engine.dispose()
        self._engines: list[Any] = []

    def rows(self) -> tuple[int, int]:
        """How many users and how many addresses are committed."""
        ((users,),) = self.ledger.sql("SELECT count(*) FROM user_account")
        ((addresses,),) = self.orders.sql("SELECT count(*) FROM address")
        return int(users), int(addresses)

    def engines(self, ledger_url: str = "", orders_url: str = "", **options: Any) -> tuple[Any, Any]:
        """Two attached engines with one connection each, so that whoever comes next gets the one that was given back."""
        made = [
            attach(create_engine(url or default, pool_size=1, max_overflow=0, pool_timeout=5, **options), name)
            for url, default, name in zip((ledger_url, orders_url), self.urls, ("ledger", "orders"), strict=True)
        ]
        self._engines += made
        return made[0], made[1]

    def sessions(self, client: Client, engines: tuple[Any, Any] | None = None, **options: Any) -> Any:
        """A sessionmaker over them."""
        ledger, orders = engines or self.engines()
        options = {"timeout": 60, "client": client, **options}
        return sessionmaker(class_=Session, binds={User: ledger, Address: orders}, **options)

    def clear(self, client: Client) -> None:
        """No rows, no connection of an earlier test, and nothing that it has left prepared."""
        for engine in self._engines:
            engine.dispose()
        self._engines.clear()
        for side in (0, 1):
            self.cut(side)
        self.resolve(client)
        self.ledger.sql("DELETE FROM user_account")
        self.orders.sql("DELETE FROM address")

    def cut(self, side: int) -> None:
        """End all sessions on one side, as an administrator would; they have gone when this returns."""
        if side == 0:
            others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            self.ledger.sql(f"SELECT pg_terminate_backend(pid) {others}")
            until(lambda: not self.ledger.sql(f"SELECT 1 {others}"))
        else:
            others = (
                f"FROM information_schema.processlist WHERE db = '{self.orders.database}' AND id <> connection_id()"
            )
            for (number,) in self.orders.sql(f"SELECT id {others}"):
                with contextlib.suppress(SqlError):  # it has gone meanwhile
                    self.orders.sql(f"KILL {number}")
            until(lambda: not self.orders.sql(f"SELECT 1 {others}"))


def spongebob() -> User:
    """A user with an address: one row on each side."""
    return User(name="spongebob", fullname="Spongebob Squarepants", addresses=[Address(email_address="s@example.org")])


def in_doubt(txid: TxId) -> None:
    """For ``after`` of a client astray."""
    raise InDoubt(txid, "no node has answered")


def abort_once(astray: Astray) -> None:
    """Somebody else has the next transaction aborted, just before it is to be committed."""

    def abort(txid: TxId) -> None:
        del astray.before
        astray.decide(txid, ABORT)

    astray.before = abort  # type: ignore[method-assign]


class AsyncAstray(AsyncClient):
    """An AsyncClient in whose ``decide`` something else happens first: ``before(txid)``, or afterwards: ``after(txid)``."""

    before: Callable[[TxId], Awaitable[None]]
    after: Callable[[TxId], Awaitable[None]]

    async def decide(self, txid: TxId | str, verdict: Verdict, *args: Any, **kwargs: Any) -> Outcome:
        if hasattr(self, "before"):
            await self.before(TxId.parse(txid))
        outcome = await super().decide(txid, verdict, *args, **kwargs)
        if hasattr(self, "after"):
            await self.after(TxId.parse(txid))
        return outcome
