"""A way to a database that can be cut without a word: what is sent into it then is acknowledged, and forwarded no more."""

from __future__ import annotations

import contextlib
import copy
import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace

from .banks import Bank, MariaDbBank, PostgreSqlBank


class Proxy:
    """Listens on ``port`` and forwards to ``upstream``, until ``silence``."""

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._sockets: list[socket.socket] = []
        self._silent = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def silence(self) -> None:
        """Forward nothing any more, either way; connections stay open."""
        self._silent.set()

    def close(self) -> None:
        for each in [self._listening, *self._sockets]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection(("127.0.0.1", self._upstream))
                self._sockets += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                if not self._silent.is_set():
                    sink.sendall(chunk)
            if not self._silent.is_set():
                sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def proxied(bank: Bank) -> Iterator[tuple[Bank, Proxy]]:
    """The same bank for whoever connects to it by the proxy."""
    assert isinstance(bank, (PostgreSqlBank, MariaDbBank))
    proxy = Proxy(bank.server.port)
    behind = copy.copy(bank)
    behind.server = SimpleNamespace(port=proxy.port)  # type: ignore[assignment]
    behind.url = bank.url.replace(f":{bank.server.port}/", f":{proxy.port}/")
    try:
        yield behind, proxy
    finally:
        proxy.close()


@contextlib.contextmanager
def mute() -> Iterator[int]:
    """The port of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]
