"""raftcoord: the transaction coordinator that does not forget.

    async with raftcoord.AsyncClient.from_config("cluster.yaml") as client:
        outcome = await client.submit({"bank-a": [...], "bank-b": [...]})

This is the whole public API. What needs sockets is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from raftcoord.errors import (
    Aborted,
    ConfigError,
    CorruptionError,
    Halt,
    InDoubt,
    LocalProtocolError,
    Overloaded,
    ProtocolError,
    RaftcoordError,
    RemoteProtocolError,
    StorageError,
    Unavailable,
)
from raftcoord.types import Answer, Branch, NodeName, Outcome, Payload, State, TxId, Verdict, Vote, VoteKind

if TYPE_CHECKING:
    from raftcoord.client.asynchronous import AsyncClient
    from raftcoord.client.synchronous import Client
    from raftcoord.config import Config
    from raftcoord.participants.interface import NotPrepared, Participant, WrongCluster

COMMIT: Final = Verdict.COMMIT
ABORT: Final = Verdict.ABORT

__all__ = [
    "ABORT",
    "COMMIT",
    "Aborted",
    "Answer",
    "AsyncClient",
    "Branch",
    "Client",
    "Config",
    "ConfigError",
    "CorruptionError",
    "Halt",
    "InDoubt",
    "LocalProtocolError",
    "NodeName",
    "NotPrepared",
    "Outcome",
    "Overloaded",
    "Participant",
    "Payload",
    "ProtocolError",
    "RaftcoordError",
    "RemoteProtocolError",
    "State",
    "StorageError",
    "TxId",
    "Unavailable",
    "Verdict",
    "Vote",
    "VoteKind",
    "WrongCluster",
    "__version__",
]

_LAZY: Final = {
    "AsyncClient": "raftcoord.client.asynchronous",
    "Client": "raftcoord.client.synchronous",
    "Config": "raftcoord.config",
    "NotPrepared": "raftcoord.participants.interface",
    "Participant": "raftcoord.participants.interface",
    "WrongCluster": "raftcoord.participants.interface",
}

__version__: str


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            value: Any = version("raftcoord")
        except PackageNotFoundError:  # run from a source tree that is not installed
            value = "0+source"
    elif name in _LAZY:
        from importlib import import_module

        value = getattr(import_module(_LAZY[name]), name)
    else:
        raise AttributeError(f"module 'raftcoord' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
