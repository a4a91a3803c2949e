"""One resource over time: connected, looked at, connected again.

Owed: a database that cannot be reached is tried again, at pauses of half a second at most, and then looked at at once; each
change of how it stands is one line in the log. No trouble ends this: a bug is logged, and the next look begins anew. Never: a
password in the log.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, Final, Protocol

from raftcoord import env, limits
from raftcoord.api.answers import NodeStatus
from raftcoord.databases import drivers
from raftcoord.databases.owners import Owner
from raftcoord.databases.resolver.claiming import claim
from raftcoord.databases.resolver.rules import Paces
from raftcoord.databases.resolver.sweep import ResolverLedger, Sweep
from raftcoord.databases.resolver.sweep_report import BranchLeft, SweepReport, by_reason
from raftcoord.databases.resource_config import ResourceConfig
from raftcoord.databases.session import DriverSession
from raftcoord.databases.steps import ConnectionLost, LoginRefused, SqlError
from raftcoord.errors import ConfigError, RaftcoordError, Unavailable
from raftcoord.limits import ResolverBounds

log: Final = logging.getLogger("raftcoord.resolver")


_CHANCE: Final = random.SystemRandom().random


class ResolverNodes(ResolverLedger, Protocol):
    """The ledger, and what a node says of itself: ``client.synchronous.Client`` keeps it."""

    def node_info(self) -> NodeStatus:
        """See AsyncClient."""


class Resource:
    """The resource that ``config`` names. ``named``: the names of all resources; ``nodes``: shared by threads.

    ``elsewhere``: the names of those whose url leads to another place.

    ``connect``, ``now`` (s), ``chance`` (from 0 to 1) and ``wall_ms`` (Unix time): how a url is connected to, and where time and
    jitter come from.

    Use it from one thread at a time. Raises ConfigError if its URL cannot be used.
    """

    def __init__(
        self,
        config: ResourceConfig,
        named: frozenset[str],
        nodes: ResolverNodes,
        *,
        safety_s: float,
        elsewhere: frozenset[str] = frozenset(),
        connect: Callable[[str], DriverSession] = drivers.connect,
        now: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = _CHANCE,
        wall_ms: Callable[[], int] = env.wall_ms,
        bounds: ResolverBounds = ResolverBounds(),
    ) -> None:
        self.name = config.name
        self.where = config.shown()
        self.trouble = ""
        """Why it cannot be looked at now; "" if it can."""
        self._trouble_kind = ""
        self._config = config
        self._url = config.url()
        self._database = config.database()
        self._named = named
        self._elsewhere = elsewhere
        self._owner: Owner | None = None
        self._nodes = nodes
        self._safety_s = safety_s
        self._now = now
        self._connect = connect
        self._chance = chance
        self._wall_ms = wall_ms
        self._bounds: Final = bounds
        self._paces = Paces(bounds)
        self._session: DriverSession | None = None
        self._sweep: Sweep | None = None
        self._failures = 0
        self._told: dict[BranchLeft, bool] = {}
        self._forget_at = now() + bounds.forget_ms / 1000

    def run(self, stop: threading.Event) -> None:
        """Look again and again until ``stop``."""
        while not stop.is_set():
            stop.wait(self.step())
        self.close()

    def once(self, deadline: float) -> SweepReport | None:
        """Look until nothing of what the first look met waits any more, or ``deadline``; None if it cannot be looked at."""
        total = SweepReport()
        first: set[Any] | None = None
        while True:
            seen = self.look(thorough=True)
            if seen is None:
                return None if first is None else total
            total.add(seen)
            first = seen.waiting if first is None else first & seen.waiting
            if not first or self._now() >= deadline:
                return total
            time.sleep(min(seen.next_s, _ONCE_EVERY_S))

    def step(self) -> float:
        """Look once; the pause until the next look (s)."""
        seen = self.look()
        if seen is not None:
            self._failures = 0
            return max(_PAUSE_S_MIN, seen.next_s)
        doubled: float = limits.RESOLVER_BACKOFF_MS_MIN * 2 ** min(self._failures, 16)
        self._failures += 1
        return min(doubled, limits.RESOLVER_BACKOFF_MS_MAX) / 1000 * (0.5 + self._chance() / 2)

    def look(self, *, thorough: bool = False) -> SweepReport | None:
        """Connect if need be, and look once. None, and ``trouble`` says why, if that cannot be done."""
        try:
            seen = self._connected().look(thorough=thorough)
            self._tidy()
        except LoginRefused as error:
            self._lost(_LOGIN, str(error))
        except ConnectionLost as error:
            self._lost(_REACH, str(error))
        except SqlError as error:
            self._lost(_REFUSES, self._database.explained(error))
        except ConfigError as error:
            self._lost(_CONFIG, str(error))
        except RaftcoordError as error:
            self._in_trouble(_NODES, str(error))
        except Exception:
            shown = self._config.scrub(traceback.format_exc())
            log.error("%s: a bug in raftcoord or in the driver; connecting anew\n%s", self.name, shown)
            self._lost(_BUG, "see above")
        else:
            self._well(seen)
            return seen
        return None

    def close(self) -> None:
        """Hang up."""
        session, self._session, self._sweep = self._session, None, None
        if session is not None:
            session.close()

    def _connected(self) -> Sweep:
        if self._session is None:
            self._session = self._connect(self._url)
            self._sweep = None
            self._paces.hurry(self._now())
        if self._sweep is None:
            cluster = self._nodes.node_info()["cluster"]
            if not cluster:
                raise Unavailable("the cluster is not founded yet: a majority of them must be up")
            self._owner = Owner(cluster, self.name)
            self._claim()
            self._sweep = Sweep(
                self.name,
                self._named,
                self.where,
                self._session,
                self._nodes,
                cluster,
                self._paces,
                self._bounds,
                safety_s=self._safety_s,
                now=self._now,
                chance=self._chance,
            )
        return self._sweep

    def _claim(self) -> None:
        """See claiming.py. A user who may not write there leaves the marks without a name, as they were."""
        assert self._session is not None
        assert self._owner is not None
        try:
            found = claim(self._session, self._owner, self._elsewhere.__contains__)
        except SqlError as error:
            log.warning(
                "%s: its marks could not be named: %s", self.name, self._config.scrub(self._database.explained(error))
            )
        else:
            if found.marks and not found.named:
                log.info("%s (%s): its name is written into its marks", self.name, self.where)

    def _tidy(self) -> None:
        """Once in a while: forget what has ended, here and in the database."""
        now = self._now()
        if now < self._forget_at or self._sweep is None:
            return
        self._forget_at = now + self._bounds.forget_ms / 1000
        self._paces.forget(now - 2 * self._bounds.forget_ms / 1000)
        self._claim()
        try:
            self._sweep.forget_marks(self._horizon_ms(self._nodes.node_info()))
        except SqlError as error:
            log.warning(
                "%s: old marks could not be deleted: %s", self.name, self._config.scrub(self._database.explained(error))
            )

    def _horizon_ms(self, said: NodeStatus) -> int:
        """Before which marks may be deleted; 0: none.

        A horizon that lies later than the shortest retention allows was moved by a wrong clock. It may be lowered, or have been
        lowered without that node knowing it yet, and then transactions before it are decided.
        """
        if said["leader"] is None:
            return 0
        return min(said["horizon_ms"], min(said["wall_ms"], self._wall_ms()) - self._bounds.retention_ms_min)

    # -- how it stands --------------------------------------------------------------------------------------------

    def _lost(self, kind: str, why: str) -> None:
        self.close()
        self._in_trouble(kind, why)

    def _in_trouble(self, kind: str, why: str) -> None:
        self.trouble = self._config.scrub(f"{kind}: {why}")
        if kind != self._trouble_kind:
            log.warning("%s (%s): %s; it is tried again", self.name, self.where, self.trouble)
        self._trouble_kind = kind

    def _well(self, seen: SweepReport) -> None:
        if self.trouble:
            log.info("%s (%s): it is looked at again", self.name, self.where)
        self.trouble = self._trouble_kind = ""
        if text := seen.text():
            log.info("%s: %s", self.name, text)
        for line in by_reason(left for left in seen.left if left not in self._told):
            log.warning("%s: left alone: %s", self.name, self._config.scrub(line))
        self._told = dict.fromkeys([*seen.left, *self._told][: limits.ROWS_MAX], True)


_REACH: Final = "it cannot be reached"
_LOGIN: Final = "user, password or database of its url are wrong"
_REFUSES: Final = "it refuses to be looked at"
_CONFIG: Final = "it is not set up as cluster.yaml says"
_NODES: Final = "the nodes do not answer for it"
_BUG: Final = "a bug"
_PAUSE_S_MIN: Final = 0.02
_ONCE_EVERY_S: Final = 0.25
