"""Real processes, real faults, a verdict: the demo, the drills and the benchmarks."""
