"""``python -m raftcoord.participants --config cluster.yaml --name bank-a --db bank-a.db``: the SQLite participant's process.

It prints ``raftcoord participant NAME ready`` on stdout once a node has admitted it, logs to stderr, and ends on SIGTERM
or SIGINT after the batch that is running. What fails is one sentence on stderr. Exit codes: 0 stopped, 2 wrong arguments,
cluster.yaml or file, 1 any other failure.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from raftcoord.config import Config
from raftcoord.errors import ConfigError, LocalProtocolError, RaftcoordError
from raftcoord.participants.serve import accounts_of, serve_accounts


def main(arguments: list[str] | None = None) -> int:
    """Run the SQLite participant until it is stopped; the process's exit code."""
    options = _options().parse_args(arguments)
    try:
        serve_accounts(options.db, options.name, Config.load(options.config), accounts_of(options.open))
    except RaftcoordError as error:
        print(f"raftcoord participant {options.name}: {error}", file=sys.stderr)
        return 2 if isinstance(error, (ConfigError, LocalProtocolError)) else 1
    return 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m raftcoord.participants", description="The SQLite participant.")
    parser.add_argument("--config", type=Path, default=Path("cluster.yaml"), help="default: cluster.yaml")
    parser.add_argument("--name", required=True, help="the name that transactions call it by")
    parser.add_argument("--db", type=Path, required=True, help="its SQLite file, created if missing")
    parser.add_argument(
        "--open",
        action="append",
        default=[],
        metavar="KEY=AMOUNT",
        help="open an account; only the first time for a file; may be repeated",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
