"""The first lines of ``raftcoord``: Ctrl-C while Python still imports ends it with a line, and not with a traceback."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line. Everything else is imported in here, where an interruption is expected."""
    try:
        from .main import main as run
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    run()
