"""The caller's connection, recognised and spoken to: which database, which driver, and the session over it.

Owed: a driver is imported only when a connection is of it. An error that the server answered becomes SqlError; anything
else that a driver raises is ConnectionLost, because nobody knows what it did. Cursors are made with a plain row, whatever the
connection's own row factory. Never: a call of tpc_*.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from raftcoord import limits
from raftcoord.databases import registry
from raftcoord.databases.database import Database, Driver
from raftcoord.databases.patience import keep_alive
from raftcoord.databases.session import AsyncDriverSession, DriverSession
from raftcoord.databases.steps import LoginRefused, SqlError
from raftcoord.errors import ConfigError, LocalProtocolError
from raftcoord.types import Branch

_INSTEAD: Final = {
    "sqlalchemy": "use raftcoord.integrations.sqlalchemy, whose Session enlists by itself",
    "django": "use raftcoord.integrations.django, whose atomic() enlists by itself",
}
"""As Database.instead, for what is of no database alone."""


def session(connection: Any, branch: Branch) -> DriverSession:
    """The session over a synchronous ``connection``. Raises LocalProtocolError if it is none that is known."""
    driver = _driver(connection)
    if driver is not None and not driver.asynchronous:
        made = driver.session_class()(connection, branch)
        assert isinstance(made, DriverSession)
        return made
    raise _unknown(connection, branch, driver, "Client.transaction() takes synchronous ones")


def async_session(connection: Any, branch: Branch) -> AsyncDriverSession | DriverSession:
    """The session over an asynchronous ``connection``, or over one of sqlite3. Raises LocalProtocolError if it is neither."""
    driver = _driver(connection)
    if driver is not None and (driver.asynchronous or driver.everywhere):
        made = driver.session_class()(connection, branch)
        assert isinstance(made, AsyncDriverSession | DriverSession)
        return made
    raise _unknown(connection, branch, driver, "AsyncClient.transaction() takes asynchronous ones, and sqlite3's")


def connect(url: str) -> DriverSession:
    """A session of its own, synchronous and in autocommit. ``url``: as a resource has it.

    With the first driver of its kind that is installed. Raises ConfigError for a URL that is wrong or a driver that is
    missing, LoginRefused, and ConnectionLost if the database does not answer; so does later every protocol that takes too long.
    """
    kind = registry.of_url(url)
    if kind is None:
        raise ConfigError(f"the URL of a database begins with {registry.beginnings()}; this one does not")
    for driver in kind.drivers:
        if driver.asynchronous or not driver.installed:
            continue
        try:
            made = driver.session_class().connect(url)
        except SqlError as error:
            raise LoginRefused(f"the server refuses the login: {error}") from None
        assert isinstance(made, DriverSession)
        keep_alive(made.fileno())
        made.answer_s = limits.RESOURCE_ANSWER_MS / 1000
        return made
    raise ConfigError(f"no driver for {kind.name} is installed: pip install '{kind.package}'")


def _driver(connection: Any) -> Driver | None:
    kind: type = type(connection)
    return _driver_of(kind, registry.DATABASES)


@lru_cache(maxsize=256)
def _driver_of(connection: type, databases: tuple[Database, ...]) -> Driver | None:
    """The driver whose connections are of this type, also of a subclass that the program has made; None if there is none."""
    if _instead(connection):
        return None
    return next((driver for each in databases for driver in each.drivers if driver.makes(connection)), None)


def _unknown(connection: Any, branch: str, driver: Driver | None, rule: str) -> LocalProtocolError:
    kind = type(connection)
    what = f"branch {branch!r}: {kind.__module__}.{kind.__qualname__}"
    if driver is not None:
        return LocalProtocolError(f"{what} is a connection of the other kind: {rule}")
    instead = _instead(kind) or f"enlist one of {_known()}, and not its wrapper"
    return LocalProtocolError(f"{what} is no connection that is known here; {instead}. Nothing was changed")


def _instead(connection: type) -> str:
    """What to do with what is often tried and is no connection of a driver; empty for anything else."""
    name = f"{connection.__module__}.{connection.__qualname__}."
    all_of_them = {
        **_INSTEAD,
        **{known: advice for each in registry.DATABASES for known, advice in each.instead.items()},
    }
    return next((advice for beginning, advice in all_of_them.items() if name.startswith(f"{beginning}.")), "")


def _known() -> str:
    """The drivers, for people."""
    drivers = [driver for each in registry.DATABASES for driver in each.drivers]
    synchronous, asynchronous = (
        registry.either([driver.called for driver in drivers if driver.asynchronous is kind], "and")
        for kind in (False, True)
    )
    return f"{synchronous} (synchronous), {asynchronous} (asynchronous)"
