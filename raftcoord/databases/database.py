"""A kind of database, whole: what its folder brings and everybody else takes.

Adding one is a folder with a ``DATABASE`` and a line in registry.py. The client, the resolver, the doctor, the integrations,
``raftcoord resource``, drills and tests ask this object. Never: a question for its name to find out what it can do.
"""

from __future__ import annotations

import abc
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from raftcoord.databases.steps import Dialect, Finding, SqlError, Steps
from raftcoord.databases.urls import Place


@dataclass(frozen=True, eq=False)
class Driver:
    """A driver, as programs use it."""

    kind: str
    """The name of its database."""
    name: str
    """Of [a-z0-9-]; no other driver has it."""
    module: str
    """What is imported."""
    session: str
    """"module:class" of its Session or AsyncSession, which is imported only for a connection of this driver."""
    opens: Callable[[Any, str], Any]
    """A connection from the module and a URL, as a program makes it: not in autocommit."""
    title: str = ""
    """As its makers write it, if that is not the name."""
    asynchronous: bool = False
    """Its connections are awaited, and are for AsyncClient."""
    everywhere: bool = False
    """It is synchronous, and AsyncClient takes it as well."""
    tops: tuple[str, ...] = ()
    """The top-level modules of its connections' types, if that is not the one of ``module``."""
    class_name: str = ""
    """The class of its connections, if its module has connections of another driver too."""
    sqlalchemy: tuple[str, ...] = ()
    """What SQLAlchemy calls it."""

    @property
    def called(self) -> str:
        """For people."""
        return self.title or self.name

    @property
    def installed(self) -> bool:
        """Whether it can be imported here: some are there and lack a library of C."""
        try:
            import_module(self.module)
        except ImportError:
            return False
        return True

    def connect(self, url: str) -> Any:
        """A connection as a program makes one, not in autocommit; to be awaited if the driver is asynchronous."""
        return self.opens(import_module(self.module), url)

    def makes(self, connection: type) -> bool:
        """Whether it is a type of this driver's connections, or a subclass that the program has made."""
        tops = self.tops or (self.module.partition(".")[0],)
        bases = [base for base in connection.__mro__ if base.__module__.partition(".")[0] in tops]
        return any(base.__name__ == self.class_name for base in bases) if self.class_name else bool(bases)

    def session_class(self) -> Any:
        """Imported now."""
        module, _, name = self.session.partition(":")
        return getattr(import_module(module), name)


class Checks(abc.ABC):
    """What the doctor and ``resource init`` ask of a database. ``version``: the query for it; ``runs``: how that is shown."""

    version: str
    runs: str

    @abc.abstractmethod
    def check(self) -> Steps[list[Finding]]:
        """What keeps this database from taking part, or from being resolved."""

    def others(self) -> Steps[list[str]]:
        """The names of what is prepared and is not raftcoord's."""
        yield from ()
        return []

    def limited_user(self) -> Steps[str]:
        """Whom the session is, if that one may end only what it has prepared itself; else ""."""
        yield from ()
        return ""

    def preparers(self) -> Steps[dict[str, str]]:
        """Who has prepared each gid, where the database tells."""
        yield from ()
        return {}


class ByHand(NamedTuple):
    """Two-phase commit by hand, as a program without raftcoord does it. ``{}`` in the SQL is the name of the branch.

    ``begin``: () if the driver begins by itself. ``outside``: the commit must be sent outside a transaction. ``options``: for
    ``cursor.execute`` of the first driver.
    """

    begin: tuple[str, ...]
    prepare: tuple[str, ...]
    commit: str
    outside: bool
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Statements:
    """What drills, benchmarks and tests say to it, outside of any branch of raftcoord's."""

    locked: frozenset[str]
    """The codes of the errors that say that a row is another's."""
    lock_wait: Callable[[int], str]
    """Bounds how long this session waits for a lock (ms)."""
    create: Callable[[str], str] | None = None
    """Makes a database of a name of [a-z0-9_-]. None: connecting makes it."""
    by_hand: ByHand | None = None
    """What benchmarks compare with. None: it has no two-phase commit of its own."""


class NotHere(Exception):
    """The binaries of ``server`` are not installed."""

    def __init__(self, what: str, server: str = "a database server") -> None:
        super().__init__(what)
        self.server = server


class ServerRecipe(Protocol):
    """How a server of this kind is run in ``directory``, on ``port`` of 127.0.0.1, with a superuser who needs no password.

    One for each server. ``user``: who is to run it, None: who runs this. ``stop_signal``: ends it quickly and in order.
    """

    user: str | None
    stop_signal: signal.Signals

    def prepare(self, run: Callable[..., str]) -> None:
        """Make the data directory. ``run``: carries a command out as ``user`` and returns what it prints."""

    def command(self) -> list[str]:
        """What starts it."""

    def answers(self) -> bool:
        """Whether it takes connections."""

    def url(self, database: str = "") -> str:
        """For drivers and cluster.yaml; "": a database that is always there."""


@dataclass(frozen=True)
class ServerKind:
    """Servers for tests, demos and benchmarks."""

    find: Callable[[], object]
    """Raises NotHere."""
    recipe: Callable[[Path, int, bool, Mapping[str, str]], ServerRecipe]
    """Of a directory, a port, whether it is to sync its files, and settings of the server's own."""


@dataclass(frozen=True, eq=False)
class Database:
    """One kind of database."""

    name: str
    """In URLs, reports and options."""
    title: str
    """As its makers write it."""
    place: Place
    """How its URLs are read."""
    dialect: Dialect
    checks: Checks
    statements: Statements
    drivers: Sequence[Driver]
    """In the order in which one is chosen to connect with."""
    package: str = ""
    """What installs the first of them."""
    advice: Mapping[str, str] = field(default_factory=dict)
    """What to do about an error of the resolver's statements, by its code and never by its text."""
    gone: str = "rolled back by hand, or lost with a backup. Compare it with the other branches"
    """What may have happened to a branch that is neither prepared nor marked, and what to do."""
    instead: Mapping[str, str] = field(default_factory=dict)
    """What is often enlisted and is no connection, by the beginning of its type's name, and what to do instead."""
    joins: bool = False
    """A branch may begin inside a transaction that the driver has begun."""
    django: str = ""
    """Django's name of the vendor, if its connections can take part."""
    server: ServerKind | None = None
    """None: there is no server to start."""

    def explained(self, error: SqlError) -> str:
        """The database's own words, and what to do if that is known."""
        mend = self.advice.get(error.code)
        return f"{error}; {mend}" if mend else str(error)
