"""Processes of raftcoord on this machine: one, a whole local cluster, and how far a start has come."""
