"""The tutorial's model over two real databases: committed in both or in none, and the session is as its users know it."""

from __future__ import annotations

import contextlib
import gc
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, select, text, update
from sqlalchemy import orm as sa_orm
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidRequestError, OperationalError
from sqlalchemy.orm import scoped_session, sessionmaker
from sqlalchemy.pool import StaticPool

from raftcoord import Aborted, Client, ConfigError, InDoubt, LocalProtocolError, State, Unavailable
from raftcoord.config import Config
from raftcoord.integrations.sqlalchemy import Session, attach

from . import cookbook
from .recipes.model import Address, User
from .shop import Shop, abort_once, in_doubt, spongebob
from .world import Astray, until


@pytest.fixture
def engines(shop: Shop) -> Any:
    return shop.engines()


@pytest.fixture
def made(shop: Shop, client: Client, engines: Any) -> Any:
    """A sessionmaker; afterwards the pools' only connections serve the next, and nothing is prepared."""
    made = shop.sessions(client, engines)
    yield made
    assert not shop.prepared(client)
    before = shop.rows()
    with made.begin() as session:
        session.add(spongebob())
    assert shop.rows() == (before[0] + 1, before[1] + 1)


def heard(target: Any, *names: str) -> list[str]:
    """The events of these names, as they come."""
    told: list[str] = []
    for name in names:
        event.listen(target, name, lambda *_, name=name: told.append(name))
    return told


# -- as its users know it


def test_a_block_is_committed_in_both(shop: Shop, client: Client, made: Any) -> None:
    with made.begin() as session:
        session.add(spongebob())
    assert shop.rows() == (1, 1)
    assert session.outcome.committed
    assert client.status(session.txid).state is State.COMMITTED


def test_every_way_to_commit(shop: Shop, made: Any) -> None:
    with made() as session:
        assert session.txid is None
        session.add(spongebob())
        session.commit()
        first = session.txid
        user = session.scalars(select(User)).one()
        assert [address.email_address for address in user.addresses] == ["s@example.org"]
        user.addresses.append(Address(email_address="t@example.org"))
        session.commit()
        assert session.txid != first
        with session.begin():
            session.add(spongebob())
        with session.begin() as block:
            session.add(spongebob())
            block.commit()
        session.add(spongebob())
        session.prepare()
        session.commit()
        session.begin_nested()
        session.add(spongebob())
        session.commit()
        session.commit()
    scoped = scoped_session(made)
    scoped.add(spongebob())
    scoped.commit()
    scoped.remove()
    assert shop.rows() == (6, 7)


def test_every_way_to_roll_back(shop: Shop, client: Client, made: Any) -> None:
    with made() as session:
        for end in (session.rollback, session.close, session.reset, session.invalidate):
            session.add(spongebob())
            session.flush()
            end()
            assert client.status(session.txid).state is State.UNDECIDED
        with session.begin() as block:
            session.add(spongebob())
            session.flush()
            block.rollback()
    assert shop.rows() == (0, 0)


def test_one_engine_alone_is_a_plain_local_commit(shop: Shop, client: Client, made: Any) -> None:
    for row in (User(name="alone"), Address(email_address="a@example.org", user_id=1)):
        with made.begin() as session:
            session.add(row)
        assert session.outcome is None
        assert session.txid is None
    assert shop.rows() == (1, 1)


def test_one_engine_alone_is_recorded_once_its_txid_was_read(
    shop: Shop, client: Client, made: Any, engines: Any
) -> None:
    with made.begin() as session:
        session.add(User(name="alone"))
        session.flush()
        txid = session.txid
    assert session.outcome.committed
    assert client.resolve(txid).state is State.COMMITTED
    seen: list[str] = []
    event.listen(engines[0], "prepare_twophase", lambda connection, xid: seen.append(str(xid)))
    with made.begin() as session:
        session.add(User(name="seen in an event"))
    assert seen == [f"{session.txid} ledger"]
    assert client.resolve(session.txid).state is State.COMMITTED
    assert shop.rows() == (2, 0)


