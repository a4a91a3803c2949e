"""How the URL of a database is read: of a server, or of a file.

Never: a password, or the URL itself, in an error.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final, Self
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from raftcoord.errors import ConfigError

UNREADABLE: Final = "the URL of the database cannot be used; check the resource in cluster.yaml"
"""What is said of one, without showing it."""


@dataclass(frozen=True)
class Place(abc.ABC):
    """How the URLs of one kind of database name a place.

    ``schemes``: what they may begin with, before a "+driver" of others; the first is what raftcoord writes.
    ``has_login``: whether user and password stand before an '@'.
    """

    schemes: tuple[str, ...]

    has_login: ClassVar[bool]
    slashes: ClassVar[str]

    @property
    def beginning(self) -> str:
        """What a URL begins with, for people."""
        return self.schemes[0] + self.slashes

    @property
    @abc.abstractmethod
    def example(self) -> str:
        """A whole one, for people."""

    @abc.abstractmethod
    def read(self, url: str, directory: Path) -> tuple[str, str]:
        """What is wrong with ``url`` ("" if nothing is), and it as every driver reads it. ``directory``: of relative paths."""

    @abc.abstractmethod
    def shown(self, url: str) -> str:
        """Where that is, for people: neither user nor password. ``url``: from ``read``."""

    def file(self, url: str) -> Path | None:
        """The file that ``url`` names; None: it is a server's."""
        return None


@dataclass(frozen=True)
class ServerPlace(Place):
    """scheme://USER:PASSWORD@HOST:PORT/DATABASE"""

    port: int

    has_login = True
    slashes = "://"

    @property
    def example(self) -> str:
        return f"{self.beginning}USER:${{PASSWORD}}@HOST:{self.port}/DATABASE"

    def read(self, url: str, directory: Path) -> tuple[str, str]:
        try:
            read = urlsplit(url)
            port, host = read.port, read.hostname
        except ValueError:
            return (
                "cannot be read: its port is a number from 1 to 65535, and '@', '/' or '#' in a password are %40, %2F or %23",
                "",
            )
        if port == 0:
            return "has the port 0", ""
        if not host and not _socket(read.query):
            return "names no host", ""
        if "@" in read.path + read.query + read.fragment:
            return (
                "has an '@' after its host; '@', '/', '?', '#' and ':' in a password are %40, %2F, %3F, %23 and %3A",
                "",
            )
        if "/" in read.path[1:] or not read.path[1:]:
            return "names no database", ""
        if read.fragment:
            return "has a '#', which is written %23 in a URL", ""
        return "", _canonical(self.schemes[0], read)

    def shown(self, url: str) -> str:
        """Kind, database, host and port."""
        read = urlsplit(url)
        host = read.hostname or _socket(read.query) or "this machine"
        return f"{self.schemes[0]} {unquote(read.path)[1:]} at {host}{f':{read.port}' if read.port else ''}"


@dataclass(frozen=True)
class FilePlace(Place):
    """scheme:///path, relative to the directory of cluster.yaml."""

    has_login = False
    slashes = ":///"

    @property
    def example(self) -> str:
        return f"{self.beginning}FILE"

    def read(self, url: str, directory: Path) -> tuple[str, str]:
        rest = url.partition("://")[2]
        path = unquote(rest[1:])
        if not rest.startswith("/") or not path or path == ":memory:" or "\0" in path:
            return "names no file", ""
        return "", f"{self.beginning}{quote(str((directory / path).absolute()))}"

    def shown(self, url: str) -> str:
        """Kind and file."""
        return f"{self.schemes[0]} {self.file(url)}"

    def file(self, url: str) -> Path:
        return Path(unquote(url.partition(":///")[2]))


@dataclass(frozen=True)
class Url:
    """scheme://user:password@host:port/database?unix_socket=/path, for the drivers that do not read one themselves."""

    user: str
    password: str = field(repr=False)
    host: str
    port: int
    database: str
    unix_socket: str

    @classmethod
    def parse(cls, text: str, default_port: int) -> Self:
        """Raises ConfigError."""
        try:
            read = urlsplit(text)
            port = read.port or default_port
        except ValueError:
            raise ConfigError(
                "the URL of the database cannot be read; check its host and port in cluster.yaml"
            ) from None
        options = dict(parse_qsl(read.query))
        return cls(
            unquote(read.username or ""),
            unquote(read.password or ""),
            read.hostname or "127.0.0.1",
            port,
            unquote(read.path.lstrip("/")),
            options.get("unix_socket", ""),
        )


def _canonical(scheme: str, read: SplitResult) -> str:
    """The URL as every driver reads it alike: libpq would end a password at its first '@', and show the rest as a host."""
    user, password, place = read.username, read.password, read.netloc.rpartition("@")[2]
    named = "" if user is None else quote(unquote(user), safe="")
    if password is not None:
        named += ":" + quote(unquote(password), safe="")
    query = f"?{read.query}" if read.query else ""
    return f"{scheme}://{named}{'' if user is None else '@'}{place}{read.path}{query}"


def _socket(query: str) -> str:
    given = dict(parse_qsl(query))
    return given.get("unix_socket", "") or given.get("host", "")
