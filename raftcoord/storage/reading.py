"""How far the reading of a node.db has come, for a caller that waits for it.

Written by the thread that reads, looked at by any other. Nothing depends on it.
"""

from __future__ import annotations


class Reading:
    """``what`` is being read now, of which ``done`` rows are behind it and ``total`` there are (0: it is not known)."""

    def __init__(self) -> None:
        self.what = ""
        self.done = 0
        self.total = 0

    def begin(self, what: str, total: int = 0) -> None:
        """From now on ``what`` is read."""
        self.what, self.done, self.total = what, 0, total

    def __str__(self) -> str:
        return f"{self.what}: {self.done:,} of {self.total:,}" if self.total else self.what
