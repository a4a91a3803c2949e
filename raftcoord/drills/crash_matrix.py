"""The crash matrix: a program, or a database server, killed with kill -9 at every point of a transaction over two databases.

For each couple of drivers, each point, and each victim: a program pays through ``client.transaction()`` until it stands at the
point; the victim is killed; the resolver does what is left. What must hold then:

    equal      both databases have carried out what the ledger says: both paid, or neither
    told       a program that lives was told what the ledger says
    decided    killed behind the decision it is COMMITTED, killed before it is not
    free       nothing is prepared, and somebody else's update of the same row succeeds; the time until then is measured,
               from the kill of the program, or from when the killed server answers again
    in the end no decision is open, and no damage was recorded

It owes a verdict that rests on these alone; a time is a figure and no verdict. Never passes a matrix in which nothing was run.
"""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final, NamedTuple

from raftcoord.client.synchronous import Client
from raftcoord.databases.registry import DATABASES, named
from raftcoord.drills.audit import AuditViolation
from raftcoord.drills.client_history import percentile
from raftcoord.drills.crash_program import ACCOUNT, CENTS, Job, ProgramOutcome
from raftcoord.drills.crash_programs import ForkServer
from raftcoord.drills.database_banks import AccountWatch
from raftcoord.drills.options import PROGRAM, SERVER, DrillOptions
from raftcoord.drills.play import in_thread, reported
from raftcoord.drills.points import Point
from raftcoord.drills.program_drivers import DRIVERS, Couple, chosen, covering, modules_of
from raftcoord.drills.props import PlannedDatabase, StagePlan
from raftcoord.drills.report import DrillReport, Event, OnEvent, rounded
from raftcoord.drills.stage import Stage
from raftcoord.processes import database_servers as servers
from raftcoord.processes.database_servers import DatabaseServer
from raftcoord.types import Branch, State, TxId

NAME: Final = "databases-crash-matrix"
TAKES: Final = frozenset(("pairs", "drivers", "few", "victims", "lanes"))
LANES: Final = 3
OPENING_CENTS: Final = 1_000_000
FOUNDED_S: Final = 30.0
AIM_S: Final = 2.0
"""What 99 of 100 locks are to be free within (s)."""

FREE_TIMEOUT_S: Final = 30.0
"""Locks that are held longer (s) are a broken promise."""

_LOOK_EVERY_S: Final = 0.01
_SHOWN_MAX: Final = 5


class CrashCase(NamedTuple):
    """``victim``: PROGRAM, or the kind of the server that is killed."""

    couple: Couple
    point: Point
    victim: str


class CaseResult(NamedTuple):
    """What came of a case. ``outcome``: the ledger's; ``free_s``: until both rows were free; ``wrong``: what did not hold."""

    case: CrashCase
    outcome: str
    told: ProgramOutcome
    free_s: float
    wrong: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        couple, point, victim = self.case
        return {
            "pair": couple.pair,
            "drivers": [couple.first.name, couple.second.name],
            "point": str(point),
            "killed": victim,
            "outcome": self.outcome,
            "told": str(self.told),
            "locks_free_s": rounded(self.free_s),
            "held": not self.wrong,
            "wrong": list(self.wrong),
        }


class Lane(NamedTuple):
    """Two accounts of each kind, and programs on them: what happens in one lane is in no other one's way."""

    bank: str
    accounts: dict[str, tuple[AccountWatch, AccountWatch]]
    programs: ForkServer

    def two(self, couple: Couple) -> tuple[AccountWatch, AccountWatch]:
        return self.accounts[couple.first.kind][0], self.accounts[couple.second.kind][1]

    def close(self) -> None:
        for account in (account for two in self.accounts.values() for account in two):
            account.close()