def test_the_events_come_as_ever_and_an_xid_tells_whose_it_is(shop: Shop, made: Any, engines: Any) -> None:
    seen: list[str] = []
    event.listen(engines[0], "prepare_twophase", lambda connection, xid: seen.append(str(xid)))
    made = sessionmaker(class_=made.class_, **made.kw)
    names = ("after_begin", "before_commit", "after_flush", "after_commit", "after_rollback")
    told = heard(made, *names)
    with made.begin() as session:
        session.add(spongebob())
    assert told == ["before_commit", "after_begin", "after_begin", "after_flush", "after_commit"]
    assert seen == [f"{session.txid} ledger"]
    told.clear()
    with made() as session:
        session.add(spongebob())
        session.flush()
        session.rollback()
    assert told == ["after_begin", "after_begin", "after_flush", "after_rollback"]


def test_an_error_in_the_flush_at_commit_is_the_errors_own(shop: Shop, made: Any) -> None:
    with made() as session:
        session.add_all([spongebob(), Address(email_address="nobody's")])
        with pytest.raises(IntegrityError):
            session.commit()
        session.rollback()
        session.add(spongebob())
        session.commit()
    with pytest.raises(IntegrityError), made.begin() as session:
        session.add_all([spongebob(), Address(email_address="nobody's")])
    assert shop.rows() == (1, 1)


def test_the_programs_own_two_phase_transactions_go_the_old_way(shop: Shop, engines: Any) -> None:
    with engines[1].connect() as connection:
        begun = connection.begin_twophase("the-programs-own")
        connection.execute(text("INSERT INTO address (email_address, user_id) VALUES ('x', 1)"))
        begun.prepare()
        begun.commit()
    with engines[0].begin() as connection:
        connection.execute(text("INSERT INTO user_account (name) VALUES ('x')"))
    assert shop.rows() == (1, 1)


