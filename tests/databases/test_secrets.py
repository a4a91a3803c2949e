"""No part of a password is shown: in an error, a log line or a row of the doctor. A wrong one is called that."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from raftcoord import Client, ConfigError, RaftcoordError, Unavailable
from raftcoord.config import Config
from raftcoord.databases import drivers
from raftcoord.databases.resolver import listing
from raftcoord.databases.resolver.resource import Resource
from raftcoord.databases.resource_config import ResourceConfig
from raftcoord.databases.steps import LoginRefused
from raftcoord.doctor import databases
from raftcoord.doctor.findings import Severity
from raftcoord.types import Branch

from .banks import MariaDbBank, PostgreSqlBank
from .connecting import the_only

HARD = "s3c@ret/hid#den?se:cr%t"
PARTS = ("s3c", "ret", "hid", "den", "cr%t", "cr%25t")


def resource(url: str) -> ResourceConfig:
    return ResourceConfig(Branch("ledger"), url)


@pytest.mark.parametrize(
    ("written", "password"),
    [
        ("postgresql://app:${PASSWORD}@db1:5432/shop", HARD),
        ("mysql://app:${PASSWORD}@db1:3306/shop", HARD),
        ("postgresql://app:${ENCODED}@db1:5432/shop", "p@ss w%rd"),
        ("postgresql://app:a@b@db1:5432/shop", "a@b"),
        ("postgresql://app:a%40b@db1:5432/shop", "a@b"),
        ("postgresql://app:%zz@db1:5432/shop", "%zz"),
        ("postgresql://app:${PLAIN}@db1:5432/shop?sslmode=prefer", "plain"),
    ],
)
def test_every_driver_reads_the_url_alike(written: str, password: str) -> None:
    """Only the user's part has an '@', the one that ends it, and nothing else ends a URL's part in it."""
    url = resource(written).url({"PASSWORD": HARD, "ENCODED": "p%40ss%20w%25rd", "PLAIN": "plain"})
    read = urlsplit(url)
    assert url.count("@") == 1
    assert (read.username, unquote(read.password or ""), read.hostname, read.path) == ("app", password, "db1", "/shop")


@pytest.mark.parametrize(
    "written",
    [
        "postgresql://app:s3c/ret@db1/shop",
        "postgresql://app:5/ret@db1",
        "postgresql://app:s3c@x/ret@db1",
        "postgresql://app:s3c@x/shop?ret@db1/shop",
        "postgresql://app:5#ret@db1/shop",
        "mysql://app:s3c?ret@db1/shop",
    ],
)
def test_a_url_whose_password_would_be_taken_for_a_host_is_refused_without_showing_it(written: str) -> None:
    with pytest.raises(ConfigError) as raised:
        resource(written).url({})
    assert not [part for part in ("s3c", "ret") if part in str(raised.value)]


def test_what_a_driver_says_is_scrubbed_whole_and_in_parts() -> None:
    made = resource("postgresql://app:${PASSWORD}@db1/shop?sslpassword=k3y-secret")
    environ = {"PASSWORD": HARD}
    for text in (HARD, "failed to resolve host 'ret/hid#den?se:cr%t@db1'", "of s3c, k3y-secret", made.url(environ)):
        shown = made.scrub(text, environ)
        assert not [part for part in (*PARTS, "k3y") if part in shown], shown


@pytest.fixture(
    params=["postgresql://app:${HARD_PASSWORD}@127.0.0.1:1/shop", "mysql://app:${HARD_PASSWORD}@127.0.0.1:1/shop"]
)
def away(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ResourceConfig:
    """A database that is not there."""
    monkeypatch.setenv("HARD_PASSWORD", HARD)
    return resource(request.param)


@pytest.mark.parametrize("host", ["127.0.0.1:1", "no-such-host.invalid"])
def test_no_part_of_it_is_shown_when_a_database_is_away(
    away: ResourceConfig, host: str, config: Config, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    away = dataclasses.replace(away, written=away.written.replace("127.0.0.1:1", host))
    shown = []
    with pytest.raises(Unavailable) as raised:
        listing.make_marks(config, away, "")
    shown.append(str(raised.value))
    shown += [str(row) for row in databases.look(away, lambda: 0).rows]
    with caplog.at_level(logging.DEBUG):
        looked = Resource(away, frozenset({"ledger"}), client, safety_s=0.0)
        assert looked.look() is None
    shown += [looked.trouble, caplog.text]
    assert not [(part, text) for part in PARTS for text in shown if part in text]


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "pg8000", "pymysql", "MySQLdb", "mariadb"])
def test_no_driver_shows_a_part_of_it(driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(driver)
    monkeypatch.setenv("HARD_PASSWORD", HARD)
    kind = the_only(driver, monkeypatch)
    for host in ("127.0.0.1:1", "no-such-host.invalid"):
        url = resource(f"{kind}://app:${{HARD_PASSWORD}}@{host}/shop").url()
        with pytest.raises(RaftcoordError) as raised:
            drivers.connect(url)
        assert not [part for part in PARTS if part in str(raised.value)], raised.value


# -- a wrong one


@pytest.fixture(params=["postgresql", "mariadb"])
def locked(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a user with the password HARD, to be written in place of PASSWORD."""
    server: Any = request.getfixturevalue(request.param)
    if request.param == "postgresql":
        bank: Any = PostgreSqlBank(server)
        bank.sql(f"CREATE ROLE locked LOGIN PASSWORD '{HARD}'")
        ((shown,),) = bank.sql("SHOW hba_file")
        path = Path(shown)
        before = path.read_text()
        path.write_text(f"host all locked all scram-sha-256\nlocal all locked scram-sha-256\n{before}")
        bank.sql("SELECT pg_reload_conf()")
        yield f"postgresql://locked:PASSWORD@127.0.0.1:{server.port}/{bank.database}"
        path.write_text(before)
        bank.sql("SELECT pg_reload_conf()")
        bank.sql("DROP ROLE locked")
    else:
        bank = MariaDbBank(server)
        bank.sql(f"CREATE USER locked@'%' IDENTIFIED BY '{HARD}'")
        bank.sql(f"GRANT SELECT, INSERT ON {bank.database}.* TO locked@'%'")
        yield f"mysql://locked:PASSWORD@127.0.0.1:{server.port}/{bank.database}"
        bank.sql("DROP USER locked@'%'")
    bank.close()


def test_a_wrong_password_is_called_that_and_a_right_one_connects_whatever_it_holds(
    locked: str, config: Config, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = resource(locked.replace("PASSWORD", "${HARD_PASSWORD}"))
    monkeypatch.setenv("HARD_PASSWORD", HARD)
    drivers.connect(made.url()).close()
    monkeypatch.setenv("HARD_PASSWORD", f"{HARD}-not")
    with pytest.raises(LoginRefused):
        drivers.connect(made.url())
    (row,) = databases.look(made, lambda: 0).rows
    assert (row.check, row.verdict) == (databases.LOGIN, Severity.ERROR)
    assert "refuses the login" in row.what
    assert "correct user, password and database" in row.mend
    with pytest.raises(ConfigError, match="refuses the login"):
        listing.make_marks(config, made, "")
    looked = Resource(made, frozenset({"ledger"}), client, safety_s=0.0)
    assert looked.look() is None
    assert looked.trouble.startswith("user, password or database of its url are wrong")
    assert not [part for part in PARTS for text in (str(row), looked.trouble) if part in text]
