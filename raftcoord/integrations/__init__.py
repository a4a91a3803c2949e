"""raftcoord in the frameworks that people use: sessions, requests and transaction managers of theirs."""
