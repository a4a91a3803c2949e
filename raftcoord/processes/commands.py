"""The command lines of raftcoord's own processes. Each is written here and nowhere else.

They run this very Python, and find raftcoord as this process does.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

NODE = "raftcoord.node"
"""The module of a node; a test of the drills runs one that breaks its promises."""


def python(module: str, *arguments: str) -> list[str]:
    """Run ``module`` as a program."""
    return [sys.executable, "-m", module, *arguments]


def node(config: Path, name: str, module: str = NODE) -> list[str]:
    """Node ``name`` of the cluster.yaml ``config``."""
    return python(module, str(config.absolute()), name)


def participant(config: Path, name: str, db: Path, arguments: Sequence[str] = ()) -> list[str]:
    """The SQLite participant ``name`` on the file ``db``; ``arguments``: more of ``raftcoord.participants``."""
    given = ("--config", str(config.absolute()), "--name", name, "--db", str(db.absolute()))
    return python("raftcoord.participants", *given, *arguments)


def resolver(config: Path) -> list[str]:
    """The resolver of all resources that ``config`` names."""
    return python("raftcoord.databases.resolver", str(config.absolute()))
