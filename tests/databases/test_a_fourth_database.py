"""A kind of database that nobody here has heard of is one object in one list: everybody then finds it there.

It is a shoebox: a dictionary by the name of a file, with what is prepared in it and the cards that prove a commit.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner
from raftcoord_cli.main import main
from sqlalchemy import create_engine

from raftcoord import Client, LocalProtocolError, TxId
from raftcoord.config import Config
from raftcoord.databases import drivers, registry
from raftcoord.databases import gid as gids
from raftcoord.databases.database import Checks, Database, Driver, Statements
from raftcoord.databases.marks import Marked
from raftcoord.databases.owners import Owner
from raftcoord.databases.resolver import listing
from raftcoord.databases.resolver.resource import Resource
from raftcoord.databases.session import DriverSession
from raftcoord.databases.steps import INIT, Effect, Finding, PreparedHere, Result, SqlError, Statement
from raftcoord.databases.urls import FilePlace
from raftcoord.doctor import databases
from raftcoord.doctor.findings import REACHABLE, Severity
from raftcoord.integrations.sqlalchemy import attach
from raftcoord.types import Branch

# -- its folder ---------------------------------------------------------------------------------------------------


class Box:
    """A connection."""

    prepared: ClassVar[set[str]] = set()
    cards: list[str] | None = None


class BoxDialect(Marked):
    name = "shoebox"
    marks = "cards"
    marked_ms = "at"

    def is_without_marks(self, error: object) -> Any:
        yield from ()
        return True

    def is_prepared(self, gid: object) -> Any:
        return str(gid) in [each[0] for each in (yield Statement("LIST")).rows]

    def list_prepared(self, cluster: str | None) -> Any:
        found = [gids.parse(text) for (text,) in (yield Statement("LIST")).rows]
        return [PreparedHere(gid, 90.0, "", True) for gid in found if gid]

    def rollback_prepared(self, gid: object) -> Any:
        yield Statement(f"DROP {gid}")
        return Effect.ABSENT

    def create_marks(self) -> Any:
        yield Statement("CARD since")

    def add_owner(self, owner: Owner) -> Any:
        yield Statement(f"CARD {owner}")


class BoxChecks(Checks):
    version, runs = "VERSION", "Shoebox"

    def check(self) -> Any:
        try:
            yield Statement("SELECT")
        except SqlError as error:
            return [Finding(error.text, INIT, True)]
        return []


class BoxSession(DriverSession):
    def is_closed(self) -> bool:
        return False

    def is_autocommit(self) -> bool:
        return True

    def fileno(self) -> int:
        return -1

    def clean(self) -> None:
        """Nothing is ever dirty."""

    @classmethod
    def connect(cls, url: str) -> BoxSession:
        return cls(Box())

    def execute(self, statement: Statement) -> Result:
        what, _, rest = statement.sql.partition(" ")
        if what == "DROP":
            Box.prepared.discard(rest)
        elif what == "CARD":
            Box.cards = sorted({*(Box.cards or ()), rest})
        elif what == "SELECT" and Box.cards is None:
            raise SqlError("E1", "there are no cards")
        found = {"VERSION": [7], "LIST": Box.prepared, "SELECT": Box.cards}.get(what) or ()
        return Result([(each,) for each in found], None, len(found))


SHOEBOX = Database(
    name="shoebox",
    title="Shoebox",
    place=FilePlace(("shoebox",)),
    dialect=BoxDialect(),  # type: ignore[abstract]
    checks=BoxChecks(),
    statements=Statements(frozenset(), lambda ms: ""),
    drivers=(
        Driver("shoebox", "lid", "lid", f"{__name__}:BoxSession", lambda module, url: Box(), sqlalchemy=("lid",)),
    ),
    advice={"E1": "open the lid"},
)
BoxSession.database = SHOEBOX


# -- and everybody finds it ---------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def shoebox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "DATABASES", (*registry.DATABASES, SHOEBOX))
    monkeypatch.setitem(sys.modules, "lid", ModuleType("lid"))
    monkeypatch.setattr(Box, "__module__", "lid")
    monkeypatch.setattr(Box, "prepared", set())
    monkeypatch.setattr(Box, "cards", None)


@pytest.fixture
def boxed(config: Config, tmp_path: Path) -> Config:
    """The cluster's file, with a resource that is a shoebox."""
    path = tmp_path / "cluster.yaml"
    (tmp_path / "letters").touch()
    path.write_text(config.to_yaml() + "resources:\n  - {name: letters, url: 'shoebox:///letters'}\n")
    return Config.load(path)


def command(*arguments: str) -> dict[str, Any]:
    done: dict[str, Any] = json.loads(CliRunner().invoke(main, [*arguments, "-o", "json"]).stdout)
    return done


def test_resource_init_makes_its_marks_and_says_what_it_lacks(boxed: Config, client: Client) -> None:
    (resource,) = boxed.resources
    assert [row.what for row in databases.look(resource, lambda: 0).rows if row.verdict is Severity.ERROR] == [
        "there are no cards"
    ]
    assert command("resource", "init", "letters", "-c", str(boxed.path)) == {
        "resources": [{"name": "letters", "named": True, "findings": []}]
    }
    assert Box.cards == [str(Owner(client.cluster_id(), "letters")), "since"]


def test_the_doctor_the_listing_and_the_resolver_look_into_it(boxed: Config, client: Client) -> None:
    (resource,) = boxed.resources
    listing.make_marks(boxed, resource, client.cluster_id())
    gid = gids.make(client.cluster_id(), TxId.new(), "letters")
    Box.prepared.add(str(gid))
    looked = databases.look(resource, lambda: int(time.time() * 1000))
    assert [row.what for row in looked.rows if row.check == REACHABLE] == [f"{resource.shown()}, Shoebox 7"]
    assert looked.found is not None
    assert [each.gid for each, _ in looked.found.ours] == [gid]
    (row,) = command("resource", "ls", "-c", str(boxed.path))["resources"]
    assert (row["where"], [each["gid"] for each in row["prepared"]]) == (resource.shown(), [str(gid)])
    seen = Resource(resource, frozenset({"letters"}), client, safety_s=0.0).look()
    assert seen is not None
    assert seen.rolled_back == 1
    assert not Box.prepared


def test_its_connections_are_known_to_the_client_and_to_sqlalchemy() -> None:
    assert isinstance(drivers.session(Box(), Branch("letters")), BoxSession)
    with pytest.raises(LocalProtocolError, match=r"enlist one of psycopg, .* sqlite3 and lid \(sync"):
        drivers.session(object(), Branch("letters"))
    engine = create_engine("sqlite://")
    engine.dialect.driver = "lid"
    assert attach(engine, "letters") is engine
