"""What is wrong with a cluster and its databases, each with the command that mends it."""
