"""YAML read strictly: every value knows its line, and nothing is guessed.

Owed: an error of one sentence that names file and line, the offending key or value, and what to write instead.
Never: a default, a conversion (``on`` is not True, ``050`` is not 40), a key that is given twice, a tag that builds an object; a
URL in an error, because it may hold a password.

``${NAME}`` in a value is what the environment holds under that name, taken as it is; ``$${`` is ``${``.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Final, NamedTuple

import yaml

from raftcoord.errors import ConfigError

_TAG: Final = "tag:yaml.org,2002:"
_INTEGER: Final = re.compile(r"0|-?[1-9][0-9]*", re.ASCII)
_VARIABLE: Final = re.compile(r"\$\$\{|\$\{([^{}]*)(\}?)")
_VARIABLE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?", re.ASCII)


class Document(NamedTuple):
    """What every value of a document shares: the file's name and, by key, an example of what to write."""

    source: str
    examples: Mapping[str, str]
    environ: Mapping[str, str]


def variables(written: str) -> frozenset[str]:
    """The names of the variables in a value as it stands in the file."""
    return frozenset(found[1] for found in _VARIABLE.finditer(written) if found[1])


def holds_variable(text: str) -> bool:
    """Whether ``text`` holds a ``${NAME}``, or what looks like one."""
    return any(found[0] != "$${" for found in _VARIABLE.finditer(text))


def expand(text: str, environ: Mapping[str, str]) -> str:
    """``text`` with each ``${NAME}`` replaced by what ``environ`` holds. Raises ConfigError that names the variable."""

    def value_of(found: re.Match[str]) -> str:
        name, end = found[1], found[2]
        if name is None:
            return "${"
        if not end or _VARIABLE_NAME.fullmatch(name) is None:
            raise ConfigError(
                "a '${' that names no variable; write ${NAME} for the environment's NAME, or $${ for a plain ${"
            )
        value = environ.get(name)
        if value is None:
            raise ConfigError(
                f"the environment variable {name} is not set; set it where this command runs: export {name}=..."
            )
        if not value:
            raise ConfigError(
                f"the environment variable {name} is empty; set it where this command runs: export {name}=..."
            )
        return value

    return _VARIABLE.sub(value_of, text)


def escape(text: str) -> str:
    """What ``expand`` gives back as ``text``."""
    return text.replace("${", "$${")


def read(text: str, source: str, examples: Mapping[str, str], environ: Mapping[str, str] | None = None) -> Value:
    """The one document in ``text``. ``source``: the file's name; ``examples``: what to write, by key. Raises ConfigError.

    ``environ``: where variables are read; None: this process's environment.
    """
    line = 1
    try:
        loader = yaml.SafeLoader(text)
        try:
            root = loader.get_single_node()
        finally:
            line = loader.line + 1
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = (error.problem or "unreadable").removesuffix(",")
        raise ConfigError(
            f"{source}:{line}: not YAML: {problem}; check the indentation, colons and quotes there"
        ) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{source}:{line}: a character that YAML does not allow; remove it") from None
    except RecursionError:
        raise ConfigError(
            f"{source}:1: nested too deeply to be a cluster; write a new one with: raftcoord init --force"
        ) from None
    except (ValueError, OverflowError) as error:  # PyYAML does not check the numbers in its own syntax
        raise ConfigError(
            f"{source}:{line}: not YAML: an escape such as \\U00110000, or a number, out of bounds ({error}); write it without"
        ) from None
    if root is None:
        raise ConfigError(f"{source}:1: the file is empty; write a new one with: raftcoord init --force")
    return Value(root, Document(source, examples, os.environ if environ is None else environ), "the file")


