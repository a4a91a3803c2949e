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

from raftcoord.databases import registry
from raftcoord.databases.database import Database
from raftcoord.errors import ConfigError, LocalProtocolError
from raftcoord.strict_yaml import expand, holds_variable
from raftcoord.types import Branch, checked_name


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
        """The URL to connect with, as its kind of database writes it. It may hold a password.

        Raises ConfigError, also for a variable that is not set.
        ``environ``: where variables are read; None: this process's environment.
        """
        try:
            url = _expanded(self.written, os.environ if environ is None else environ)
            what, absolute = _fault(url, self.directory)
        except ConfigError as error:
            raise self._error(str(error)) from None
        if what:
            raise self._error(f"the url of resource {self.name!r} {what}; write {registry.examples()}")
        return absolute

    def shown(self, environ: Mapping[str, str] | None = None) -> str:
        """Where it is, for people: kind, host, port and database; neither user nor password. Raises ConfigError."""
        url = self.url(environ)
        return _known(url).place.shown(url)

    def database(self, environ: Mapping[str, str] | None = None) -> Database:
        """The kind of database that the URL leads to. Raises ConfigError."""
        return _known(self.url(environ))

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
    kind = registry.of_url(written)
    user, at, place = written.rpartition("@") if kind is None or kind.place.has_login else ("", "", written)
    return expand(user, _Encoded(environ)) + at + expand(place, environ)


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
    """What is wrong with ``url`` ("" if nothing is), and the url as every driver reads it."""
    kind = registry.of_url(url)
    if kind is None:
        return f"does not begin with {registry.beginnings()}", ""
    if not url.isprintable() or " " in url:
        return "holds a blank or a control character, which is written %20 or so in a URL", ""
    return kind.place.read(url, directory)


def _known(url: str) -> Database:
    kind = registry.of_url(url)
    assert kind is not None, "url() gives no other"
    return kind
