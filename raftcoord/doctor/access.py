"""Who else can get at it: the files of the nodes of this machine, and the ports that are open to other machines.

Owed: a row for each that names the command or the line that closes it. Never: a change of anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from raftcoord import private
from raftcoord.config import Config
from raftcoord.doctor.findings import Row, Severity
from raftcoord.node.main import OPEN_TO_ALL


def judge_files(subject: str, directory: Path, beside: Iterable[Path]) -> Row:
    """The row for a node's ``directory``, what is in it, and the files ``beside`` it. OSError if it cannot be looked at."""
    here = [directory, *private.files_of(directory)] if directory.is_dir() else []
    opened = [path for path in (*here, *beside) if path.exists() and private.opened_to(path)]
    if not opened:
        return Row(subject, "access", Severity.OK, "its files are their owner's alone")
    named = ", ".join(str(path) for path in opened[:3]) + (f" and {len(opened) - 3} more" if len(opened) > 3 else "")
    what = f"other users of this machine can use {named}: a user who can read them can stop the node with a lock"
    shown = " ".join(str(path) for path in opened)
    return Row(subject, "access", Severity.ERROR, what, f"chmod go-rwx {shown}; the node's next start does it as well")


def judge_ports(config: Config) -> Iterator[Row]:
    """A row for each node that can be reached from other machines."""
    for node in config.nodes:
        opened = [address for address in (node.peer, node.client) if not address.loopback]
        if opened:
            what = f"{' and '.join(map(str, opened))} can be reached from other machines (allow_remote): {OPEN_TO_ALL}"
            mend = "a firewall that lets nobody but the nodes, clients and participants through; 127.0.0.1 if they are all here"
            yield Row(f"node {node.name}", "ports", Severity.WARNING, what, mend)
