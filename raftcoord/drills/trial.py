"""One trial of a cluster: load on a stage, faults, then quiet, then the audit. The demo, the drills and the failover benchmark
are trials that differ in their load and in their faults.

It owes a verdict that rests on the audit, and a violation for a cluster that does not come back. It never passes a trial in
which nothing was committed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final

from raftcoord.drills.audit import AuditViolation, audit
from raftcoord.drills.client_history import History
from raftcoord.drills.faults import Fault, Leader, Unkept
from raftcoord.drills.load import Load, wait_until
from raftcoord.drills.orders import Opening
from raftcoord.drills.play import reported
from raftcoord.drills.props import StagePlan
from raftcoord.drills.report import (
    DrillReport,
    Event,
    EventKind,
    FaultRecord,
    OnEvent,
    client_figures,
    failover_figures,
)
from raftcoord.drills.stage import Stage
from raftcoord.errors import RaftcoordError, Unavailable

BACK_TIMEOUT_S: Final = 20.0
"""How long after a fault has healed a cluster may take to commit again (seconds); more is a violation."""

QUIET_TIMEOUT_S: Final = 40.0
"""How long after the last order everything may take to be settled (seconds); what is not is found by the audit."""

_PROGRESS_S: Final = 0.5


class Trial:
    """``broken`` gathers violations that are not the audit's; ``faults`` what was done to the cluster.

    ``back_s``, ``quiet_s``: its patience, see BACK_TIMEOUT_S and QUIET_TIMEOUT_S.
    """

    def __init__(self, stage: Stage, opening: Opening, on_event: OnEvent) -> None:
        self.stage = stage
        self.history = History()
        self.load = Load(stage.clients, self.history, stage.rng)
        self.back_s, self.quiet_s = BACK_TIMEOUT_S, QUIET_TIMEOUT_S
        self.faults: list[FaultRecord] = []
        self.broken: list[AuditViolation] = []
        self._opening = opening
        self._on_event = on_event
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()

    # -- telling --------------------------------------------------------------------------------------------------

    def now_s(self) -> float:
        return self._loop.time() - self._began_s

    def event(self, kind: EventKind, text: str) -> None:
        """Tell it, with the state of the work."""
        load, history = self.load, self.history
        figures = {"committed": history.committed, "in_flight": load.in_flight, "faults": len(self.faults)}
        self._on_event(Event(self.now_s(), kind, text, figures | {"longest_pause_s": history.longest_pause_s}))

    @contextlib.asynccontextmanager
    async def told_progress(self) -> AsyncIterator[None]:
        """A progress event twice a second inside."""

        async def tell() -> None:
            while True:
                await asyncio.sleep(_PROGRESS_S)
                self.event("progress", f"{self.history.committed} committed, {self.load.in_flight} in flight")

        telling = asyncio.create_task(tell())
        try:
            yield
        finally:
            telling.cancel()

    # -- faults ---------------------------------------------------------------------------------------------------

    async def strike(self, fault: Fault, hold_s: float, until: Callable[[], bool] = lambda: False) -> None:
        """Do ``fault``, and undo it after ``hold_s`` seconds or when ``until`` holds, and wait for the next commit.

        What does not come back is a violation and no error: the audit follows all the same.
        """
        struck_s = self._loop.time()
        answers_before = len(self.history.told)
        try:
            async with contextlib.aclosing(fault(self.stage)) as steps:
                injected = await anext(steps)
                record = FaultRecord(injected.what, struck_s - self._began_s)
                self.faults.append(record)
                self.event("fault", injected.what)
                await wait_until(until, hold_s)
                record.healed = (await anext(steps)).what
        except RaftcoordError as error:
            kind = error.kind if isinstance(error, Unkept) else "not back"
            self.broken.append(AuditViolation(kind, None, str(error)))
            return
        record.healed_at_s = self.now_s()
        self.event("heal", record.healed)
        await self.commits_again(f"after: {injected.what}")
        if injected.deposed is not None:
            record.first_commit_s = await self._failover_s(injected.deposed, struck_s, answers_before)
        for name in self.stage.fallen():
            what = f"node {name} has ended by itself; look at {name}.log in {self.stage.directory / 'data'}"
            self.broken.append(AuditViolation("node fell", None, what))

    async def commits_again(self, when: str) -> None:
        """Wait for a commit from now on, or the last order; it is a violation if neither comes."""
        since_s = self._loop.time()
        if not await wait_until(lambda: self._moves_since(since_s), self.back_s):
            self.broken.append(AuditViolation("stalled", None, f"no commit for {self.back_s:g} s {when}"))

    def _moves_since(self, since_s: float) -> bool:
        return self.history.last_commit_s > since_s or self.load.exhausted

    async def _failover_s(self, deposed: Leader, struck_s: float, answers_before: int) -> float | None:
        """From the fault to the first commit of a later term: what the old leader decided may still come in after it."""

        def first_s() -> float | None:
            return self.history.first_commit_after(answers_before, deposed.term)

        await wait_until(lambda: first_s() is not None or self.load.exhausted, self.back_s)
        came_s = first_s()
        return came_s - struck_s if came_s is not None else None

    # -- the end --------------------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Ask for every outcome that is in doubt, and wait until the nodes and the banks have nothing left to do."""
        self.event("settle", f"no more orders; {len(self.history.doubtful())} outcomes in doubt are asked for")
        until_s = self._loop.time() + self.quiet_s
        await self.load.resolve_doubtful(until_s)
        left = await self.stage.quiet(until_s - self._loop.time())
        if left:
            self.broken.append(AuditViolation("unsettled", None, f"after {self.quiet_s:g} s there is still: {left}"))

    async def judge(self, *, keep: bool) -> tuple[tuple[AuditViolation, ...], Mapping[str, int | float], Path | None]:
        """The audit: violations, figures, and where the files are kept, which they are if there is a violation or ``keep``."""
        self.event(
            "audit", f"{len(self.history.attempts)} transactions: what clients were told, every node, every bank"
        )
        violations = self.broken
        figures: dict[str, int | float] = {}
        try:
            ledgers = await self.stage.ledgers(self.history.attempts)
        except Unavailable as error:
            violations.append(AuditViolation("unreachable", None, f"the audit was not possible: {error}"))
        else:
            found = audit(self.history.attempts, self.history.told, ledgers, self._opening, self.stage.books())
            violations += found.violations
            figures |= found.figures
        if not self.history.committed:
            violations.append(
                AuditViolation("nothing done", None, "not one order was committed: the trial has proved nothing")
            )
        figures |= client_figures(self.history) | failover_figures(self.faults)
        figures["faults"] = len(self.faults)
        if not violations and not keep:
            return (), figures, None
        self.history.write(self.stage.directory / "history.jsonl")
        self.event("kept", f"files, logs and history.jsonl are kept in {self.stage.directory}")
        return tuple(violations), figures, self.stage.directory


def tried(
    plan: StagePlan, opening: Opening, on_event: OnEvent, scene: Callable[[Trial], Coroutine[Any, Any, DrillReport]]
) -> DrillReport:
    """What ``scene`` reports of a trial on a new stage; blocks."""

    async def on_stage(stage: Stage) -> DrillReport:
        return await scene(Trial(stage, opening, on_event))

    return reported(plan, on_stage)
