"""How soon the simulator finds each planted bug: seeds until found, from several starts, and by which invariant.

    python tests/sim/table.py [--plant NAME]... [--starts 5] [--limit 2000] [--nodes 3] [--jobs 2] [--json FILE]

Run it from the root of the repository. A seed counts only if it holds without the plant. The exit code is 1 if a plant was not
found.
"""

from __future__ import annotations

import argparse
import gc
import json
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, NamedTuple

if not __package__:  # a script: this package is found by its name, as it is by pytest
    sys.path[0] = str(Path(__file__).parents[1])

from raftcoord.sim.simulation import Settings, Simulation
from sim.plants import NODES, PLANTS, Plant

START_GAP: Final = 1_000_003
"""Between two starts: far more than a run takes."""

WALL_S_MAX: Final = 60
"""What one simulation may take (s of the machine's clock) before it counts as a runaway."""

RUNAWAY: Final = "runaway"


class Found(NamedTuple):
    """``seeds`` None: not found. ``seed``: the one that found it, by ``invariant``. ``alarms``: seeds that fail without it."""

    seeds: int | None
    seed: int
    invariant: str
    what: str
    wall_s: float
    alarms: tuple[int, ...] = ()


class _Runaway(BaseException):
    """Not for ``except Exception``."""


@contextmanager
def bounded(seconds: int) -> Iterator[None]:
    """Raise _Runaway in the main thread after that time."""

    def ring(*_: Any) -> None:
        raise _Runaway

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(plant: Plant, seed: int, settings: Settings) -> tuple[str, str]:
    """(invariant, what) of the violation with that plant in that seed; ("", "") if every promise was kept."""
    try:
        with bounded(WALL_S_MAX), plant():
            violation = Simulation(seed, settings).run().violation
    except _Runaway:
        return RUNAWAY, f"seed {seed} did not end within {WALL_S_MAX} s"
    return ("", "") if violation is None else (violation.invariant, violation.what)


def hunt(name: str, start: int, limit: int, nodes: int | None = None) -> Found:
    """Seed after seed from ``start`` on, until the plant is found: one that fails without it, too, does not count."""
    began = time.perf_counter()
    settings = Settings(nodes=nodes or NODES.get(name, 3))
    alarms: list[int] = []
    for seed in range(start, start + limit):
        invariant, what = run(PLANTS[name], seed, settings)
        if invariant and run(nullcontext, seed, settings)[0]:
            alarms.append(seed)
        elif invariant:
            return Found(seed - start + 1, seed, invariant, what, time.perf_counter() - began, tuple(alarms))
        gc.collect()
    return Found(None, 0, "", "", time.perf_counter() - began, tuple(alarms))


def row(name: str, found: list[Found], limit: int) -> dict[str, Any]:
    """What the table says of one plant."""
    median = statistics.median(limit + 1 if each.seeds is None else each.seeds for each in found)
    caught = Counter(each.invariant for each in found if each.seeds is not None)
    return {
        "plant": name,
        "seeds": [each.seeds for each in found],
        "median": median,
        "invariants": dict(caught.most_common()),
        "found_by": [each.seed for each in found if each.seeds is not None],
        "examples": sorted({f"{each.invariant}: {each.what}" for each in found if each.seeds is not None}),
        "alarms": sorted({seed for each in found for seed in each.alarms}),
        "wall_s": round(sum(each.wall_s for each in found), 1),
    }


def show(made: dict[str, Any], limit: int) -> str:
    seeds = " ".join(f"{'-' if seeds is None else seeds:>5}" for seeds in made["seeds"])
    median = f"{made['median']:g}" if made["median"] <= limit else "not found"
    caught = ", ".join(f"{name} {count}x" if count > 1 else name for name, count in made["invariants"].items())
    return f"{made['plant']:52} {seeds}  {median:>9}  {caught}"


def main() -> int:
    parser = argparse.ArgumentParser(description="How soon the simulator finds each planted bug.")
    parser.add_argument("--plant", action="append", help="this plant alone (a part of its name; may be repeated)")
    parser.add_argument("--starts", type=int, default=5, help="from how many seeds on (default: 5)")
    parser.add_argument("--limit", type=int, default=2_000, help="seeds from each start at most (default: 2000)")
    parser.add_argument("--nodes", type=int, help="of each cluster (default: 3, or what the plant needs)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--json", type=Path, help="write the table there, too")
    options = parser.parse_args()
    wanted = [name for name in PLANTS if not options.plant or any(part in name for part in options.plant)]
    if not wanted:
        parser.error(f"no plant is called so; the plants: {', '.join(PLANTS)}")
    rows = []
    print(f"{'plant':52} {'seeds until found':{6 * options.starts - 1}}  {'median':>9}  caught by", flush=True)
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        starts = [1 + at * START_GAP for at in range(options.starts)]
        hunts = {
            name: [pool.submit(hunt, name, start, options.limit, options.nodes) for start in starts] for name in wanted
        }
        for name, futures in hunts.items():
            rows.append(row(name, [future.result() for future in futures], options.limit))
            print(show(rows[-1], options.limit), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    if alarms := sorted({seed for made in rows for seed in made["alarms"]}):
        print(f"these seeds break a promise without any plant: {', '.join(map(str, alarms))}")
    missed = [made["plant"] for made in rows if made["median"] > options.limit]
    print(f"{len(rows) - len(missed)} of {len(rows)} found" + (f"; not found: {', '.join(missed)}" if missed else ""))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
