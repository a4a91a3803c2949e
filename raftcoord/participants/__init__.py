"""Services that vote: the interface and its obligations, the worker, the SQLite participant, the conformance suite."""
