"""Many seeds, on all cores.

Each worker is a process of its own that gets a few seeds at a time and answers each with its result, as JSON over a pipe.

Owed: every seed gets exactly one result. One that raises, kills its worker or takes too long has a result that says so, and the
seeds behind it are run by another worker. When the caller stops listening (Ctrl-C too), every worker is ended before the
generator is. A worker whose parent is gone ends with its seed.

Never: a result that depends on which worker ran the seed, or on what that worker ran before.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from multiprocessing import connection
from types import FrameType
from typing import Any, Final

from raftcoord.errors import ConfigError, RaftcoordError
from raftcoord.sim.loop import Killed
from raftcoord.sim.recipe import Recipe
from raftcoord.sim.simulation import Settings, Simulation
from raftcoord.sim.summary import SeedResult

SEED_S_MAX: Final = 120.0
"""Wall time (s) that one seed may take; the usual is well under one."""

WORKERS_MAX: Final = 256
_START_S_MAX: Final = 60.0
_CHUNK_MAX: Final = 8
_LOOK_S: Final = 0.25
_GRACE_S: Final = 3.0
"""For a worker to remove its files when it is told to end."""


def hunt(
    recipe: Recipe, seeds: Sequence[int], *, workers: int | None = None, seed_s_max: float = SEED_S_MAX
) -> Iterator[SeedResult]:
    """Run every seed and yield its result, in the order in which they end.

    ``workers``: processes, one per core if None. ``seed_s_max``: wall time of one seed (s). Raises ConfigError if
    the recipe cannot be run, before anything is.
    """
    recipe.check()
    wanted = _cores() if workers is None else workers
    if not 1 <= wanted <= WORKERS_MAX:
        raise ConfigError(f"a hunt has 1 to {WORKERS_MAX} workers, not {wanted}")
    return _Pool(recipe, seeds, wanted, seed_s_max).results()


def _cores() -> int:
    counted = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(counted, WORKERS_MAX)


class _Pool:
    def __init__(self, recipe: Recipe, seeds: Sequence[int], workers: int, seed_s_max: float) -> None:
        self._recipe = recipe
        self._seeds = seeds
        self._next = 0
        self._chunk = max(1, min(_CHUNK_MAX, len(seeds) // (workers * 4)))
        self._wanted = min(workers, len(seeds))
        self._again: deque[int] = deque()
        """The seeds behind one that its worker did not survive."""
        self._seed_s_max = seed_s_max
        self._workers: list[_Worker] = []

    def results(self) -> Iterator[SeedResult]:
        """See ``hunt``."""
        try:
            for _ in range(self._wanted):
                self._hire()
            while self._workers:
                heard = connection.wait([worker.conn for worker in self._workers], _LOOK_S)
                for worker in list(self._workers):
                    if worker.conn in heard:
                        yield from self._hear(worker)
                    elif worker.waited_s > (self._seed_s_max if worker.ready else _START_S_MAX):
                        yield self._lose(worker, f"took longer than {self._seed_s_max:g} s")
        finally:
            for worker in self._workers:
                worker.process.terminate()
            for worker in self._workers:
                worker.end()

    def _hire(self) -> None:
        worker = _Worker(self._recipe)
        self._workers.append(worker)
        worker.start()

    def _hear(self, worker: _Worker) -> Iterator[SeedResult]:
        try:
            message = json.loads(worker.conn.recv_bytes())
        except (EOFError, OSError):
            code = worker.end()
            if worker.dismissed and code == 0:
                self._workers.remove(worker)
            else:
                yield self._lose(worker, f"ended its process with exit code {code}")
            return
        if "trouble" in message:
            raise ConfigError(message["trouble"])
        if "result" in message:
            worker.todo.popleft()
            yield SeedResult(**message["result"])
        worker.ready = True
        worker.since = time.monotonic()
        if not worker.todo:
            worker.give(self._take())

    def _take(self) -> list[int]:
        if self._again:
            return [self._again.popleft()]
        taken = self._seeds[self._next : self._next + self._chunk]
        self._next += len(taken)
        return list(taken)

    def _lose(self, worker: _Worker, why: str) -> SeedResult:
        """A worker that is no use any more: the seed that it had is the one to blame."""
        worker.process.terminate()
        worker.end()
        self._workers.remove(worker)
        if not worker.todo:
            raise RaftcoordError(f"a worker of the hunt {why} while it had no seed; what it wrote to stderr says why")
        seed = worker.todo.popleft()
        self._again.extend(worker.todo)
        if self._again or self._next < len(self._seeds):
            self._hire()
        return SeedResult(seed, failure=why)


class _Worker:
    """One process, as its parent sees it."""

    def __init__(self, recipe: Recipe) -> None:
        context = multiprocessing.get_context("spawn")
        self.conn, self._theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(self._theirs, recipe), daemon=True)
        self.ready = False
        self.dismissed = False
        self.todo: deque[int] = deque()
        self.since = time.monotonic()

    @property
    def waited_s(self) -> float:
        """How long nothing was heard of it."""
        return time.monotonic() - self.since

    def start(self) -> None:
        """Start it deaf to Ctrl-C, which is meant for its parent."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            self._theirs.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def give(self, seeds: list[int]) -> None:
        """Let it run these; none: let it go."""
        self.todo.extend(seeds)
        self.dismissed = not seeds
        with suppress(OSError):  # it is dead: that is heard at once
            self.conn.send_bytes(json.dumps(seeds).encode())

    def end(self) -> int | None:
        """Wait until it is gone, and see to it that it goes; its exit code."""
        if self.process.pid is not None:
            self.process.join(_GRACE_S)
            self.process.kill()
            self.process.join()
        self.conn.close()
        return self.process.exitcode


# -- in the worker ---------------------------------------------------------------------------------------------------------


def _work(conn: connection.Connection, recipe: Recipe) -> None:
    signal.signal(signal.SIGTERM, _told_to_end)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited")  # a process that is killed awaits nothing
    sys.unraisablehook = lambda _: None  # nor does the end of a worker in the middle of a simulation

    def say(what: str, value: Any) -> None:
        conn.send_bytes(json.dumps({what: value}).encode())

    try:
        settings = recipe.made()
        with recipe.surroundings():
            say("ready", True)
            while seeds := json.loads(conn.recv_bytes()):
                for seed in seeds:
                    say("result", asdict(run_one(seed, settings)))
    except ConfigError as error:
        say("trouble", str(error))
    except (EOFError, BrokenPipeError):
        return  # the parent is gone
    except Exception as error:
        say("trouble", f"{recipe.around} failed: {type(error).__name__}: {error}")


def _told_to_end(number: int, frame: FrameType | None) -> None:
    sys.exit(1)  # not at once: the files of the simulation are removed on the way out


def run_one(seed: int, settings: Settings) -> SeedResult:
    """Run one seed here. What it raises is its result."""
    began = time.perf_counter()
    try:
        report = Simulation(seed, settings).run()
    except (Exception, Killed) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        what = f"raised {type(error).__name__}: {error} ({where.filename}:{where.lineno})"
        return SeedResult(seed, failure=what, wall_s=time.perf_counter() - began)
    broken = report.violation
    return SeedResult(
        seed,
        invariant="" if broken is None else broken.invariant,
        what="" if broken is None else broken.what,
        txid="" if broken is None or broken.txid is None else str(broken.txid),
        digest=report.digest,
        virtual_s=report.virtual_s,
        wall_s=report.wall_s,
        settled_s=report.settled_s,
        injected=report.injected,
        outcomes=report.outcomes,
        states=report.states,
    )
