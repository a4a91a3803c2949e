"""What may be asked of a drill: one set of options for all. Each takes some of them (catalog.py) and refuses the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from raftcoord.drills.orders import ORDERS_MAX
from raftcoord.errors import ConfigError
from raftcoord.processes.commands import NODE

DURATION_S_MAX: Final = 24 * 3600.0
RATE_MAX: Final = 20_000.0
ROUNDS_MAX: Final = 10_000
WORKERS_MAX: Final = 32
LANES_MAX: Final = 16
NODES: Final = (1, 3, 5, 7)
PROGRAM, SERVER = "program", "server"

FLAGS: Final = {
    "duration_s": "--duration",
    "rounds": "--rounds",
    "rate": "--rate",
    "transfers": "--transfers",
    "workers": "--workers",
    "orders": "--orders",
    "pairs": "--pair",
    "drivers": "--driver",
    "few": "--few",
    "victims": "--kill",
    "lanes": "--at-a-time",
}
"""How the command line calls what not every drill takes."""


@dataclass(frozen=True, slots=True)
class DrillOptions:
    """What is None or empty is left to the drill. ConfigError for what no drill takes.

    Of all: ``seed`` of orders, victims and times; ``nodes``: one of NODES; ``keep``: keep the files; ``node_module``: see
    StagePlan.

    ``duration_s``: how long faults are made, 1 to DURATION_S_MAX; ``rounds``: so many faults instead, 1 to ROUNDS_MAX; ``rate``:
    orders per second, 0.1 to RATE_MAX.

    ``transfers``: how many orders, 1 to ORDERS_MAX; ``workers``: programs that pay them, 1 to WORKERS_MAX; ``orders``: a file of
    orders, used again and again until there are enough.

    ``pairs``, ``drivers``: these alone; ``few``: so few couples of drivers that each pair and each driver occurs, and servers
    killed for the first of them alone; ``victims``: what is killed, of PROGRAM and SERVER; ``lanes``: programs at a time, 1 to
    LANES_MAX.
    """

    seed: int = 1
    nodes: int = 3
    keep: bool = False
    node_module: str = NODE
    duration_s: float | None = None
    rounds: int | None = None
    rate: float | None = None
    transfers: int | None = None
    workers: int | None = None
    orders: Path | None = None
    pairs: tuple[str, ...] = ()
    drivers: tuple[str, ...] = ()
    few: bool = False
    victims: tuple[str, ...] = ()
    lanes: int | None = None

    def __post_init__(self) -> None:
        if self.nodes not in NODES:
            raise ConfigError(f"a drill cannot run on {self.nodes} nodes; give 1, 3, 5 or 7")
        for what, value, least, most in (
            ("a duration of {:g} s", self.duration_s, 1, DURATION_S_MAX),
            ("{} rounds", self.rounds, 1, ROUNDS_MAX),
            ("{:g} orders per second", self.rate, 0.1, RATE_MAX),
            ("{} transfers", self.transfers, 1, ORDERS_MAX),
            ("{} workers", self.workers, 1, WORKERS_MAX),
            ("{} programs at a time", self.lanes, 1, LANES_MAX),
        ):
            if value is not None and not least <= value <= most:
                raise ConfigError(f"{what.format(value)} is out of range; give {least} to {most:.0f}")
        if unknown := set(self.victims) - {PROGRAM, SERVER}:
            raise ConfigError(f"{min(unknown)!r} cannot be killed; give program or server")

    def given(self) -> set[str]:
        """The options that were given, of those that not every drill takes."""
        return {name for name in FLAGS if getattr(self, name)}
