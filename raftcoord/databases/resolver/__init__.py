"""The resolver: it finishes what crashed programs leave prepared in databases, by what the ledger says and nothing else."""