def test_the_first_example_of_the_docs_runs_as_it_stands(
    shop: Shop, config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cookbook.shown("first")
    ran = cookbook.run("first", monkeypatch, config, shop, ("psycopg", "pymysql"))
    ran.client.close()
    ran.ledger.dispose()
    ran.orders.dispose()
    assert capsys.readouterr().out.startswith(str(ran.session.txid))
    assert ran.session.outcome.committed
    assert shop.rows() == (1, 1)


# -- what goes wrong


def test_an_abort_is_rolled_back_and_told(shop: Shop, astray: Astray) -> None:
    made = sessionmaker(class_=Session, **shop.sessions(astray).kw)
    told = heard(made, "after_commit", "after_rollback")
    with made() as session:
        user = spongebob()
        session.add(user)
        abort_once(astray)
        with pytest.raises(Aborted) as caught:
            session.commit()
        assert (caught.value.txid, told) == (session.txid, ["after_rollback"])
        assert user not in session
    assert shop.rows() == (0, 0)


@pytest.mark.parametrize("block", [False, True])
def test_in_doubt_is_not_called_a_rollback(shop: Shop, astray: Astray, block: bool) -> None:
    """A listener that undoes something after a rollback would undo what is committed."""
    made: Any = sessionmaker(class_=Session, **shop.sessions(astray).kw)
    told = heard(made, "after_commit", "after_rollback", "after_soft_rollback")
    user = spongebob()
    astray.after = in_doubt  # type: ignore[method-assign]

    def commit() -> Any:
        if block:
            with made.begin() as session:
                session.add(user)
        else:
            session = made()
            session.add(user)
            session.commit()

    with pytest.raises(InDoubt) as caught:
        commit()
    del astray.after
    assert told == []
    assert sa_orm.object_session(user) is None
    shop.resolve(astray)
    assert astray.resolve(caught.value.txid).state is State.COMMITTED
    assert shop.rows() == (1, 1)


def test_a_failed_statement_that_was_swallowed_aborts(shop: Shop, made: Any) -> None:
    with made() as session:
        session.add(spongebob())
        session.flush()
        with contextlib.suppress(DBAPIError):
            session.connection(bind_arguments={"mapper": User}).execute(text("SELECT 1 / 0"))
        with pytest.raises(Aborted, match="savepoint"):
            session.commit()
    assert shop.rows() == (0, 0)


def test_a_deadlocks_victim_aborts_even_when_it_swallows_that(shop: Shop, made: Any) -> None:
    shop.orders.sql("INSERT INTO address (id, email_address, user_id) VALUES (1, 'a', 1), (2, 'b', 1)")
    with closing(shop.orders.connect()) as rival, made() as session:
        rival.cursor().execute("SET innodb_lock_wait_timeout = 600")
        rival.cursor().execute(
            "INSERT INTO address (email_address, user_id) VALUES ('heavy', 1), ('er', 1), ('still', 1)"
        )
        rival.cursor().execute("UPDATE address SET user_id = 2 WHERE id = 2")
        session.add(User(name="spongebob"))
        session.execute(update(Address).where(Address.id == 1).values(user_id=3))
        rival._execute_command(3, "UPDATE address SET user_id = 2 WHERE id = 1")  # COM_QUERY, whose answer waits
        until(lambda: shop.orders.sql("SELECT 1 FROM information_schema.processlist WHERE info LIKE 'UPDATE address%'"))
        with contextlib.suppress(OperationalError):
            session.execute(update(Address).where(Address.id == 2).values(user_id=3))
        with pytest.raises(Aborted, match="deadlock"):
            session.commit()
    assert shop.rows()[0] == 0


@pytest.mark.parametrize("side", [0, 1])
def test_a_connection_lost_before_prepare_aborts(shop: Shop, made: Any, side: int) -> None:
    with made() as session:
        session.add(spongebob())
        session.flush()
        shop.cut(side)
        with pytest.raises(Aborted):
            session.commit()
    assert shop.rows() == (0, 0)


@pytest.mark.parametrize("sides", [(0,), (1,), (0, 1)])
def test_connections_lost_behind_the_decision_are_the_resolvers(
    shop: Shop, astray: Astray, sides: tuple[int, ...]
) -> None:
    def lose(txid: object) -> None:
        for side in sides:
            shop.cut(side)

    astray.after = lose  # type: ignore[method-assign]
    made = shop.sessions(astray)
    with made.begin() as session:
        session.add(spongebob())
    del astray.after
    assert session.outcome.committed
    shop.resolve(astray)
    assert shop.rows() == (1, 1)
    with made.begin() as session:
        session.add(spongebob())
    assert shop.rows() == (2, 2)


def test_no_node_no_transaction(shop: Shop, engines: Any) -> None:
    with (
        Client.from_addresses(["127.0.0.1:1"]) as nobody,
        shop.sessions(nobody, engines, timeout=0.2)() as session,
    ):
        with pytest.raises(Unavailable):
            session.scalars(select(User))
        with pytest.raises(InvalidRequestError):
            session.execute(text("SELECT 1"), bind_arguments={"mapper": User})
        session.rollback()
    with engines[0].begin() as connection:
        connection.execute(text("INSERT INTO user_account (name) VALUES ('x')"))
    assert shop.rows() == (1, 0)


# -- bad input


def test_an_engine_that_is_not_attached_is_refused_before_anything_is_done(
    shop: Shop, client: Client, engines: Any
) -> None:
    stranger = create_engine(shop.urls[1])

    class Routing(Session):
        def get_bind(self, mapper: Any = None, **options: Any) -> Engine:
            return stranger if mapper and mapper.class_ is Address else engines[0]

    for make in (
        sessionmaker(class_=Session, client=client, binds={User: engines[0], Address: stranger}),
        sessionmaker(class_=Routing, client=client),
    ):
        with make() as session:
            session.add(spongebob())
            with pytest.raises(LocalProtocolError, match=r"is not attached; call .*attach\(engine, NAME\)"):
                session.commit()
            session.rollback()
    stranger.dispose()
    assert shop.rows() == (0, 0)
    assert not shop.prepared(client)


def test_a_name_that_cluster_yaml_does_not_know_is_refused(shop: Shop, config: Config, engines: Any) -> None:
    assert config.path is not None
    path = config.path.with_name("named.yaml")
    path.write_text(config.to_yaml() + f"resources:\n  - {{name: ledger, url: '{shop.ledger.url}'}}\n")
    with Client.from_config(path) as named, shop.sessions(named, engines)() as session:
        session.add(spongebob())
        with pytest.raises(ConfigError, match=r"names no resource 'orders', .* its resources are ledger"):
            session.commit()
    assert shop.rows() == (0, 0)


def test_what_cannot_be_attached_is_told(engines: Any) -> None:
    assert attach(engines[0], "ledger") is engines[0]
    with pytest.raises(LocalProtocolError, match="attached already, as 'ledger'"):
        attach(engines[0], "orders")
    with pytest.raises(LocalProtocolError, match=r"\[a-z0-9-\]|name"):
        attach(engines[0], "Ledger!")
    other = create_engine("sqlite://")
    other.dialect.driver = "aiosqlite"
    with pytest.raises(LocalProtocolError, match=r"sqlite\+aiosqlite cannot take part; the drivers are"):
        attach(other, "cache")


def test_twophase_is_not_a_choice(shop: Shop, client: Client, engines: Any) -> None:
    with shop.sessions(client, engines, twophase=True).begin() as session:
        session.add(spongebob())
    with pytest.raises(LocalProtocolError, match="leave twophase out"):
        shop.sessions(client, engines, twophase=False)()
    with pytest.raises(LocalProtocolError, match="timeout"):
        shop.sessions(client, engines, timeout=0)()
    assert shop.rows() == (1, 1)


def test_a_plain_session_of_two_phases_cannot_prepare_on_attached_engines(shop: Shop, engines: Any) -> None:
    with sa_orm.Session(twophase=True, binds={User: engines[0], Address: engines[1]}) as session:
        session.add(spongebob())
        with pytest.raises(LocalProtocolError, match="through raftcoord's Session alone"):
            session.commit()
    assert shop.rows() == (0, 0)


def test_autocommit_is_refused(shop: Shop, client: Client, engines: Any) -> None:
    for number in (0, 1):
        switched = list(engines)
        switched[number] = engines[number].execution_options(isolation_level="AUTOCOMMIT")
        with shop.sessions(client, tuple(switched))() as session:
            session.add(spongebob())
            with pytest.raises(LocalProtocolError, match="autocommit"):
                session.commit()
    assert shop.rows() == (0, 0)


def test_one_engine_twice_is_refused(shop: Shop, client: Client) -> None:
    engine = attach(create_engine(shop.urls[0]), "ledger")
    again = engine.execution_options(stream_results=False)
    made: Any = sessionmaker(class_=Session, client=client, binds={User: engine, Address: again})
    with made() as session:
        session.scalars(select(User))
        with pytest.raises(LocalProtocolError, match="a branch 'ledger' is enlisted already"):
            session.scalars(select(Address))
    engine.dispose()


def test_a_connection_of_two_sessions_is_refused(shop: Shop, client: Client, engines: Any) -> None:
    """The work of the first would be committed with the second, and not with its own other side."""
    shared = attach(create_engine(shop.urls[0], poolclass=StaticPool), "ledger")
    made = shop.sessions(client, (shared, engines[1]))
    with made() as first, made() as second:
        first.add(User(name="first"))
        first.flush()
        second.add(User(name="second"))
        with pytest.raises(LocalProtocolError, match="another session's transaction"):
            second.commit()
    shared.dispose()
    assert shop.rows() == (0, 0)


@pytest.mark.filterwarnings(
    "ignore:transaction already deassociated"
)  # SQLAlchemy's, of any session that is treated so
@pytest.mark.parametrize("model", [User, Address])
@pytest.mark.parametrize("end", ["commit", "rollback", "COMMIT", "close", "invalidate"])
def test_a_branch_that_was_ended_by_itself_takes_the_other_with_it(shop: Shop, made: Any, model: Any, end: str) -> None:
    """Whatever one does to a connection of the session, there is no commit of the other one alone."""
    with made() as session:
        session.add(spongebob())
        session.flush()
        connection = session.connection(bind_arguments={"mapper": model})
        if end == "COMMIT":
            with contextlib.suppress(DBAPIError):  # MariaDB refuses it within XA
                connection.execute(text(end))
        elif end == "commit":
            with pytest.raises(LocalProtocolError, match=r"only session\.commit"):
                connection.commit()
        else:
            getattr(connection, end)()
        with contextlib.suppress(LocalProtocolError, Aborted, InvalidRequestError):
            session.commit()
            assert end == "COMMIT"
            assert model is Address
        session.close()
    users, addresses = shop.rows()
    if end == "COMMIT":
        assert users >= addresses  # in PostgreSQL the program itself has committed
    else:
        assert (users, addresses) == (0, 0)


@pytest.mark.parametrize("reset", ["rollback", None])
def test_a_session_that_is_dropped_leaves_no_branch_on_a_connection(
    shop: Shop, client: Client, reset: str | None
) -> None:
    engines = shop.engines(pool_reset_on_return=reset)
    session = shop.sessions(client, engines)()
    session.add(spongebob())
    session.flush()
    del session
    gc.collect()
    with shop.sessions(client, engines).begin() as session:
        session.add(spongebob())
    assert shop.rows() == (1, 1)
    assert not shop.prepared(client)
