"""The URL of a database, for the drivers that do not read one themselves.

Never: a password, or the URL itself, in an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from raftcoord.errors import ConfigError

UNREADABLE: Final = "the URL of the database cannot be used; check the resource in cluster.yaml"
"""What is said of one, without showing it."""


@dataclass(frozen=True)
class Url:
    """scheme://user:password@host:port/database?unix_socket=/path"""

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
