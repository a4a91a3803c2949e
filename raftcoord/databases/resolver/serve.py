"""The resolver's process: a thread for each resource, one client for all.

Owed: one line when it serves; SIGTERM and SIGINT end it cleanly, and so does kill -9: nothing that matters is here alone. A
resource that hangs holds up no other. Never: an end because a database or the nodes cannot be reached.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from raftcoord import lifeline, limits, logs, private
from raftcoord.client.synchronous import Client
from raftcoord.config import Config
from raftcoord.databases.resolver.claiming import elsewhere
from raftcoord.databases.resolver.resource import Resource
from raftcoord.databases.resolver.sweep_report import SweepReport
from raftcoord.errors import ConfigError
from raftcoord.limits import ResolverBounds

log: Final = logging.getLogger("raftcoord.resolver")

_END_S: Final = 5.0
"""How long the looks that are running may take to end (s)."""

_ONCE_GRACE_S: Final = 5.0


class Looked(NamedTuple):
    """What ``once`` found at one resource: ``seen``, or None and ``trouble``."""

    name: str
    where: str
    seen: SweepReport | None
    trouble: str


def serve(config: Config, on_ready: Callable[[str], None], *, safety_s: float | None = None) -> None:
    """Look after every resource of ``config`` until SIGTERM or SIGINT; blocks. ``on_ready`` gets the line that says so.

    Logs to stderr. Raises ConfigError if there are no resources, or one cannot be used.
    """
    lifeline.watch()
    os.umask(private.UMASK)
    logs.to_stderr("%(asctime)s %(levelname)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    signal.signal(signal.SIGHUP, lambda *_: logs.on_hangup(stop.set))
    with Client.from_config(config, name="resolver") as client:
        resources = _resources(config, client, safety_s)
        threads = [
            threading.Thread(target=resource.run, args=(stop,), name=resource.name, daemon=True)
            for resource in resources
        ]
        for thread in threads:
            thread.start()
        on_ready(f"raftcoord resolver {config.cluster} ready: {', '.join(resource.name for resource in resources)}")
        stop.wait()
        log.info("asked to stop")
        until = time.monotonic() + _END_S
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))


def once(config: Config, *, safety_s: float | None = None) -> list[Looked]:
    """Finish what can be finished now at every resource, and tell what was found. Blocks for about ten seconds at most.

    Logs nothing: all is in what it returns. Raises ConfigError if there are no resources, or one cannot be used.
    """
    logging.getLogger("raftcoord").addHandler(logging.NullHandler())
    with Client.from_config(config, name="resolver") as client:
        resources = _resources(config, client, safety_s)
        patience_s = (ResolverBounds.damage_ms / 1000) + _safety_s(safety_s) + _ONCE_GRACE_S
        deadline = time.monotonic() + patience_s
        found: dict[str, SweepReport | None] = {}

        def look(resource: Resource) -> None:
            found[resource.name] = resource.once(deadline)
            resource.close()

        threads = [threading.Thread(target=look, args=(resource,), daemon=True) for resource in resources]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline + _ONCE_GRACE_S - time.monotonic()))
        late = "it did not answer in time"
        return [Looked(r.name, r.where, found.get(r.name), r.trouble if r.name in found else late) for r in resources]


def _resources(config: Config, client: Client, safety_s: float | None) -> list[Resource]:
    if not config.resources:
        raise ConfigError(
            f"{config.path or 'cluster.yaml'} names no resources, so there is nothing to resolve; write them under 'resources:'"
        )
    named = frozenset(resource.name for resource in config.resources)
    return [
        Resource(resource, named, client, safety_s=_safety_s(safety_s), elsewhere=elsewhere(config, resource))
        for resource in config.resources
    ]


def _safety_s(given: float | None) -> float:
    return limits.RESOLVER_SAFETY_MS / 1000 if given is None else given
