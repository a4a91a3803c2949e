"""A node: the client port, transactions, delivery and recovery, and the process that wires them to consensus."""