def run(options: DrillOptions, on_event: OnEvent = lambda event: None) -> DrillReport:
    """Run the matrix; blocks. Kinds and drivers that are not installed are named, and not tested."""
    began_s = time.monotonic()
    wanted = chosen(options.pairs, options.drivers)
    installed = [couple for couple in wanted if couple.first.installed and couple.second.installed]
    absent = servers.missing()
    missing = {each.name: absent[each.title] for each in DATABASES if each.title in absent}
    here = [couple for couple in installed if not {couple.first.kind, couple.second.kind} & missing.keys()]
    picked = covering(here) if options.few else here
    not_tested = _not_tested(wanted, {kind: why for kind, why in missing.items() if kind in _kinds(installed)})
    if not picked:
        return report_of([], not_tested, [], options)
    lanes = options.lanes or LANES

    def tell(text: str) -> None:
        on_event(Event(time.monotonic() - began_s, "progress", text))

    async def scene(stage: Stage) -> DrillReport:
        rows, left = await in_thread(lambda stop: _Matrix(stage, picked, lanes, tell, stop).play(options))
        report = report_of(rows, not_tested, left, options)
        return replace(report, directory=stage.directory if options.keep or not report.held else None)

    plan = StagePlan(options.nodes, options.seed, databases=_databases(_kinds(picked), lanes), clients=0)
    return reported(plan, scene)


def report_of(rows: Sequence[CaseResult], not_tested: list[str], left: list[str], options: DrillOptions) -> DrillReport:
    """``left``: what was still open, prepared or damaged in the end. A matrix in which nothing was run is broken."""
    violations = [
        AuditViolation("contradiction", None, f"{_named(row.case)}: {each}") for row in rows for each in row.wrong
    ]
    violations += [AuditViolation("left over", None, each) for each in left]
    if not rows:
        violations.append(AuditViolation("nothing was run", None, "; ".join(not_tested)))
    figures = _figures(rows)
    held = (
        f"{len(rows)} kills, both sides equal after each, nothing prepared is left; locks free after "
        f"{figures.get('locks_free_s_p99', math.nan):.2f} s (p99; the aim is {AIM_S:g} s)"
    )
    wrong = [each.what for each in violations]
    more = {"not_tested": not_tested, "wrong": wrong, "rows": [row.to_json() for row in rows]}
    return DrillReport(NAME, violations, figures, options.seed, if_held=held, more=more)


def _databases(kinds: list[str], lanes: int) -> dict[Branch, PlannedDatabase]:
    """Two of each server; of files two for each lane, because a branch freezes one."""
    return {
        name: PlannedDatabase(kind, {Branch(_bank(lane)): {ACCOUNT: OPENING_CENTS} for lane in range(lanes)})
        for kind in kinds
        for its_lane in range(1 if named(kind).server else lanes)
        for name in _names(kind, its_lane)
    }


def _bank(lane: int) -> str:
    return f"lane-{lane + 1}"


def _names(kind: str, lane: int) -> tuple[Branch, Branch]:
    head = kind if named(kind).server else f"{kind}-{lane + 1}"
    return Branch(f"{head}-a"), Branch(f"{head}-b")


def _cases(picked: list[Couple], options: DrillOptions) -> Iterator[CrashCase]:
    """Programs first, because they run side by side; then the servers, which are everybody's."""
    victims = options.victims or (PROGRAM, SERVER)
    if PROGRAM in victims:
        yield from (CrashCase(couple, point, PROGRAM) for couple in picked for point in Point)
    if SERVER in victims:
        served = [couple for couple in picked if _servers_of(couple)]
        for couple in served[:1] if options.few else served:
            yield from (CrashCase(couple, point, victim) for victim in _servers_of(couple) for point in Point)


def _servers_of(couple: Couple) -> list[str]:
    """Its kinds of databases that have a server."""
    return [kind for kind in dict.fromkeys(driver.kind for driver in couple) if named(kind).server is not None]


