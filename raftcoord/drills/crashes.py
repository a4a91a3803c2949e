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
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from raftcoord.drills.crashes_drivers import DRIVERS, SQLITE, Couple, chosen, couples, covering
from raftcoord.drills.crashes_program import CENTS, Job, Point, Told
from raftcoord.drills.crashes_stage import Lane, Stage, ended_by_signals, kept_if, modules_of, running
from raftcoord.drills.history import percentile
from raftcoord.drills.report import Event, OnEvent, rounded
from raftcoord.errors import ConfigError
from raftcoord.types import State, TxId

NAME: Final = "databases-crash-matrix"
PROGRAM: Final = "program"
AIM_S: Final = 2.0
"""What 99 of 100 locks are to be free within (s)."""

FREE_TIMEOUT_S: Final = 30.0
"""Locks that are held longer (s) are a broken promise."""

_LOOK_EVERY_S: Final = 0.01
_LANES_MAX: Final = 16
_SHOWN_MAX: Final = 5


class Case(NamedTuple):
    """``victim``: PROGRAM, or the kind of the server that is killed."""

    couple: Couple
    point: Point
    victim: str


class Row(NamedTuple):
    """What came of a case. ``outcome``: the ledger's; ``free_s``: until both rows were free; ``wrong``: what did not hold."""

    case: Case
    outcome: str
    told: Told
    free_s: float
    wrong: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
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


@dataclass(frozen=True, slots=True)
class CrashOptions:
    """``pairs``, ``drivers``: these alone, empty: all. ``few``: so few couples that each pair and each driver occurs, and servers
    killed for the first of them alone. ``victims``: what is killed, of PROGRAM and "server". ``lanes``: programs at a time.

    ConfigError for anything else.
    """

    pairs: tuple[str, ...] = ()
    drivers: tuple[str, ...] = ()
    few: bool = False
    victims: tuple[str, ...] = (PROGRAM, "server")
    lanes: int = 3
    nodes: int = 3
    keep: bool = False

    def __post_init__(self) -> None:
        if unknown := set(self.victims) - {PROGRAM, "server"}:
            raise ConfigError(f"{min(unknown)!r} cannot be killed; give program or server")
        if not 1 <= self.lanes <= _LANES_MAX:
            raise ConfigError(f"{self.lanes} programs at a time is out of range; give 1 to {_LANES_MAX}")
        if self.nodes not in (1, 3, 5):
            raise ConfigError(f"a matrix cannot run on {self.nodes} nodes; give 1, 3 or 5")
        chosen(self.pairs, self.drivers)


@dataclass(frozen=True, slots=True)
class CrashReport:
    """``not_tested``: what, and why. ``wrong``: what did not hold, a sentence each. ``directory``: the files, if kept."""

    rows: Sequence[Row]
    not_tested: Sequence[str]
    wrong: Sequence[str]
    figures: dict[str, int | float] = field(default_factory=dict)
    directory: Path | None = None

    @property
    def held(self) -> bool:
        """Whether every promise was kept, and something was run."""
        return bool(self.rows) and not self.wrong

    @property
    def verdict(self) -> str:
        """In one line."""
        if self.held:
            return (
                f"HELD: {NAME}: {len(self.rows)} kills, both sides equal after each, nothing prepared is left; locks free after "
                f"{self.figures['locks_free_s_p99']:.2f} s (p99; the aim is {AIM_S:g} s)"
            )
        why = self.wrong[0] if self.wrong else f"nothing was run: {'; '.join(self.not_tested)}"
        more = f" (and {len(self.wrong) - 1} more)" if len(self.wrong) > 1 else ""
        return f"BROKEN: {NAME}: {why}{more}"

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "drill": NAME,
            "held": self.held,
            "verdict": self.verdict,
            "figures": {name: rounded(value) for name, value in self.figures.items()},
            "not_tested": list(self.not_tested),
            "wrong": list(self.wrong),
            "rows": [row.to_json() for row in self.rows],
            "directory": str(self.directory) if self.directory else None,
        }


def run(options: CrashOptions, on_event: OnEvent = lambda event: None) -> CrashReport:
    """Run the matrix; blocks, in the main thread. What was started is stopped, also on Ctrl-C or SIGTERM."""
    began = time.monotonic()
    wanted = chosen(options.pairs, options.drivers)
    installed = [couple for couple in wanted if couple.first.installed and couple.second.installed]
    worth: list[bool] = []
    with ended_by_signals(), kept_if(worth) as directory, running(_kinds(installed)) as (servers, missing):
        here = [couple for couple in installed if not {couple.first.kind, couple.second.kind} & missing.keys()]
        picked = covering(here) if options.few else here
        stage = Stage(directory, servers)

        def tell(text: str) -> None:
            on_event(Event(time.monotonic() - began, "progress", text))

        rows: list[Row] = []
        wrong: list[str] = []
        if picked:
            with stage.lit(_kinds(picked), modules_of(picked), options.lanes, options.nodes):
                rows = _run_all(stage, list(_cases(picked, options)), tell)
                wrong = [f"{_named(row.case)}: {each}" for row in rows for each in row.wrong] + _left_over(stage)
        if wrong or options.keep:
            worth.append(True)
        return CrashReport(rows, _not_tested(wanted, missing), wrong, _figures(rows), directory if worth else None)


