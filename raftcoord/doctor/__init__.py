"""What is wrong with a cluster and its databases, each with the command that fixes it.

Owed: every node and resource of cluster.yaml is asked, and gets its rows, also if it does not answer; the whole takes a bounded
time, whatever hangs; no row shows a password. Never: a change, but for a probe file without a name in a data directory.
"""