class Value:
    """One value of the document, and what it is called in an error (``what``)."""

    def __init__(self, node: yaml.Node, document: Document, what: str, line: int | None = None) -> None:
        self._node = node
        self._document = document
        self._what = what
        self._line = node.start_mark.line + 1 if line is None else line

    @property
    def place(self) -> str:
        """File and line."""
        return f"{self._document.source}:{self._line}"

    def error(self, message: str) -> ConfigError:
        """A ConfigError that starts with file and line."""
        return ConfigError(f"{self.place}: {message}")

    def mapping(self, required: Collection[str], optional: Collection[str] = ()) -> dict[str, Value]:
        """The values by key. Every required key, no unknown one, none twice."""
        if not isinstance(self._node, yaml.MappingNode):
            raise self.error(
                f"{self._what} must be keys and values, and is {self._written()}; write {self._example(required)}"
            )
        known = [*required, *optional]
        values: dict[str, Value] = {}
        for key, value in self._pairs(self._node, known):
            if key in values:
                raise value.error(f"{key!r} is given twice in {self._what}; keep one of the two")
            values[key] = value
        for key in required:
            if key not in values:
                raise self.error(f"{self._what} lacks the key {key!r}; write {self._example([key])}")
        return values

    def _pairs(self, node: yaml.MappingNode, known: list[str]) -> Iterator[tuple[str, Value]]:
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "a key that is not text"
            value = Value(value_node, self._document, _shown(key), key_node.start_mark.line + 1)
            if key not in known:
                close = difflib.get_close_matches(key, known, 1)
                advice = f"did you mean {close[0]!r}?" if close else "the keys here are " + ", ".join(known)
                raise value.error(f"unknown key {_shown(key)} in {self._what}; {advice}")
            yield key, value

    def sequence(self, what: str) -> list[Value]:
        """The items of a list, each called ``what`` in errors, with its number."""
        if not isinstance(self._node, yaml.SequenceNode):
            raise self.error(
                f"{self._what} must be a list, and is {self._written()}; write one item per line, each after '- '"
            )
        return [Value(item, self._document, f"{what} {number}") for number, item in enumerate(self._node.value, 1)]

    def text(self, example: str = "") -> str:
        """A non-empty string. ``example``: what to write, if no other text than one of its kind would do."""
        return self._checked_text(self._scalar("str", "text"), example)

    def text_as_written(self) -> str:
        """The same with its variables as they stand in the file."""
        return self._checked_text(self._raw("str", "text"), "")

    def _checked_text(self, scalar: str | None, example: str) -> str:
        if scalar is None:
            written = self._written()
            if written == "nothing":
                raise self.error(f"{self._what} has no value; write it after the colon")
            instead = f"write it like {example}" if example else "if that is meant, put it in quotes"
            raise self.error(f"{self._what} must be text, and is {written}; {instead}")
        if not scalar:
            raise self.error(f"{self._what} is empty; write it after the colon")
        if not scalar.isprintable():
            raise self.error(f"{self._what} holds a control character; write it without")
        return scalar

    def integer(self, least: int, most: int, unit: str) -> int:
        """An integer in decimal digits, ``least`` to ``most``."""
        return int(self._in_range(_INTEGER, "an integer", least, most, unit))

    def number(self, least: float, most: float, unit: str) -> float:
        """A decimal number, ``least`` to ``most``."""
        return float(self._in_range(_NUMBER, "a number", least, most, unit))

    def boolean(self) -> bool:
        """``true`` or ``false``, in these words."""
        scalar = self._scalar("bool", "boolean")
        if scalar not in ("true", "false"):
            raise self.error(f"{self._what} must be true or false, and is {self._written()}")
        return scalar == "true"

    def _in_range(self, pattern: re.Pattern[str], kind: str, least: float, most: float, unit: str) -> str:
        node = self._node
        plain = isinstance(node, yaml.ScalarNode) and (node.style is None or holds_variable(node.value))
        written = str(node.value) if plain else ""
        value = self._expanded(written)
        if pattern.fullmatch(value) is None or not least <= float(value) <= most:
            raise self.error(
                f"{self._what} must be {kind} of {unit} from {least:g} to {most:g}, and is {self._written()}"
            )
        return value

    def _scalar(self, tag: str, kind: str) -> str | None:
        raw = self._raw(tag, kind)
        return None if raw is None else self._expanded(raw)

    def _raw(self, tag: str, kind: str) -> str | None:
        node = self._node
        if not isinstance(node, yaml.ScalarNode):
            raise self.error(f"{self._what} must be {kind}, and is {self._written()}; write one value on that line")
        fits = node.tag == _TAG + tag or holds_variable(
            node.value
        )  # what a variable holds is of the kind that is asked for
        return str(node.value) if fits else None

    def _expanded(self, written: str) -> str:
        try:
            return expand(written, self._document.environ)
        except ConfigError as error:
            raise self.error(f"{self._what}: {error}") from None

    def _written(self) -> str:
        match self._node:
            case yaml.MappingNode():
                return "keys and values"
            case yaml.SequenceNode():
                return "a list"
            case node if node.tag == _TAG + "null":
                return "nothing"
            case node:
                return _shown(node.value)

    def _example(self, keys: Collection[str]) -> str:
        return ", ".join(self._document.examples.get(key, f"{key}: ...") for key in keys)


def _shown(written: str) -> str:
    """A value of the file in an error: of a URL, which may hold a password, only what comes before it."""
    before, separator, _ = written.partition("://")
    if separator:
        written = f"{before}://..."
    return repr(written if len(written) <= 40 else written[:37] + "...")
