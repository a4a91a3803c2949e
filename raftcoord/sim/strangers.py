"""Somebody who reaches the ports and does not keep the rules: garbage, pickles, administrative commands, frames cut off.

Whatever a stranger sends, the node it visits goes on, nobody else notices, and nothing is carried out. Some strangers know what a
node would say of itself in a hello, and go on from there: they claim terms that no election reaches, and follow the log with
entries that nobody could apply. What a node that lies well could do (votes, believable entries) is not tried: Raft cannot
survive liars.
"""

from __future__ import annotations

import asyncio
import random
import struct
from contextlib import suppress
from typing import Any, Final

import msgpack

from raftcoord import limits
from raftcoord.consensus.engine import NUMBER_MAX
from raftcoord.consensus.link_ends import ROLE
from raftcoord.core.commands import FORMAT
from raftcoord.errors import RaftcoordError
from raftcoord.rpc import dial
from raftcoord.rpc.connection import Connection
from raftcoord.sim.world import World
from raftcoord.types import NodeName

executed: Final[list[str]] = []
"""What a stranger's pickle did. It must stay empty."""

PICKLE: Final = b"craftcoord.sim.strangers\nnote\n(Vloaded\ntR."
"""Unpickled (protocol 0), it calls ``note``."""

_REGULAR: Final = b"\x00"
"""The first byte of an entry that carries commands, as PySyncObj writes it."""

UNKNOWN_COMMAND: Final = 99
"""A kind of command that no release writes."""

_BEFORE_LEAVING_S: Final = 0.1

_LIE_MS: Final = 172_800_000
"""How far ahead of the member that it pretends to be a stranger's clock may be: two days."""


def note(what: str) -> bytes:
    """Somebody has unpickled what a stranger sent."""
    executed.append(what)
    return b""


class _Deaf:
    """The stranger's end of its connection: it listens to nothing."""

    def on_open(self, conn: Connection) -> None:
        """Nothing."""

    def on_hello(self, conn: Connection, role: str, details: dict[str, Any]) -> dict[str, Any]:
        """Nothing."""
        return {}

    def on_request(self, conn: Connection, request_id: int, method: str, params: list[Any]) -> None:
        """Nothing."""

    def on_notify(self, conn: Connection, method: str, params: list[Any]) -> None:
        """Nothing."""

    def on_closed(self, conn: Connection, reason: str) -> None:
        """Nothing."""


def _entry(*commands: Any) -> bytes:
    return bytes(msgpack.packb([FORMAT, 1, 7, 1, list(commands)]))


_BEYOND: Final = (
    _entry([1, b"short", 1, [], "", "", 0]),
    _entry([9, "a", "1a" * 16, "", "", limits.TIME_MS_MAX + 1]),
    _entry([10, [[bytes(16), ["b"] * (limits.BRANCHES_MAX + 1)]], "ops", "gone", 0]),
    _entry([11, 1, 2, "ops", 0]),
    _entry([12, [], "ops", -1]),
)
"""Commands of the kinds that can be told apart from good ones by a field alone."""


def _wrong_numbers(rng: random.Random, term: int, last: int, last_term: int) -> Any:
    """Well-formed messages of a peer whose numbers cannot be: one that is believed could not be taken back."""
    later = term + 5  # no entry of that term is in any log
    bad = rng.choice(
        (
            _REGULAR + _entry([UNKNOWN_COMMAND, b"x"]),
            _REGULAR + _entry([3, (1 << 48) - 1]),  # a horizon beyond every clock
            _REGULAR + _BEYOND[last % len(_BEYOND)],
            _REGULAR + PICKLE,
            b"\x07" + _entry(),
        )
    )
    return rng.choice(
        (
            [[1, later, last + 1, last, last_term, [[bad, last + 1, later]]]],
            [[1, NUMBER_MAX, last, last, last_term, []]],
            [[2, NUMBER_MAX, 1, False, True]],
            [[3, NUMBER_MAX, last, last_term]],
            [[4, NUMBER_MAX]],
            [[5, NUMBER_MAX, last, last_term]],
            [[6, NUMBER_MAX, NUMBER_MAX, True]],
        )
    )


def _rows(rng: random.Random) -> Any:
    """What no node would send another."""
    return rng.choice(
        (
            [[7, [PICKLE]]],  # a proposal that is a pickle
            [[7, [_entry([UNKNOWN_COMMAND, b"x"])]]],  # a command of a kind that nobody knows
            [[7, [_entry([1, b"short", 1, [], "", "", 0])]]],  # a decision with a txid that is none
            [[7, [b"\x95\x01"]]],  # cut off
            [["add", "127.0.0.9:1"]],  # PySyncObj's administrative commands
            [["remove", "n1"]],
            [["set_version", 1]],
            [["transfer", None]],
            [["timeout_now", 1]],
            [["status"]],
            [[1, 1, PICKLE, 0, 0, []]],
            [[4, PICKLE]],
            [[1, 1, 0, 0, 0, [[PICKLE, 1, 1]] * 2]],
            PICKLE,
        )
    )


def visit(world: World, name: str, value: float) -> None:
    """A stranger comes to node ``name``."""
    rng = random.Random(f"{world.seed}/stranger {value}")
    process, _ = world.client("stranger")
    process.spawn(_visit(world, name, rng), "visit")


async def _visit(world: World, name: str, rng: random.Random) -> None:
    node = world.config.node(name)
    with suppress(RaftcoordError, OSError):
        if rng.random() < 0.6:
            await _as_a_peer(world, name, rng)
        else:
            await _as_nobody(rng.choice((node.peer.port, node.client.port)), node.peer.host, rng)


async def _as_nobody(port: int, host: str, rng: random.Random) -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, host, port)
    transport.write(
        rng.choice(
            (
                rng.randbytes(rng.randrange(1, 200)),
                PICKLE,
                struct.pack(">I", limits.PEER_FRAME_BYTES_MAX + 1) + b"x",
                struct.pack(">I", 40) + msgpack.packb([0, 1, "hello", []]),
                struct.pack(">I", 3) + b"\xc1\xc1\xc1",
                msgpack.packb([0, 1, "add", ["n9"]]),
            )
        )
    )
    await asyncio.sleep(_BEFORE_LEAVING_S)
    transport.abort()


async def _as_a_peer(world: World, name: str, rng: random.Random) -> None:
    others = [other for other in world.nodes if other != name and world.machines[other].consensus is not None]
    machine = world.machines[rng.choice(others)] if others else None
    consensus = None if machine is None else machine.consensus
    if machine is None or consensus is None:
        return
    node = world.config.node(name)
    conn, _ = await dial.connect(
        node.peer.host,
        node.peer.port,
        _Deaf(),
        role=ROLE,
        details=consensus.introduce_to(NodeName(name)),
        max_frame_bytes=limits.PEER_FRAME_BYTES_MAX,
        label="stranger",
        timeout=1.0,
    )
    for _ in range(rng.randint(1, 3)):  # the first that is refused ends it
        wall_ms = world.env(machine).wall_ms()
        rows = (
            _rows(rng)
            if rng.random() < 0.5
            else _wrong_numbers(rng, consensus.term, consensus.applied_index, consensus.applied_term)
        )
        clock = rng.choice((wall_ms, wall_ms + _LIE_MS, 0, "now"))  # worth nothing with messages that are refused
        conn.notify("raft", [rows, clock])
    await asyncio.sleep(_BEFORE_LEAVING_S)
    conn.close("enough")
