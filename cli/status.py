"""raftcoord status and top: how the nodes are, once or live."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .errors import UNAVAILABLE
from .options import Number, Output, console, with_config, with_output

if TYPE_CHECKING:
    from raftcoord.config import Config

    from .view import View


@click.command()
@with_config
@with_output
def status(config: Config, output: Output) -> int:
    """How each node is, or why it cannot be reached.

    Its role, its term, what it has applied, and which participants are connected.

    Exit code 5 if there is no leader.
    """
    import asyncio

    from raftcoord.client.asynchronous import AsyncClient

    from .view import look

    async def ask() -> View:
        async with AsyncClient.from_config(config, name="status") as client:
            return await look(client, config)

    view = asyncio.run(ask())
    output.result(view.to_json(), view.shown)
    return 0 if view.leader else UNAVAILABLE


@click.command()
@click.option("--every", type=Number(0.1, 60), default=0.5, show_default=True, help="Seconds between two looks.")
@click.option("-n", "--count", type=click.IntRange(1), help="Stop after this many looks; without it, at Ctrl-C.")
@with_config
@with_output
def top(every: float, count: int | None, config: Config, output: Output) -> None:
    """The same as status, live, until Ctrl-C.

    Without a terminal each look is printed below the last one; with -o json it is one line.
    """
    import asyncio

    from raftcoord.client.asynchronous import AsyncClient

    from .view import look

    async def watch() -> None:
        shown = _Live(output)
        with shown:
            async with AsyncClient.from_config(config, name="top") as client:
                looks = 0
                while True:
                    view = await look(client, config)
                    shown.show(view)
                    looks += 1
                    if looks == count:
                        return
                    await asyncio.sleep(every)

    asyncio.run(watch())


class _Live:
    """The screen of ``top``; where there is no screen, one look below the other, each as soon as it is there."""

    def __init__(self, output: Output) -> None:
        from rich.live import Live

        self._output = output
        screen = console()
        self._live = Live(console=screen, auto_refresh=False) if screen.is_terminal and not output.as_json else None

    def __enter__(self) -> None:
        if self._live is not None:
            self._live.start()

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, view: View) -> None:
        if self._live is None:
            self._output.result(view.to_json(), view.shown)
        else:
            self._live.update(view.shown(), refresh=True)
