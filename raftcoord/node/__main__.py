"""``python -m raftcoord.node CLUSTER_YAML NAME`` runs one node."""

import sys

from raftcoord.node.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
