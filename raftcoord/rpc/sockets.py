"""What is asked of the socket under a connection: the other end's address, and to notice when its machine is gone."""

from __future__ import annotations

import asyncio
import socket


def peername(transport: asyncio.Transport) -> str:
    """The address of the other end, as people write it."""
    peer = transport.get_extra_info("peername")
    if isinstance(peer, tuple) and len(peer) >= 2:
        return f"[{peer[0]}]:{peer[1]}" if ":" in str(peer[0]) else f"{peer[0]}:{peer[1]}"
    return str(peer or "?")


def keep_alive(transport: asyncio.Transport, silent_ms: int) -> None:
    """Let the kernel end the connection when the other machine has acknowledged nothing for about ``silent_ms``.

    What is sent and not acknowledged ends it then, and so does silence: a quiet connection is probed, a busy one needs no probe.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or not hasattr(socket, "TCP_KEEPIDLE"):
        return
    probe_s = max(1, silent_ms // 3000)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, probe_s), (socket.TCP_KEEPINTVL, probe_s), (socket.TCP_KEEPCNT, 3)):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, silent_ms)
