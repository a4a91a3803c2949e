"""Every planted bug that the simulator must find: the corrections of DESIGN section 3 taken out, and our own protocol broken.

``PLANTS``: name -> what makes a context in which the product has that bug. Where tests/consensus has a plant that no healthy
message survives, or one that needs another to be reached, this room has one of its own: here whole nodes run.
"""

from __future__ import annotations

import pickle
from contextlib import suppress
from typing import Any, Final

import plants as hazards  # tests/consensus/plants.py
from plants import Plant, both, replacing

from raftcoord.consensus import group
from raftcoord.consensus.entries import acceptable
from raftcoord.consensus.pysyncobj import wire
from raftcoord.consensus.pysyncobj.guard import Guarded
from raftcoord.errors import RemoteProtocolError
from sim.mutations import MUTATIONS
from sim.oversights import OVERSIGHTS
from sim.resolving import RESOLVING

# -- H8: pickle -------------------------------------------------------------------------------------------------------


def _unpickled(entry: bytes, *bounds: Any) -> Any:
    """As PySyncObj takes whatever arrives."""
    with suppress(Exception):  # most entries are none
        pickle.loads(entry)
    return acceptable(entry, *bounds)


h8_pickle_on_the_wire = both(hazards.h8_pickle_in_the_engine, replacing((group, "acceptable", _unpickled)))

# -- H9: what cannot be applied ---------------------------------------------------------------------------------------


def _lenient(entry: bytes, *bounds: Any) -> Any:
    try:
        return acceptable(entry, *bounds)
    except RemoteProtocolError:
        return ()


h9_whatever_a_peer_proposes = replacing((group, "acceptable", _lenient))

# -- H15: administrative commands -------------------------------------------------------------------------------------

_decode = wire.decode
_receive = Guarded.receive


def _decode_leniently(row: Any) -> Any:
    administrative = isinstance(row, list) and row and isinstance(row[0], str)
    return {"type": row[0], "term": 0, "args": row[1:]} if administrative else _decode(row)


def _receive_and_obey(self: Any, sender: int, message: Any, now: float) -> None:
    commands = self._outbox._onUtilityMessageCallbacks
    if message["type"] in commands:
        commands[message["type"]](message["args"], lambda *_: None)
    else:
        _receive(self, sender, message, now)


h15_admin_messages_pass = replacing((wire, "decode", _decode_leniently))
h15_admin_commands_are_wired = both(
    hazards.h15_admin_commands_are_wired, h15_admin_messages_pass, replacing((Guarded, "receive", _receive_and_obey))
)

# -- all --------------------------------------------------------------------------------------------------------------


def _of(module: dict[str, Any]) -> dict[str, Plant]:
    return {name: made for name, made in module.items() if name[:1] == "h" and name[1:2].isdigit()}


_HAZARDS: Final = {**_of(vars(hazards)), **_of(globals())}
for unreached in (
    "h8_pickle_in_the_engine",  # a part of h8_pickle_on_the_wire; alone nothing comes to it
    "h9_an_unknown_command_is_skipped",  # no log of a simulation has a command of a newer release: test_hazards.py has one
):
    del _HAZARDS[unreached]

PLANTS: Final[dict[str, Plant]] = {
    **{
        name.replace("_", " ").replace("h", "H", 1): _HAZARDS[name]
        for name in sorted(_HAZARDS, key=lambda name: (int(name[1:].split("_")[0]), name))
    },
    **MUTATIONS,
    **OVERSIGHTS,
    **RESOLVING,
}

NODES: Final = {
    "H10 every vote counts": 5,  # of three, one vote beside its own makes a leader
    "the leader counts what it has not synced": 1,  # more than one: what others hold was synced here before they were sent it
}
"""Of how many nodes the cluster is in which this bug can show, if not 3."""
