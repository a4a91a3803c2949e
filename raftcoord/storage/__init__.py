"""node.db: the raft log, term and vote, and the ledger, in one commit."""
