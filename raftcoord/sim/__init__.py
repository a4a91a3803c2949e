"""The deterministic simulator: the real code on a virtual clock, a simulated network and a simulated power switch.

See docs/testing.md. ``Simulation(seed, Settings(...)).run()`` gives a ``Report``; a promise that was broken is its ``violation``.
"""

from raftcoord.sim.simulation import Report, Settings, Simulation
from raftcoord.sim.synced import Violation

__all__ = ["Report", "Settings", "Simulation", "Violation"]
