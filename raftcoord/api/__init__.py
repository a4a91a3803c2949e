"""What a node can be asked: one table of operations, with the codec that both ends use."""
