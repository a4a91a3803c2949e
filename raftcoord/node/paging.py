"""As many rows as fit into one answer.

Owed: an answer that is cut short says so, and holds at least one row, so that whoever asks for what follows gets on. Never: an
answer that exceeds a frame because its rows are large: it would fail whenever it is asked for, for ever.
"""

from __future__ import annotations

from typing import Any

from raftcoord import limits
from raftcoord.rpc import frames


class Page:
    """Rows in their order. ``is_cut``: one did not fit any more."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.is_cut = False
        self._bytes = 0

    def add(self, row: dict[str, Any]) -> bool:
        """Whether it fitted; after the first that did not, none does."""
        self._bytes += len(frames.packer()(row))
        if self.is_cut or (self.rows and self._bytes > limits.LISTING_BYTES_MAX):
            self.is_cut = True
        else:
            self.rows.append(row)
        return not self.is_cut

    def answer(self) -> Any:
        """The rows; if they were cut short, a map that an older client refuses, so that it takes them for no end."""
        return {"rows": self.rows, "more": True} if self.is_cut else self.rows
