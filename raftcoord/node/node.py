"""One node: the rooms, wired together.

Owed: after ``start`` both ports listen; after ``stop`` neither does, and nothing of this node runs. Never: a process; that is
main.py. A simulator runs many nodes in one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from raftcoord import __version__, limits
from raftcoord.api.answers import NodeStatus
from raftcoord.config import Config
from raftcoord.env import Env
from raftcoord.limits import NodeBounds
from raftcoord.node.admission import Admission
from raftcoord.node.agreement import Agreement
from raftcoord.node.alarms import Alarms
from raftcoord.node.completion import Completion
from raftcoord.node.delivery import Delivery
from raftcoord.node.desk import Desk
from raftcoord.node.listings import StoredDecisions
from raftcoord.node.port_rpc import ClientPort
from raftcoord.node.recovery import Recovery
from raftcoord.node.retirement import Founder, Retirement
from raftcoord.node.sessions import Sessions
from raftcoord.node.transactions import Transactions
from raftcoord.rpc.server import Server, listen


class Node:
    """The node ``name`` of ``config``. Made inside a running event loop.

    ``consensus`` is started and stopped here; ``stored`` lists its decisions. ``on_halt(error)``: called when the node met what
    it cannot handle safely. No reply and no message may leave it after that.
    """

    def __init__(
        self,
        config: Config,
        name: str,
        consensus: Agreement,
        stored: StoredDecisions,
        env: Env,
        *,
        on_halt: Callable[[Exception], None],
        bounds: NodeBounds = NodeBounds(),
    ) -> None:
        self.config = config.node(name)
        self._loop = asyncio.get_running_loop()
        self._born = self._loop.time()
        self._retention_ms = config.retention_ms
        self._server: Server | None = None
        self._alarms = Alarms()
        self.consensus = consensus
        self.events = consensus.events
        self.sessions = Sessions(resource.name for resource in config.resources)
        self.completion = Completion(self.consensus, self._alarms, bounds)
        self.delivery = Delivery(self.consensus, self.sessions, self.completion, self._alarms, env, bounds)
        self.transactions = Transactions(
            self.consensus, self.sessions, self.delivery, self._alarms, env, on_halt, bounds
        )
        self.recovery = Recovery(self.consensus, self.sessions, self.delivery, self._alarms, bounds)
        self.founding = Founder(self.consensus, self._alarms, env)
        self.retirement = Retirement(self.consensus, self._alarms, env, config.retention_ms, bounds)
        admission = Admission(self.consensus, self.sessions, self._alarms, env, bounds)
        names = {"node": self.config.name, "cluster_name": config.cluster}
        self.desk = Desk(
            self.consensus, stored, self.sessions, admission, self.transactions, env, bounds, about=self._about, **names
        )
        self._port = ClientPort(self.desk, self.consensus, self.sessions, admission, env, bounds, **names)

    @property
    def client_port(self) -> int:
        """Where the client port listens, once started; it may have been given as 0."""
        return self.config.client.port if self._server is None else self._server.port

    async def start(self) -> None:
        """Listen on both ports. ConfigError if one cannot be had; then nothing listens."""
        client = self.config.client
        self._server = await listen(
            client.host,
            client.port,
            lambda: self._port,
            max_frame_bytes=limits.CLIENT_FRAME_BYTES_MAX,
            label=f"{self.config.name} clients",
        )
        try:
            await self.consensus.start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Refuse new work, send what is answered, leave the cluster."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        await self.consensus.stop()
        self._alarms.close()

    def _about(self) -> NodeStatus:
        return {
            "uptime_s": round(self._loop.time() - self._born, 1),
            "version": __version__,
            "pid": os.getpid(),
            "retention_ms": self._retention_ms,
        }
