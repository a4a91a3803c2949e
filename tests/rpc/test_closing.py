"""A port that is closed while others dial it."""

from __future__ import annotations

import asyncio
import gc
import socket

import pytest

from raftcoord.rpc import server

from .ends import FRAME_BYTES_MAX, Recorder


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # asyncio forgets the socket that it has accepted
@pytest.mark.parametrize("passes", range(6))
def test_a_port_is_closed_also_when_somebody_comes_in_that_moment(passes: int) -> None:
    """In one of these passes the connection is accepted, and has no transport yet: asyncio never gives it one after the close."""

    async def test() -> None:
        port = await server.listen("127.0.0.1", 0, Recorder, max_frame_bytes=FRAME_BYTES_MAX, label="port")
        with socket.create_connection(("127.0.0.1", port.port)):
            for _ in range(passes):
                await asyncio.sleep(0)
            port.close()
            for _ in range(3):  # what was accepted comes now
                await asyncio.sleep(0)
            async with asyncio.timeout(5):
                await port.wait_closed()

    asyncio.run(test())
    gc.collect()
