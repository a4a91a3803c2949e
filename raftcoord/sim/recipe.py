"""What a hunt runs, in words that cross processes: settings, and what surrounds the simulations.

Owed: whatever is wrong with it is a ConfigError before anything runs. A name is ``module:attribute``, as for an entry point.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Final

from raftcoord.errors import ConfigError
from raftcoord.sim.faults import KINDS
from raftcoord.sim.simulation import Settings

NODES_ALLOWED: Final = (3, 5)
DURATION_S: Final = (1.0, 600.0)
"""Shortest and longest (virtual s): faults begin after 0.6 s, and every fault is planned before the first."""


@dataclass(frozen=True)
class Recipe:
    """None: as ``settings`` has it, or the default.

    ``around``: names a callable that returns a context manager; it is entered once in each process, around all its simulations.
    ``settings``: names a Settings, or a callable that returns one: a user's own participants, say.
    """

    nodes: int | None = None
    duration_s: float | None = None
    kinds: tuple[str, ...] | None = None
    around: str = ""
    settings: str = ""

    def made(self) -> Settings:
        """The settings. Raises ConfigError."""
        made = named(self.settings) if self.settings else Settings()
        if callable(made):
            made = _call(self.settings, made)
        if not isinstance(made, Settings):
            raise ConfigError(f"{self.settings} is {made!r:.80}, not a raftcoord.sim.simulation.Settings")
        given = {"nodes": self.nodes, "duration_s": self.duration_s, "kinds": self.kinds}
        made = replace(made, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
        if made.nodes not in NODES_ALLOWED:
            raise ConfigError(f"a simulation has {' or '.join(map(str, NODES_ALLOWED))} nodes, not {made.nodes}")
        shortest, longest = DURATION_S
        if not shortest <= made.duration_s <= longest:
            raise ConfigError(
                f"the faults last from {shortest:g} to {longest:g} virtual seconds, not {made.duration_s:g}"
            )
        check_kinds(made.kinds)
        return made

    def surroundings(self) -> AbstractContextManager[Any]:
        """What is to be entered around the simulations. Raises ConfigError."""
        if not self.around:
            return nullcontext()
        made = named(self.around)
        if not callable(made):
            raise ConfigError(f"{self.around} is {made!r:.80}; name a callable that returns a context manager")
        entered = _call(self.around, made)
        if not isinstance(entered, AbstractContextManager):
            raise ConfigError(f"{self.around}() returned {entered!r:.80}, not a context manager")
        return entered

    def check(self) -> None:
        """Raise ConfigError unless it can be run."""
        self.made()
        self.surroundings()


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise ConfigError unless each is a kind of fault."""
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise ConfigError(f"there is no fault {unknown[0]!r}; choose from: {', '.join(KINDS)}")


def named(name: str) -> Any:
    """What ``module:attribute`` names. Raises ConfigError."""
    module_name, colon, path = name.partition(":")
    if not (module_name and colon and path) or module_name.startswith("."):
        raise ConfigError(f"{name!r} does not name anything; write module:attribute")
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # whatever a user's module does when it is imported
        raise ConfigError(f"module {module_name} cannot be imported: {type(error).__name__}: {error}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"module {module_name} has no {path}")
        found = getattr(found, part)
    return found


def _call(name: str, made: Any) -> Any:
    try:
        return made()
    except Exception as error:
        raise ConfigError(f"{name}() failed: {type(error).__name__}: {error}") from error
