"""raftcoord sim: the real code on a virtual clock, with faults drawn from a seed; what it finds can be run again."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from .errors import BROKEN, INTERNAL, INTERRUPTED
from .groups import Commands
from .options import Function, Number, Output, console, with_output

if TYPE_CHECKING:
    from rich.table import Table

    from raftcoord.sim.case import Case
    from raftcoord.sim.recipe import Recipe
    from raftcoord.sim.summary import SeedResult, Summary

_DIGITS_MAX: Final = 18
_EXPLAINED_MAX: Final = 3
"""Invariants of which a case is shrunk and told; the seeds of all are listed."""


def with_recipe(function: Function) -> Function:
    """The options that say what is simulated; ``_recipe`` makes something of them."""
    for option in (
        click.option("--settings", metavar="MODULE:NAME", help="Your own Settings: participants, clients."),
        click.option(
            "--with",
            "around",
            metavar="MODULE:NAME",
            help="A callable that returns a context manager, entered around the simulations of each process.",
        ),
        click.option(
            "--duration", "duration_s", type=Number(0), help="Virtual seconds in which faults are made. [default: 8]"
        ),
        click.option("--faults", metavar="KIND,...", help="Kinds of faults, or all, or none. [default: all]"),
        click.option("--nodes", type=int, help="3 or 5. [default: 3]"),
    ):
        function = option(function)
    return function


@click.group(cls=Commands)
def sim() -> None:
    """The real code on a virtual clock, with faults drawn from a seed."""


@sim.command()
@with_output
def faults(output: Output) -> None:
    """The kinds of faults there are."""
    from raftcoord.sim.faults import KINDS
    from raftcoord.sim.kinds import SUMMARIES

    kinds = [{"name": kind, "most": most, "summary": SUMMARIES[kind]} for kind, (most, _) in KINDS.items()]
    width = max(len(kind) for kind in KINDS)
    output.result({"faults": kinds}, "\n".join(f"{each['name']:<{width}}  {each['summary']}" for each in kinds))


@sim.command()
@click.option("--seeds", "span", metavar="A:B", required=True, help="From A up to, not including, B.")
@click.option("--workers", type=int, help="Processes. [default: one per core]")
@with_recipe
@with_output
def run(span: str, workers: int | None, output: Output, **given: Any) -> int:
    """Simulate each seed of A:B and judge it.

    A seed that breaks a promise is run again with fewer and fewer faults, and shown. Exit code 0: HELD; 6: BROKEN; 1: a seed
    came to no verdict; 130: Ctrl-C, after a summary so far.
    """
    from raftcoord.sim.hunt import hunt
    from raftcoord.sim.summary import Summary

    seeds, recipe = _seeds(span), _recipe(**given)
    results = hunt(recipe, seeds, workers=workers)
    summary = Summary()
    interrupted = False
    cases: list[Case] = []
    doubts: list[str] = []
    try:
        with _progress(output, len(seeds)) as tell:
            for result in results:
                summary.add(result)
                tell(result, summary)
        _explain(summary, recipe, cases, doubts)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        results.close()  # type: ignore[attr-defined]
    _report(output, summary, cases, doubts, recipe, interrupted)
    if interrupted:
        return INTERRUPTED
    return BROKEN if summary.broken else INTERNAL if summary.failed else 0


@sim.command()
@click.argument("seed")
@click.option("--trace", is_flag=True, help="Every line: all transactions, and what the processes log.")
@click.option(
    "--plan", "path", type=click.Path(dir_okay=False, path_type=Path), help="These faults, not the seed's own."
)
@with_recipe
@with_output
def replay(seed: str, trace: bool, path: Path | None, output: Output, **given: Any) -> int:
    """Run one SEED again and show what happens.

    The same code, seed and options give the same simulation: the digest says so. Exit code 0: HELD; 6: BROKEN.
    """
    from raftcoord.sim import plans
    from raftcoord.sim.case import built_from
    from raftcoord.sim.timeline import Traced

    number, recipe = _number(seed), _recipe(**given)
    plan = None
    if path is not None:
        found = plans.read(path)
        if found.seed != number:
            raise _wrong(f"the plan {path} is of seed {found.seed}, not {number}; replay that seed")
        recipe = replace(recipe, nodes=recipe.nodes or found.nodes, duration_s=recipe.duration_s or found.duration_s)
        plan = found.faults
        plans.check(plan, recipe.made())
    with recipe.surroundings():
        traced = Traced(number, recipe.made(), plan)
    report = traced.report
    broken = report.violation
    lines = traced.everything() if trace else traced.about(broken.txid if broken is not None else None)
    verdict = "HELD: every promise kept" if broken is None else f"BROKEN: {broken}"
    digest = f"{report.digest:08x}"
    value = {
        "held": report.held,
        "verdict": verdict,
        "seed": number,
        "digest": digest,
        "raftcoord": built_from(),
        "invariant": None if broken is None else broken.invariant,
        "what": None if broken is None else broken.what,
        "txid": None if broken is None or broken.txid is None else str(broken.txid),
        "plan": plans.to_json(number, recipe.made(), report.plan),
        "virtual_s": round(report.virtual_s, 4),
        "timeline": lines,
    }
    text = [*lines, "", f"seed {number}, digest {digest}, {report.virtual_s:.2f} virtual seconds, {built_from()}"]
    output.result(value, "\n".join([*text, _coloured(report.held, verdict)]))
    return 0 if report.held else BROKEN


# -- what was asked for ----------------------------------------------------------------------------------------------------


def _wrong(what: str) -> Exception:
    from raftcoord.errors import ConfigError

    return ConfigError(what)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX):
        raise _wrong(f"{text!r} is not a seed: a seed is a number from 0 on, of at most {_DIGITS_MAX} digits")
    return int(text)


def _seeds(span: str) -> range:
    first, colon, end = span.partition(":")
    if not colon:
        raise _wrong(f"{span!r} is not a range of seeds; write --seeds A:B, as in 0:1000")
    seeds = range(_number(first), _number(end))
    if not seeds:
        raise _wrong(f"there is no seed in {span}: the end must be greater than the start")
    return seeds


def _recipe(
    nodes: int | None, faults: str | None, duration_s: float | None, around: str | None, settings: str | None
) -> Recipe:
    from raftcoord.sim.faults import KINDS
    from raftcoord.sim.recipe import Recipe

    kinds: tuple[str, ...] | None = None
    if faults is not None:
        named = {"all": tuple(KINDS), "none": ()}
        kinds = named[faults] if faults in named else tuple(dict.fromkeys(kind.strip() for kind in faults.split(",")))
    if around or settings:  # as python -m does: the user's module may lie here
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.insert(0, here)
    recipe = Recipe(nodes, duration_s, kinds, around or "", settings or "")
    recipe.check()
    return recipe


# -- what is told ----------------------------------------------------------------------------------------------------------


@contextmanager
def _progress(output: Output, seeds: int) -> Iterator[Callable[[SeedResult, Summary], None]]:
    """A bar on a terminal; for programs and files nothing."""
    if output.as_json or not sys.stdout.isatty():
        yield lambda result, summary: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(), transient=True) as bar:
        task = bar.add_task("seeds", total=seeds)

        def tell(result: SeedResult, summary: Summary) -> None:
            if not result.held:
                bar.console.print(
                    f"seed {result.seed}: {result.failure or f'{result.invariant}: {result.what}'}", markup=False
                )
            broken = len(summary.broken) + len(summary.failed)
            bar.update(task, advance=1, description=f"seeds, {broken} broken" if broken else "seeds")

        yield tell


def _explain(summary: Summary, recipe: Recipe, cases: list[Case], doubts: list[str]) -> None:
    """One case of each invariant, its lowest seed; ``doubts``: what could not be explained, and why."""
    from raftcoord.errors import RaftcoordError
    from raftcoord.sim.case import explain

    for seeds in list(summary.by_invariant.values())[:_EXPLAINED_MAX]:
        try:
            cases.append(explain(seeds[0], recipe))
        except RaftcoordError as error:
            doubts.append(str(error))


def _report(
    output: Output, summary: Summary, cases: list[Case], doubts: list[str], recipe: Recipe, interrupted: bool
) -> None:
    from raftcoord.sim.case import built_from

    verdict = f"interrupted; so far {summary.verdict}" if interrupted else summary.verdict
    files = [_keep(case) for case in cases]
    if output.as_json:
        told = [case.to_json() | {"file": file} for case, file in zip(cases, files, strict=True)]
        value = {**summary.to_json(), "interrupted": interrupted, "raftcoord": built_from(), "cases": told}
        output.result({**value, "unexplained": doubts, "verdict": verdict}, "")
        return
    if summary.seeds:
        output.result({}, lambda: _table(summary))
    for case, file in zip(cases, files, strict=True):
        click.echo("\n".join(_told(case, file, recipe)))
    for doubt in doubts:
        click.echo(doubt)
    click.echo(_coloured(summary.held, verdict))


def _keep(case: Case) -> str:
    """The plan in a file of its own, for ``replay --plan``."""
    handle, name = tempfile.mkstemp(prefix=f"raftcoord-sim-{case.seed}-", suffix=".json")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(case.to_json()["plan"], file, indent=1)
    return name


def _told(case: Case, file: str, recipe: Recipe) -> list[str]:
    from raftcoord.sim.case import built_from, command

    shrunk = command(
        "replay", str(case.seed), replace(recipe, nodes=None, kinds=None, duration_s=None), ["--plan", file]
    )
    return [
        f"seed {case.seed} broke a promise: {case.invariant} ({built_from()})",
        f"  {case.what}",
        f"It takes {len(case.plan)} of its {case.drawn} faults, in {case.settings.duration_s:g} virtual seconds:",
        *(f"  {fault}" for fault in case.plan),
        f"What happened{f' to transaction {case.txid}' if case.txid else ''}:",
        *case.timeline,
        "Run it again:",
        f"  {case.replay}",
        f"  {shrunk}",
        "",
    ]


def _table(summary: Summary) -> Table:
    from rich import box
    from rich.table import Table

    told = summary.to_json()
    settled = ", ".join(f"{name} {value:.2f}" for name, value in told["settled_s"].items())
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False)
    rows = {
        "seeds": f"{told['seeds']:,}: {_counted(summary.parts())}",
        **{f"broke: {name}": _listed(seeds) for name, seeds in told["violations"].items()},
        **{f"seed {seed}": why for seed, why in told["failures"].items()},
        "decisions": f"{told['decisions']:,}",
        "faults": _counted(told["injected"]),
        "never injected": ", ".join(summary.unseen) or "-",
        "outcomes": _counted(told["outcomes"]),
        **({"states": _counted(told["states"])} if told["states"] else {}),
        "virtual time": f"{told['virtual_s']:,.0f} s",
        "machine time": f"{summary.wall_s:,.1f} s of one core",
        "settled after": f"{settled or '-'} s (bound {told['liveness_s']:g})",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _listed(seeds: list[int], shown: int = 12) -> str:
    more = f" and {len(seeds) - shown} more" if len(seeds) > shown else ""
    return f"{len(seeds)}: seed {', '.join(map(str, seeds[:shown]))}{more}"


def _counted(counted: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counted.items()) or "-"


def _coloured(held: bool, verdict: str) -> str:
    from .telling import verdict_text

    return verdict_text(held, verdict)
