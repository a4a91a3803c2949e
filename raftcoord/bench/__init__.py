"""How fast: rates and latencies, measured from outside the nodes."""