def _cases(picked: list[Couple], options: CrashOptions) -> Iterator[Case]:
    """Programs first, because they run side by side; then the servers, which are everybody's."""
    if PROGRAM in options.victims:
        yield from (Case(couple, point, PROGRAM) for couple in picked for point in Point)
    if "server" in options.victims:
        served = [couple for couple in picked if {couple.first.kind, couple.second.kind} != {SQLITE}]
        for couple in served[:1] if options.few else served:
            for victim in dict.fromkeys((couple.first.kind, couple.second.kind)):
                yield from (Case(couple, point, victim) for point in Point if victim != SQLITE)


def _run_all(stage: Stage, cases: list[Case], tell: Callable[[str], None]) -> list[Row]:
    rows: list[Row] = []
    waiting: queue.SimpleQueue[Case] = queue.SimpleQueue()
    for case in cases:
        if case.victim == PROGRAM:
            waiting.put(case)
    stop = threading.Event()

    def done(row: Row) -> None:
        rows.append(row)
        tell(f"{len(rows)} of {len(cases)}: {_named(row.case)}: {row.outcome}, free after {row.free_s:.2f} s")

    def serve(lane: Lane) -> None:
        with contextlib.closing(lane), contextlib.suppress(queue.Empty):
            while not stop.is_set():
                done(_program_killed(stage, lane, waiting.get_nowait()))

    with ThreadPoolExecutor(len(stage.lanes)) as pool:
        try:
            for each in [pool.submit(serve, lane) for lane in stage.lanes]:
                each.result()
        finally:
            stop.set()
    for case in cases:
        if case.victim != PROGRAM:
            done(_server_killed(stage, stage.lanes[0], case))
    return sorted(rows, key=lambda row: cases.index(row.case))


def _program_killed(stage: Stage, lane: Lane, case: Case) -> Row:
    trial = _Trial(stage, lane, case)
    stopped = lane.programs.start(trial.job)
    killed_at = time.monotonic()
    lane.programs.kill(stopped)
    return trial.judged(stopped.txid, Told.KILLED, killed_at)


def _server_killed(stage: Stage, lane: Lane, case: Case) -> Row:
    trial = _Trial(stage, lane, case)
    stopped = lane.programs.start(trial.job)
    server = stage.servers[case.victim]
    server.kill()
    lane.programs.go_on()
    server.start()
    back_at = time.monotonic()
    return trial.judged(stopped.txid, lane.programs.told(), back_at)


class _Trial:
    """One case, from before to the judgement."""

    def __init__(self, stage: Stage, lane: Lane, case: Case) -> None:
        self._stage = stage
        self._case = case
        self._banks = lane.two(case.couple)
        self._before = [bank.cents() for bank in self._banks]
        first, second = self._banks
        drivers = (case.couple.first.name, case.couple.second.name)
        self.job = Job(drivers, (first.url, second.url), (first.branch, second.branch), first.account, case.point)

    def judged(self, txid: TxId, told: Told, since: float) -> Row:
        """Wait until the locks are free, and compare."""
        while not all(bank.is_free(self._stage.id, txid) for bank in self._banks):
            if time.monotonic() - since > FREE_TIMEOUT_S:
                return Row(self._case, "", told, FREE_TIMEOUT_S, (f"{txid}: still locked after {FREE_TIMEOUT_S:g} s",))
            time.sleep(_LOOK_EVERY_S)
        free_s = time.monotonic() - since
        state = self._stage.client.status(txid).state
        moved = tuple(bank.cents() - before for bank, before in zip(self._banks, self._before, strict=True))
        wrong = tuple(f"{txid}: {what}" for what in _contradictions(self._case, state, told, moved))
        return Row(self._case, str(state), told, free_s, wrong)


def _contradictions(case: Case, state: State, told: Told, moved: tuple[int, ...]) -> Iterator[str]:
    is_committed = state is State.COMMITTED
    if moved != ((-CENTS, CENTS) if is_committed else (0, 0)):
        yield f"the ledger says {state}, and {moved[0]:+} and {moved[1]:+} cents were moved"
    if (told is Told.COMMITTED and not is_committed) or (told is Told.ABORTED and is_committed):
        yield f"the program was told {told}, and the ledger says {state}"
    if told is Told.KILLED and is_committed is not case.point.decided:
        yield f"the program was killed {case.point}, and the ledger says {state}"


def _left_over(stage: Stage) -> list[str]:
    """What is still open, prepared or damaged when the resolver has had its time."""
    deadline = time.monotonic() + FREE_TIMEOUT_S
    while left := [*_open(stage), *_prepared(stage)]:
        if time.monotonic() > deadline:
            break
        time.sleep(_LOOK_EVERY_S)
    damages = stage.client.damages()
    return left + ([f"damage was recorded: {damages.shown[0]}"] if damages.total else [])


def _open(stage: Stage) -> list[str]:
    rows = stage.client.transactions("open", limit=_SHOWN_MAX)
    return [f"{row['txid']}: the ledger still waits for {', '.join(row['outstanding'])}" for row in rows]


def _prepared(stage: Stage) -> list[str]:
    return [f"{txid}: still prepared in {bank.branch}" for bank in stage.banks() for txid in bank.prepared(stage.id)]


def _figures(rows: list[Row]) -> dict[str, int | float]:
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


def _named(case: Case) -> str:
    return f"{case.couple.pair} ({case.couple}), {case.victim} killed {case.point}"


def all_pairs() -> list[str]:
    """Their names, for the command line."""
    return list(dict.fromkeys(couple.pair for couple in couples()))
