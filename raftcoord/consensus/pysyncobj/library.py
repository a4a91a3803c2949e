"""The library itself: no thread, no socket, no file, no pickle, no clock and no chance of its own.

We run a private instance of the module ``pysyncobj.syncobj``, so that what is replaced in it here is replaced for nobody
else in the process:

    monotonicTime    the time of the call that is running (``CLOCK``), the same for all of it
    createJournal    the journal object that the caller passes as ``journalFile``
    pickle           refuses (hazard H8: code execution for anybody who reaches the port)
    logger           silent: what it would log as a warning is a Halt in guard.py

Everything that raftcoord uses of PySyncObj's internals is named in ``INTERNALS`` and ``SETTINGS``; a contract test looks
for each of them, so that an upgrade fails loudly and in one place.
"""

from __future__ import annotations

import importlib.util
import logging
from types import ModuleType
from typing import Any, Final, NoReturn

from raftcoord.errors import Halt

VERSION: Final = "0.3.17"

INTERNALS: Final = (
    "_SyncObj__raftState",
    "_SyncObj__raftCurrentTerm",
    "_SyncObj__votedForNodeId",
    "_SyncObj__votesCount",
    "_SyncObj__raftLeader",
    "_SyncObj__raftElectionDeadline",
    "_SyncObj__raftCommitIndex",
    "_SyncObj__raftLastApplied",
    "_SyncObj__raftNextIndex",
    "_SyncObj__raftMatchIndex",
    "_SyncObj__lastResponseTime",
    "_SyncObj__newAppendEntriesTime",
    "_SyncObj__connectedNodes",
    "_SyncObj__otherNodes",
    "_SyncObj__selfNode",
    "_SyncObj__raftLog",
)
"""Attributes that guard.py and raft.py read or write."""

METHODS: Final = (
    "_SyncObj__onMessageReceived",
    "_SyncObj__onBecomeLeader",
    "_SyncObj__onNodeConnected",
    "_SyncObj__onNodeDisconnected",
    "_SyncObj__onLeaderChanged",
    "_SyncObj__setState",
    "_SyncObj__setCurrentTerm",
    "_SyncObj__generateRaftTimeout",
    "_SyncObj__connectedToAnyone",
    "_SyncObj__getEntries",
    "_SyncObj__deleteEntriesFrom",
    "_SyncObj__sendAppendEntries",
    "_SyncObj__sendNextNodeIdx",
    "_SyncObj__applyLogEntries",
    "_onTick",
)
"""Methods that guard.py and raft.py call or replace."""


class Clock:
    """``now``: what PySyncObj takes for the time (seconds, monotonic) in the call that runs. Ours is handed down (raft.py)."""

    now = 0.0


CLOCK: Final = Clock()


class _NoPickle:
    """Stands where PySyncObj expects pickle."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise Halt("PySyncObj tried to use pickle, which raftcoord never does; keep the data directory and report it")

    loads = dumps = load = dump = to_bytes = _refuse


def _silent() -> logging.Logger:
    logger = logging.Logger("raftcoord.consensus.pysyncobj")
    logger.disabled = True
    return logger


def _load() -> ModuleType:
    spec = importlib.util.find_spec("pysyncobj.syncobj")
    if spec is None or spec.loader is None:
        raise Halt("pysyncobj is not installed; install raftcoord again with pip")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    vars(module).update(
        monotonicTime=lambda: CLOCK.now,
        createJournal=lambda journal: journal,
        pickle=_NoPickle(),
        logger=_silent(),
    )
    return module


_module: Final = _load()

SyncObj: Final[Any] = _module.SyncObj
SyncObjConf: Final[Any] = _module.SyncObjConf
Node: Final[Any] = _module.Node
Transport: Final[Any] = _module.Transport
STATE: Final[Any] = _module._RAFT_STATE
KINDS: Final[Any] = _module._COMMAND_TYPE
"""What PySyncObj puts into the first byte of an entry. Its own changes of membership are switched off."""