class _Matrix:
    """The run. Everything here blocks; it ends soon after ``stop`` is set."""

    def __init__(
        self, stage: Stage, picked: list[Couple], lanes: int, tell: Callable[[str], None], stop: threading.Event
    ) -> None:
        self.stage = stage
        self.stop = stop
        self._picked = picked
        self._tell = tell
        self._lane_count = lanes
        self.cluster = ""
        self.client: Client

    def play(self, options: DrillOptions) -> tuple[list[CaseResult], list[str]]:
        cases = list(_cases(self._picked, options))
        with contextlib.ExitStack() as stack:
            self.client = stack.enter_context(Client.from_config(self.stage.config))
            self.cluster = self.client.cluster_id(timeout=FOUNDED_S)
            lanes = [self._lane(number, stack) for number in range(self._lane_count)]
            rows = self._run_all(cases, lanes)
            return rows, self._left_over([each for lane in lanes for two in lane.accounts.values() for each in two])

    def _lane(self, number: int, stack: contextlib.ExitStack) -> Lane:
        programs = ForkServer(self.stage.config, modules_of(self._picked), self.stage.directory / "programs.log")
        stack.callback(programs.close)
        accounts = {}
        for kind in _kinds(self._picked):
            first, second = (
                AccountWatch(self.stage.props.banks[name], _bank(number), ACCOUNT) for name in _names(kind, number)
            )
            accounts[kind] = (first, second)
        lane = Lane(_bank(number), accounts, programs)
        stack.callback(lane.close)
        return lane

    def _run_all(self, cases: list[CrashCase], lanes: list[Lane]) -> list[CaseResult]:
        rows: list[CaseResult] = []
        waiting: queue.SimpleQueue[CrashCase] = queue.SimpleQueue()
        for case in cases:
            if case.victim == PROGRAM:
                waiting.put(case)

        def done(row: CaseResult) -> None:
            rows.append(row)
            self._tell(f"{len(rows)} of {len(cases)}: {_named(row.case)}: {row.outcome}, free after {row.free_s:.2f} s")

        def serve(lane: Lane) -> None:
            with contextlib.closing(lane), contextlib.suppress(queue.Empty):
                while not self.stop.is_set():
                    done(_program_killed(_Trial(self, lane, waiting.get_nowait())))

        with ThreadPoolExecutor(len(lanes)) as pool:
            try:
                for each in [pool.submit(serve, lane) for lane in lanes]:
                    each.result()
            except BaseException:
                self.stop.set()
                raise
        for case in cases:
            if case.victim != PROGRAM and not self.stop.is_set():
                done(_server_killed(_Trial(self, lanes[0], case), self.stage.props.servers[case.victim]))
        return sorted(rows, key=lambda row: cases.index(row.case))

    def _left_over(self, accounts: list[AccountWatch]) -> list[str]:
        """What is still open, prepared or damaged when the resolver has had its time."""
        deadline = time.monotonic() + FREE_TIMEOUT_S
        while left := [*self._open(), *self._prepared(accounts)]:
            if time.monotonic() > deadline or self.stop.is_set():
                break
            time.sleep(_LOOK_EVERY_S)
        damages = self.client.damages()
        return left + ([f"damage was recorded: {damages.shown[0]}"] if damages.total else [])

    def _open(self) -> list[str]:
        rows = self.client.transactions("open", limit=_SHOWN_MAX)
        return [f"{row['txid']}: the ledger still waits for {', '.join(row['outstanding'])}" for row in rows]

    def _prepared(self, accounts: list[AccountWatch]) -> dict[str, None]:
        found = ((each.banks.name, txid) for each in accounts for txid in each.prepared(self.cluster))
        return {f"{txid}: still prepared in {name}": None for name, txid in found}


def _program_killed(trial: _Trial) -> CaseResult:
    programs = trial.lane.programs
    stopped = programs.start(trial.job)
    killed_at = time.monotonic()
    programs.kill(stopped)
    return trial.judged(stopped.txid, ProgramOutcome.KILLED, killed_at)


