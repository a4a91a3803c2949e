"""Real processes, real faults, an audit, a verdict."""
