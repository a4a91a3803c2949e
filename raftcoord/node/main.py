"""The process of one node: ``python -m raftcoord.node CLUSTER_YAML NAME``.

Owed: one line on stdout when it serves; SIGTERM and SIGINT stop it cleanly (exit 0); what it cannot run with is one sentence on
stderr and exit 2 (cluster.yaml, a directory or a port is wrong) or 1, never a traceback. Never: going on after a halt.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Final, NoReturn

from raftcoord import lifeline, logs, private
from raftcoord.config import Config, NodeConfig
from raftcoord.consensus.consensus import Consensus
from raftcoord.env import Env
from raftcoord.errors import ConfigError, RaftcoordError
from raftcoord.node.node import Node
from raftcoord.processes.progress import Progress
from raftcoord.storage.node_db import NodeDb

log: Final = logging.getLogger("raftcoord.node")

USAGE: Final = "usage: python -m raftcoord.node CLUSTER_YAML NAME"

OPEN_TO_ALL: Final = (
    "without TLS everybody who reaches it is trusted: let a firewall or a private network keep everybody else out"
)

_SWITCH_S: Final = 0.0005
"""How long a busy thread keeps the interpreter (s). With Python's 5 ms the thread that writes node.db waits ten times as long
for its turn as a sync takes."""

_GC_THRESHOLD: Final = 50_000
"""Allocations between two collections of the youngest generation. A node keeps hundreds of thousands of decisions, makes few
cycles, and every collection of the older generations would walk all of them and hold up each answer that waits."""


def main(argv: list[str]) -> int:
    """Run the node until it is told to stop. The exit code: 0 stopped, 1 could not run, 2 wrong arguments or ConfigError."""
    if len(argv) != 2:
        print(USAGE, file=sys.stderr)
        return 2
    try:
        run(Config.load(argv[0]), argv[1], lambda ready: print(ready, flush=True))
    except RaftcoordError as error:
        print(f"node {argv[1]}: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:  # while it was reading: nothing is half done
        return 130
    return 0


def run(config: Config, name: str, on_ready: Callable[[str], None]) -> None:
    """Run node ``name`` in this process until SIGTERM or SIGINT; blocks. ``on_ready`` gets the line that says that it serves.

    Logs to stderr. Raises the RaftcoordError that says what it cannot run with; a halt ends the process.
    """
    node = config.node(name)
    lifeline.watch()
    os.umask(private.UMASK)
    logs.to_stderr(f"%(asctime)s {name} %(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGHUP, lambda *_: logs.on_hangup(_die))
    raise_open_files()
    warn_of_strangers(node)
    with Progress() as progress:
        db = NodeDb.open(node.data_dir, cluster_name=config.cluster, node=node.name, reading=progress.reading)
        progress.reading.begin("the newest decisions into memory")

        def ready(line: str) -> None:
            progress.stop()
            on_ready(line)

        serving = _serve(config, node.name, db, ready)
        try:
            import uvloop
        except ImportError:  # the extra "fast" is not installed
            asyncio.run(serving)
        else:
            uvloop.run(serving)


def _die() -> None:
    """Before there is a loop that ends cleanly: nothing is half done that the next start could not finish."""
    signal.raise_signal(signal.SIGTERM)


def warn_of_strangers(node: NodeConfig) -> None:
    """Log what can be reached from other machines, because there is no TLS."""
    for what, address in (("peer", node.peer), ("client", node.client)):
        if not address.loopback:
            log.warning("its %s port %s is open to other machines (allow_remote), and %s", what, address, OPEN_TO_ALL)


def raise_open_files() -> None:
    """As many open files as the system lets us have: each client is one, and the usual soft limit is 1024, or 256 on macOS."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):  # macOS says "unlimited" and refuses it
        log.info("at most %d files can be open at a time: raise it with `ulimit -n`", soft)


async def _serve(config: Config, name: str, db: NodeDb, on_ready: Callable[[str], None]) -> None:
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    loop.add_signal_handler(signal.SIGHUP, logs.on_hangup, told.set)
    env = Env.real()

    def halt(error: Exception) -> NoReturn:
        _halt(name, error)

    consensus = Consensus(config, config.node(name).name, db, env, on_halt=halt)
    node = Node(config, name, consensus, db, env, on_halt=halt)
    await node.start()
    gc.collect()
    gc.freeze()  # what was loaded from node.db stays: no collection need walk it
    gc.set_threshold(_GC_THRESHOLD, 20, 50)
    sys.setswitchinterval(_SWITCH_S)
    on_ready(f"raftcoord node {name} ready: peers {node.config.peer}, clients {node.config.client}")
    await told.wait()
    log.info("asked to stop")
    await node.stop()
    db.close()


def _halt(name: str, error: Exception) -> NoReturn:
    """End here and now. A clean end would send what still waits, and that is no longer to be believed."""
    print(f"node {name} halted: {error}", file=sys.stderr, flush=True)
    os._exit(1)
