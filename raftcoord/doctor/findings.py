"""A row of the examination, and what follows from all of them."""

from __future__ import annotations

import enum
from typing import Any, Final, NamedTuple


class Severity(enum.IntEnum):
    """How bad it is. OK and NOTE ask for nothing; a WARNING is a risk; an ERROR is broken now, or will be after a crash."""

    OK = 0
    NOTE = 1
    WARNING = 2
    ERROR = 3


REACHABLE: Final = "reachable"
LEADER: Final = "leader"
DAMAGE: Final = "damage"


class Row(NamedTuple):
    """One thing that was looked at. ``subject``: node n1, resource ledger; ``mend``: what to do, "" if nothing."""

    subject: str
    check: str
    verdict: Severity
    what: str
    mend: str = ""

    def to_json(self) -> dict[str, Any]:
        return {**self._asdict(), "verdict": self.verdict.name.lower(), "mend": self.mend or None}


class DoctorReport(NamedTuple):
    """Everything that was found, grouped by subject."""

    rows: list[Row]

    def count(self, verdict: Severity) -> int:
        """How many rows have this verdict."""
        return sum(row.verdict is verdict for row in self.rows)

    def fails(self, *checks: str) -> bool:
        """Whether one of ``checks`` (all, if none is named) is an error somewhere."""
        return any(row.verdict is Severity.ERROR and (not checks or row.check in checks) for row in self.rows)

    def by_subject(self) -> dict[str, list[Row]]:
        """The worst first, in each subject and among the subjects; otherwise in the order of looking."""
        grouped: dict[str, list[Row]] = {}
        for row in sorted(self.rows, key=lambda row: -row.verdict):
            grouped.setdefault(row.subject, []).append(row)
        return grouped
