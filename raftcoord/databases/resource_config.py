"""A resource as cluster.yaml names it: a database, under the name of its branches, with the URL to reach it.

Owed: an error about a URL says what is wrong and what to write, and shows nothing of it, because it may hold a password. The
variables in it are read when somebody is about to connect: nodes and clients read the same cluster.yaml, and hold no credentials.
Never: a connection.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from raftcoord.errors import ConfigError, LocalProtocolError
from raftcoord.strict_yaml import expand, holds_variable
from raftcoord.types import Branch, checked_name

KINDS: Final = {
    "postgresql": "postgresql",
    "postgres": "postgresql",
    "mysql": "mysql",
    "mariadb": "mysql",
    "sqlite": "sqlite",
}
"""What a URL may begin with, and the kind of database that it means."""

EXAMPLE: Final = (
    "postgresql://USER:${PASSWORD}@HOST:5432/DATABASE, mysql://USER:${PASSWORD}@HOST:3306/DATABASE or sqlite:///FILE"
)


@dataclass(frozen=True, slots=True)
class ResourceConfig:
    """One resource. ``name``: of its branches; ``written``: the URL as it stands in the file, variables and all.

    ``place``: file and line, for errors; ``directory``: what the path of a SQLite file is relative to.
    """

    name: Branch
    written: str = field(repr=False)
    place: str = field(default="", repr=False, compare=False)
    directory: Path = field(default=Path(), repr=False, compare=False)

    def check(self) -> None:
        """Raise ConfigError for what is wrong whatever the variables hold."""
        if "://" in self.name:
            raise self._error("a URL stands as the name of a resource; write 'name: ledger', and the URL after 'url:'")
        try:
            checked_name(self.name, "resource")
        except LocalProtocolError as error:
            raise self._error(str(error)) from None
        if not holds_variable(self.written):
            self.url()

    def url(self, environ: Mapping[str, str] | None = None) -> str:
        """The URL to connect with, as postgresql://, mysql:// or sqlite:///. It may hold a password.

        Raises ConfigError, also for a variable that is not set.
        ``environ``: where variables are read; None: this process's environment.
        """
        try:
            url = _expanded(self.written, os.environ if environ is None else environ)
            what, absolute = _fault(url, self.directory)
        except ConfigError as error:
            raise self._error(str(error)) from None
        if what:
            raise self._error(f"the url of resource {self.name!r} {what}; write {EXAMPLE}")
        return absolute

    def shown(self, environ: Mapping[str, str] | None = None) -> str:
        """Where it is, for people: kind, host, port and database; neither user nor password. Raises ConfigError."""
        url = self.url(environ)
        read = urlsplit(url)
        kind = KINDS[read.scheme.partition("+")[0]]
        if kind == "sqlite":
            return f"sqlite {unquote(read.path)[1:]}"
        host = read.hostname or _socket(read.query) or "this machine"
        return f"{kind} {unquote(read.path)[1:]} at {host}{f':{read.port}' if read.port else ''}"

    def scrub(self, text: str, environ: Mapping[str, str] | None = None) -> str:
        """``text`` without the password, should a driver have put it there: whole, or as it reads an URL."""
        read = urlsplit(self.url(environ))
        for secret in sorted(_secrets(read), key=len, reverse=True):
            text = text.replace(secret, "***")
        return text

    def _error(self, message: str) -> ConfigError:
        return ConfigError(f"{self.place}: {message}" if self.place else message)


class _Encoded(Mapping[str, str]):
    """An environment whose values stand in the user's part of a URL: one that cannot be there as it is, is encoded."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def __getitem__(self, name: str) -> str:
        value = self._environ[name]
        return value if _ENCODED.fullmatch(value) else quote(value, safe="")

    def __iter__(self) -> Iterator[str]:
        return iter(self._environ)

    def __len__(self) -> int:
        return len(self._environ)


def _expanded(written: str, environ: Mapping[str, str]) -> str:
    """``written`` with its variables. Those before the last '@' are user and password, whatever characters they hold."""
    user, at, place = ("", "", written) if written.startswith("sqlite") else written.rpartition("@")
    return expand(user, _Encoded(environ)) + at + expand(place, environ)


def _canonical(scheme: str, read: SplitResult) -> str:
    """The URL as every driver reads it alike: libpq would end a password at its first '@', and show the rest as a host."""
    user, password, place = read.username, read.password, read.netloc.rpartition("@")[2]
    named = "" if user is None else quote(unquote(user), safe="")
    if password is not None:
        named += ":" + quote(unquote(password), safe="")
    query = f"?{read.query}" if read.query else ""
    return f"{scheme}://{named}{'' if user is None else '@'}{place}{read.path}{query}"


def _secrets(read: SplitResult) -> set[str]:
    """The password and every option that is one, as written, and as a driver may show it: decoded, or up to a character that
    ends something in a URL."""
    options = [value for name, value in parse_qsl(read.query) if "pass" in name.lower()]
    whole = {
        text
        for each in (read.password or "", *options)
        for text in (each, unquote(each), quote(unquote(each), safe=""))
    }
    parts = {part for text in whole for part in _ENDS.split(text) if len(part) >= _PART_MIN}
    return (whole | parts) - {""}


_ENCODED: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*")
"""What may stand in the user's part of a URL as it is (RFC 3986, section 3.2.1), but for ':'."""
_ENDS: Final = re.compile(r"[@/?#:]")
_PART_MIN: Final = 3
"""Characters of a part of a password that is hidden: shorter ones are in every text."""


def _fault(url: str, directory: Path) -> tuple[str, str]:
    """What is wrong with ``url`` ("" if nothing is), and the url with an absolute path."""
    scheme, separator, rest = url.partition("://")
    kind = KINDS.get(scheme.partition("+")[0])
    if not separator or kind is None:
        return "does not begin with postgresql://, mysql:// or sqlite:///", ""
    if not url.isprintable() or " " in url:
        return "holds a blank or a control character, which is written %20 or so in a URL", ""
    if kind == "sqlite":
        path = unquote(rest[1:])
        if not rest.startswith("/") or not path or path == ":memory:" or "\0" in path:
            return "names no file", ""
        return "", f"sqlite:///{quote(str((directory / path).absolute()))}"
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
        return "has an '@' after its host; '@', '/', '?', '#' and ':' in a password are %40, %2F, %3F, %23 and %3A", ""
    if "/" in read.path[1:] or not read.path[1:]:
        return "names no database", ""
    if read.fragment:
        return "has a '#', which is written %23 in a URL", ""
    return "", _canonical(kind, read)


def _socket(query: str) -> str:
    given = dict(parse_qsl(query))
    return given.get("unix_socket", "") or given.get("host", "")
