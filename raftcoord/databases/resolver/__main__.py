"""``python -m raftcoord.databases.resolver CLUSTER_YAML``: the resolver's process.

It prints ``raftcoord resolver CLUSTER ready: ...`` on stdout, logs to stderr, and ends on SIGTERM or SIGINT. What it cannot run
with is one sentence on stderr. Exit codes: 0 stopped, 2 wrong arguments or cluster.yaml, 1 any other failure.
"""

from __future__ import annotations

import sys

from raftcoord.config import Config
from raftcoord.databases.resolver.serve import serve
from raftcoord.errors import ConfigError, RaftcoordError

USAGE = "usage: python -m raftcoord.databases.resolver CLUSTER_YAML"


def main(arguments: list[str]) -> int:
    """Run until stopped; the process's exit code."""
    if len(arguments) != 1:
        print(USAGE, file=sys.stderr)
        return 2
    try:
        serve(Config.load(arguments[0]), lambda ready: print(ready, flush=True))
    except RaftcoordError as error:
        print(f"resolver: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
