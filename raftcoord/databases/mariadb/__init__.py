"""MariaDB, and MySQL, which is spoken to as MariaDB. Others call the kind mysql; that is read, and never written here."""

from __future__ import annotations

from typing import Any, Final

from raftcoord.databases.database import ByHand, Database, Driver, ServerKind, Statements
from raftcoord.databases.mariadb.checks import MariaDbChecks
from raftcoord.databases.mariadb.dialect import MariaDb
from raftcoord.databases.mariadb.server import MariaDbRecipe, find
from raftcoord.databases.urls import ServerPlace, Url

_PORT: Final = 3306
_SESSIONS: Final = "raftcoord.databases.mariadb.drivers"
_MARKS_GRANT: Final = (
    "grant that user SELECT, INSERT and DELETE on raftcoord_marks: raftcoord doctor shows the statement"
)
_RECOVER_GRANT: Final = (
    "MySQL lists prepared branches only to users with that right: GRANT XA_RECOVER_ADMIN ON *.* TO the resource's user"
)
_ACQUIRED: Final = "enlist a connection that acquire() has given"


def _opened(module: Any, url: str) -> Any:
    return _connected(module, url, "database")


def _connected(module: Any, url: str, database: str) -> Any:
    read = Url.parse(url, _PORT)
    where = {"host": read.host, "port": read.port, "user": read.user, database: read.database}
    return module.connect(**where)


DATABASE: Final = Database(
    name="mariadb",
    title="MariaDB",
    place=ServerPlace(("mariadb", "mysql"), _PORT),
    dialect=MariaDb(),
    checks=MariaDbChecks(),
    statements=Statements(
        locked=frozenset({"1205"}),  # ER_LOCK_WAIT_TIMEOUT
        lock_wait=lambda ms: f"SET SESSION innodb_lock_wait_timeout = {ms // 1000}",
        create=lambda name: f"CREATE DATABASE `{name}`",
        by_hand=ByHand(("XA START '{}'",), ("XA END '{}'", "XA PREPARE '{}'"), "XA COMMIT '{}'", False, {}),
    ),
    drivers=(
        Driver(
            "mariadb",
            "pymysql",
            "pymysql",
            f"{_SESSIONS}:PyMySqlSession",
            _opened,
            title="PyMySQL",
            sqlalchemy=("pymysql",),
        ),
        Driver(
            "mariadb",
            "mysqlclient",
            "MySQLdb",
            f"{_SESSIONS}:MySqlClientSession",
            _opened,
            tops=("MySQLdb", "_mysql"),
            sqlalchemy=("mysqldb",),
        ),
        Driver(
            "mariadb", "mariadb", "mariadb", f"{_SESSIONS}:MariaDbSession", _opened, sqlalchemy=("mariadbconnector",)
        ),
        Driver(
            "mariadb",
            "asyncmy",
            "asyncmy",
            f"{_SESSIONS}:AsyncmySession",
            _opened,
            asynchronous=True,
            sqlalchemy=("asyncmy",),
        ),
        Driver(
            "mariadb",
            "aiomysql",
            "aiomysql",
            f"{_SESSIONS}:AiomysqlSession",
            lambda module, url: _connected(module, url, "db"),
            asynchronous=True,
            sqlalchemy=("aiomysql",),
        ),
    ),
    package="PyMySQL",
    advice={
        "1142": _MARKS_GRANT,
        "1143": _MARKS_GRANT,
        "1227": _RECOVER_GRANT,
        "1401": _RECOVER_GRANT,
        "1044": "grant the resource's user that database, or correct the url",
    },
    gone="rolled back by hand, or lost with a backup; or the server holds it unlisted until it is restarted: restart it before "
    "anything is mended by hand",
    instead={
        "mysql": "connect with PyMySQL, mysqlclient or mariadb",
        "aiomysql.pool": _ACQUIRED,
        "asyncmy.pool": _ACQUIRED,
        "mariadb.connectionpool": "enlist a connection that get_connection() has given",
    },
    django="mysql",
    server=ServerKind(find, MariaDbRecipe),
)