def _server_killed(trial: _Trial, server: DatabaseServer) -> CaseResult:
    programs = trial.lane.programs
    stopped = programs.start(trial.job)
    server.kill()
    programs.go_on()
    server.start()
    back_at = time.monotonic()
    return trial.judged(stopped.txid, programs.told(), back_at)


class _Trial:
    """One case, from before to the judgement."""

    def __init__(self, matrix: _Matrix, lane: Lane, case: CrashCase) -> None:
        self.lane = lane
        self._matrix = matrix
        self._case = case
        self._accounts = first, second = lane.two(case.couple)
        self._before = [account.cents() for account in self._accounts]
        names = (case.couple.first.name, case.couple.second.name)
        urls, branches = (first.banks.url, second.banks.url), (first.banks.name, second.banks.name)
        self.job = Job(names, urls, branches, lane.bank, case.point)

    def judged(self, txid: TxId, told: ProgramOutcome, since: float) -> CaseResult:
        while not all(account.is_free(self._matrix.cluster, txid) for account in self._accounts):
            if time.monotonic() - since > FREE_TIMEOUT_S or self._matrix.stop.is_set():
                still = f"{txid}: still locked after {FREE_TIMEOUT_S:g} s"
                return CaseResult(self._case, "", told, FREE_TIMEOUT_S, (still,))
            time.sleep(_LOOK_EVERY_S)
        free_s = time.monotonic() - since
        state = self._matrix.client.status(txid).state
        moved = tuple(account.cents() - before for account, before in zip(self._accounts, self._before, strict=True))
        wrong = tuple(f"{txid}: {what}" for what in _contradictions(self._case, state, told, moved))
        return CaseResult(self._case, str(state), told, free_s, wrong)


def _contradictions(case: CrashCase, state: State, told: ProgramOutcome, moved: tuple[int, ...]) -> Iterator[str]:
    is_committed = state is State.COMMITTED
    if moved != ((-CENTS, CENTS) if is_committed else (0, 0)):
        yield f"the ledger says {state}, and {moved[0]:+} and {moved[1]:+} cents were moved"
    if (told is ProgramOutcome.COMMITTED and not is_committed) or (told is ProgramOutcome.ABORTED and is_committed):
        yield f"the program was told {told}, and the ledger says {state}"
    if told is ProgramOutcome.KILLED and is_committed is not case.point.decided:
        yield f"the program was killed {case.point}, and the ledger says {state}"


def _figures(rows: Sequence[CaseResult]) -> dict[str, int | float]:
    figures: dict[str, int | float] = {"kills": len(rows)}
    outcomes = Counter(row.outcome for row in rows)
    figures |= {"committed": outcomes[str(State.COMMITTED)], "aborted": outcomes[str(State.ABORTED)]}
    figures["no_outcome"] = len(rows) - figures["committed"] - figures["aborted"]
    groups = {
        "locks_free_s": rows,
        "locks_free_s_program_killed": [row for row in rows if row.case.victim == PROGRAM],
        "locks_free_s_server_killed": [row for row in rows if row.case.victim != PROGRAM],
    }
    for name, group in groups.items():
        if times := [row.free_s for row in group]:
            figures |= {f"{name}_p{p}": percentile(times, p) for p in (50, 99)} | {f"{name}_max": max(times)}
    return figures


def _not_tested(wanted: list[Couple], missing: dict[str, str]) -> list[str]:
    absent = {driver.name for couple in wanted for driver in couple if not driver.installed}
    told = [f"driver {name}: it is not installed" for name in DRIVERS if name in absent]
    return told + [f"{kind}: {why}" for kind, why in missing.items()]


def _kinds(picked: list[Couple]) -> list[str]:
    return list(dict.fromkeys(driver.kind for couple in picked for driver in couple))


def _named(case: CrashCase) -> str:
    return f"{case.couple.pair} ({case.couple}), {case.victim} killed {case.point}"
