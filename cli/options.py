"""The options that commands share, and how a command speaks: text for people, JSON for programs."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from raftcoord.config import Config

Function = TypeVar("Function", bound=Callable[..., Any])

_WIDTH_WITHOUT_TERMINAL = 10_000
"""Columns of what goes into a file or a pipe: a line that is wrapped there cannot be found by grep."""


class Number(click.FloatRange):
    """A number within bounds. nan compares with none, and so would be within any; inf is no time and no rate."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As a float."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a number that can be used", param, ctx)
        return number


class Output:
    """Where a command's results go. ``as_json``: one JSON object on stdout, and nothing else."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def result(self, value: dict[str, Any], text: str | Callable[[], RenderableType]) -> None:
        """The command's result: ``value`` for programs; for people ``text``, or what it makes (a table, say)."""
        if self.as_json:
            click.echo(json.dumps(value))
        elif isinstance(text, str):
            click.echo(text)
        else:
            _print(text())

    def line(self, value: dict[str, Any], text: str) -> None:
        """One of many results that come in the course of time: a line of text, or of JSON."""
        click.echo(json.dumps(value) if self.as_json else text)

    def progress(self, text: str) -> None:
        """A line on the way to the result. Programs do not see it."""
        if not self.as_json:
            click.echo(text)


def console() -> Console:
    """stdout as rich sees it: no colour without a terminal or with NO_COLOR."""
    from rich.console import Console

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDTH_WITHOUT_TERMINAL
    return Console(highlight=False, width=width)


def _print(shown: RenderableType) -> None:
    screen = console()
    if screen.is_terminal:
        screen.print(shown)
        return
    with screen.capture() as captured:
        screen.print(shown)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _load(ctx: click.Context, parameter: click.Parameter, value: Path) -> Config:
    from raftcoord.config import Config

    return Config.load(value)


def _output(ctx: click.Context, parameter: click.Parameter, value: str | None) -> Output:
    return Output((value or ctx.find_root().params.get("output")) == "json")


def with_config(function: Function) -> Function:
    """Add ``-c``; the function gets ``config``, read and checked."""
    return click.option(
        "-c",
        "--config",
        type=click.Path(path_type=Path),
        default=Path("cluster.yaml"),
        show_default=True,
        envvar="RAFTCOORD_CONFIG",
        show_envvar=True,
        callback=_load,
        help="The file that describes the cluster.",
    )(function)


def complete_node(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """For the shell: the nodes of cluster.yaml."""
    config: Config | None = ctx.params.get("config")
    return [] if config is None else [node.name for node in config.nodes if node.name.startswith(incomplete)]


def complete_resource(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """For the shell: the resources of cluster.yaml."""
    config: Config | None = ctx.params.get("config")
    return [] if config is None else [each.name for each in config.resources if each.name.startswith(incomplete)]


def with_output(function: Function) -> Function:
    """Add ``-o``; the function gets ``output``."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["text", "json"]),
        callback=_output,
        help="text for people, json for programs. [default: text]",
    )(function)


def when(at_ms: int) -> str:
    """A time of the ledger, for people."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"


def counted(number: int, one: str, many: str = "") -> str:
    """``1 node``, ``3 nodes``."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def confirm(question: str, yes: bool) -> None:
    """Ask before what cannot be taken back. ``yes``: it was answered on the command line."""
    from raftcoord.errors import LocalProtocolError

    if yes:
        return
    if not sys.stdin.isatty():
        raise LocalProtocolError(
            f"standard input is no terminal, so nobody can confirm this: {question} To confirm it, add -y"
        )
    click.confirm(question, abort=True, err=True)
