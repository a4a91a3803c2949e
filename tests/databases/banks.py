"""Two or three databases with an account each, and how to look at them from outside."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pymysql

from raftcoord.databases import drivers
from raftcoord.databases.registry import named
from raftcoord.processes.database_servers import DatabaseServer
from raftcoord.types import TxId

CREATE = "CREATE TABLE accounts (name VARCHAR(20) PRIMARY KEY, amount BIGINT NOT NULL)"


class Bank:
    """A table ``accounts`` with alice's 100 in a database of its own. ``url``: for a session of one's own."""

    kind = ""

    def __init__(self, url: str, *, marks: bool = True) -> None:
        self.url = url
        self.dialect = named(self.kind).dialect
        self.other = drivers.connect(url)
        self.sql(CREATE)
        self.sql("INSERT INTO accounts VALUES ('alice', 100)")
        if marks:
            self.other.run(self.dialect.create_marks())

    def sql(self, text: str) -> list[tuple[Any, ...]]:
        """Carry out a statement from outside."""
        from raftcoord.databases.steps import Statement

        return self.other.execute(Statement(text, reads=True, outside=True)).rows

    def balance(self) -> int:
        """alice's committed amount."""
        ((amount,),) = self.sql("SELECT amount FROM accounts WHERE name = 'alice'")
        return int(amount)

    def prepared(self) -> list[TxId]:
        """What is listed as prepared here."""
        return [each.gid.txid for each in self.other.run(self.dialect.list_prepared(None)) if each.here]

    def connect(self) -> Any:
        """A connection as a program has one."""
        raise NotImplementedError

    def add(self, connection: Any, amount: int) -> None:
        """Work in a branch."""
        cursor = connection.cursor()
        cursor.execute(f"UPDATE accounts SET amount = amount + {amount} WHERE name = 'alice'")
        cursor.close()

    def close(self) -> None:
        self.other.close()


class PostgreSqlBank(Bank):
    kind = "postgresql"
    count = 0

    def __init__(self, server: DatabaseServer, *, marks: bool = True) -> None:
        type(self).count += 1
        self.server, self.database = server, f"bank{self.count}"
        with psycopg.connect(server.url(), autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {self.database}")
        super().__init__(server.url(self.database), marks=marks)

    def close(self) -> None:
        """The database goes, unless branches are prepared or sessions open in it: hundreds of them would fill a disk."""
        super().close()
        with suppress(psycopg.Error), psycopg.connect(self.server.url(), autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {self.database}")

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url)


class MariaDbBank(Bank):
    kind = "mariadb"
    count = 0

    def __init__(self, server: DatabaseServer, *, marks: bool = True) -> None:
        type(self).count += 1
        self.server, self.database = server, f"bank{self.count}"
        admin = drivers.connect(server.url())
        admin.connection.cursor().execute(f"CREATE DATABASE {self.database}")
        admin.close()
        super().__init__(server.url(self.database), marks=marks)

    def connect(self) -> Any:
        return pymysql.connect(host="127.0.0.1", port=self.server.port, user="root", database=self.database)


class SqliteBank(Bank):
    kind = "sqlite"

    def __init__(self, path: Path, *, marks: bool = True) -> None:
        self.path = path
        sqlite3.connect(path).close()
        path.touch()
        super().__init__(f"sqlite:///{path}", marks=marks)

    def connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=2)
