"""A node as a process, and strangers at its ports: its memory, its log, and the rate of another client while they try.

The bounds are far above what is measured (a few MB, ten lines) and far below what it was without them (hundreds of MB, thousands
of lines, no decision for a minute).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack
import pytest

from raftcoord import AsyncClient, Verdict
from raftcoord.types import TxId

from .test_process import free_port, write_config

MEMORY_MB_MAX = 150
LOG_LINES_MAX = 60
PAUSE_S_MAX = 2.0


def framed(message: object) -> bytes:
    body = msgpack.packb(message, use_bin_type=True)
    return len(body).to_bytes(4, "big") + bytes(body)


def bodied(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


HELLO = framed([0, 1, "hello", [1, "client", {"name": "stranger"}]])
EMPTY_MAPS = b"\xdc\xff\xff" + b"\x80" * 0xFFFF


class Node:
    """One node that is a whole cluster."""

    def __init__(self, config: Path, peer: int) -> None:
        self.peer, self.client = peer, peer + 1
        self.log = config.parent / "n1.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "raftcoord.node", str(config), "n1"], stdout=subprocess.PIPE, stderr=log
            )
        assert self.process.stdout is not None
        assert b"ready" in self.process.stdout.readline()

    def memory_mb(self) -> int:
        """At most so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) // 1024

    def log_lines(self) -> int:
        return len(self.log.read_bytes().splitlines())

    def dial(self, port: int, hello: bool = True) -> socket.socket:
        stranger = socket.create_connection(("127.0.0.1", port), timeout=30)
        if hello:
            stranger.sendall(HELLO)
            assert stranger.recv(4096)
        return stranger


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    peer = free_port()
    node = Node(write_config(tmp_path, peer, peer + 1), peer)
    yield node
    node.process.terminate()
    assert node.process.wait(10) == 0


def sent(node: Node, port: int, hello: bool, data: bytes) -> None:
    """Say it, and wait for the end."""
    with node.dial(port, hello) as stranger, contextlib.suppress(OSError):
        stranger.sendall(data)
        while stranger.recv(1 << 20):
            pass


def small_frames_that_ask_for_much(node: Node) -> None:
    for _ in range(20):
        sent(node, node.client, True, bodied(b"\x93\x02\xa1m\x91" + EMPTY_MAPS * 31))
        sent(node, node.peer, False, bodied(b"\x93\x02\xa1m\x91" + EMPTY_MAPS * 120))
        sent(node, node.client, False, bodied(b"\xdc\xff\xff" * 5_000))


def many_listings_at_once(node: Node) -> None:
    with node.dial(node.client) as stranger:
        stranger.sendall(b"".join(framed([0, number, "txns", [{"limit": 1000}]]) for number in range(2, 3002)))
        answers, held = 0, b""
        while answers < 3000:
            held += stranger.recv(1 << 20)
            while len(held) >= 4 and len(held) >= 4 + int.from_bytes(held[:4], "big"):
                held = held[4 + int.from_bytes(held[:4], "big") :]
                answers += 1


def listings_that_nobody_reads(node: Node) -> None:
    strangers = [node.dial(node.client) for _ in range(20)]
    for stranger in strangers:
        stranger.sendall(b"".join(framed([0, number, "txns", [{"limit": 1000}]]) for number in range(2, 1002)))
    time.sleep(1)
    for stranger in strangers:
        stranger.close()


def half_frames(node: Node) -> None:
    strangers = []
    for _ in range(150):
        with contextlib.suppress(OSError):
            stranger = node.dial(node.client)
            strangers.append(stranger)
            stranger.sendall((2 << 20).to_bytes(4, "big") + bytes((2 << 20) - 10))
    time.sleep(1)  # so long the node has what was sent
    for stranger in strangers:
        stranger.close()


def bad_frames(node: Node) -> None:
    for _ in range(1_000):
        sent(node, node.client, False, bodied(b"\xc1" * 5))


INPUTS = [
    small_frames_that_ask_for_much,
    many_listings_at_once,
    listings_that_nobody_reads,
    half_frames,
    bad_frames,
]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("hostile", INPUTS, ids=lambda each: each.__name__)
def test_a_stranger_takes_little_memory_few_lines_and_nobody_s_time(
    node: Node, hostile: Callable[[Node], None]
) -> None:
    async def decide() -> float:
        """Decide while the stranger is at work; the longest pause (s)."""
        async with AsyncClient.from_addresses([f"127.0.0.1:{node.client}"]) as client:
            for _ in range(20):
                await asyncio.gather(*[client.decide(TxId.new(), Verdict.ABORT) for _ in range(60)])
            stranger = threading.Thread(target=hostile, args=[node])
            stranger.start()
            longest = 0.0
            while stranger.is_alive():
                began = time.monotonic()
                await client.decide(TxId.new(), Verdict.ABORT, timeout=10)
                longest = max(longest, time.monotonic() - began)
            return longest

    before = node.log_lines()
    assert asyncio.run(decide()) < PAUSE_S_MAX
    assert node.memory_mb() < MEMORY_MB_MAX
    assert node.log_lines() - before < LOG_LINES_MAX
