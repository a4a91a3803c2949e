"""One seed that broke a promise, made ready for the person who has to find out why."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from raftcoord.errors import RaftcoordError
from raftcoord.sim import plans
from raftcoord.sim.faults import Fault
from raftcoord.sim.recipe import Recipe
from raftcoord.sim.shrink import RUNS_MAX, shrink
from raftcoord.sim.simulation import Settings
from raftcoord.sim.timeline import Traced

_GIT_S_MAX: Final = 5.0


@dataclass(frozen=True)
class Case:
    """``plan``: the smallest that was found, of ``drawn`` faults; ``replay``: the command that runs the whole seed again."""

    seed: int
    invariant: str
    what: str
    txid: str
    settings: Settings
    plan: tuple[Fault, ...]
    drawn: int
    digest: int
    timeline: list[str]
    replay: str

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "seed": self.seed,
            "invariant": self.invariant,
            "what": self.what,
            "txid": self.txid or None,
            "plan": plans.to_json(self.seed, self.settings, self.plan),
            "faults_drawn": self.drawn,
            "digest": f"{self.digest:08x}",
            "timeline": self.timeline,
            "replay": self.replay,
        }


def explain(seed: int, recipe: Recipe, runs_max: int = RUNS_MAX) -> Case:
    """Run the seed again, shrink its plan and trace what is left. Raises RaftcoordError if it keeps every promise now."""
    with recipe.surroundings():
        shrunk = shrink(seed, recipe.made(), runs_max=runs_max)
        if shrunk is None:
            raise RaftcoordError(
                f"seed {seed} broke a promise and does not break it again: something in the simulation does not come from the "
                "seed. Look for chance, clocks or the order of a set in what was changed last, or in your own participants"
            )
        traced = Traced(seed, shrunk.settings, shrunk.plan)
    broken = traced.report.violation or shrunk.violation
    return Case(
        seed,
        broken.invariant,
        broken.what,
        "" if broken.txid is None else str(broken.txid),
        shrunk.settings,
        shrunk.plan,
        shrunk.drawn,
        traced.report.digest,
        traced.about(broken.txid),
        command("replay", str(seed), recipe),
    )


def command(verb: str, what: str, recipe: Recipe, more: Sequence[str] = ()) -> str:
    """What to type to run that recipe."""
    options: list[str] = []
    if recipe.nodes is not None:
        options += ["--nodes", str(recipe.nodes)]
    if recipe.kinds is not None:
        options += ["--faults", ",".join(recipe.kinds) or "none"]
    if recipe.duration_s is not None:
        options += ["--duration", f"{recipe.duration_s!r}"]
    if recipe.around:
        options += ["--with", recipe.around]
    if recipe.settings:
        options += ["--settings", recipe.settings]
    return shlex.join(["raftcoord", "sim", verb, what, *options, *more])


def built_from() -> str:
    """The version of raftcoord, and the commit if it runs from a repository. A seed means the same only in the same code."""
    version = f"raftcoord {metadata.version('raftcoord')}"
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return version
    try:
        git = ["git", "-C", str(root)]
        commit = _output([*git, "rev-parse", "--short=12", "HEAD"])
        changed = _output([*git, "status", "--porcelain", "--untracked-files=no"])
    except (OSError, subprocess.SubprocessError):
        return version
    return f"{version}, commit {commit}{', with changes that are not committed' if changed else ''}"


def _output(words: list[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=_GIT_S_MAX)
    return done.stdout.strip()
