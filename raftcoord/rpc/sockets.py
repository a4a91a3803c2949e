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


def keep_alive(transport: asyncio.Transport) -> None:
    """Let the kernel find out, within about 25 s, that the other machine is gone without a word."""
    sock = transport.get_extra_info("socket")
    if sock is None or not hasattr(socket, "TCP_KEEPIDLE"):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3)):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
