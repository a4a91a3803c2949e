"""What a web application answers: one table, and every page and recipe follows it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from raftcoord import Aborted, InDoubt, Overloaded, TxId, Unavailable
from raftcoord.integrations.http import NOT_COMMITTED, STATUSES, answer

ROOT = Path(__file__).parents[2]
TXID = TxId.new()


def test_only_what_has_not_happened_is_answered_so_that_it_is_repeated() -> None:
    for error in (Aborted(TXID, "no"), Unavailable("no node"), Overloaded("busy")):
        assert answer(error) == ({"error": str(error)}, 503, {"Retry-After": "1"})


def test_in_doubt_is_accepted_and_says_where_to_ask() -> None:
    error = InDoubt(TXID, "no node answered")
    body = {"error": str(error), "txid": str(TXID)}
    assert answer(error) == (body, 202, {})
    assert answer(error, ask="/transactions/") == (body, 202, {"Location": f"/transactions/{TXID}"})


def test_the_docs_show_the_table() -> None:
    rows = [f"| `{row.error.__name__}` | {row.status} | `{row.header}` | {row.why} |" for row in STATUSES]
    assert "\n".join(rows) in (ROOT / "docs" / "frameworks.md").read_text()
    assert set(NOT_COMMITTED) == {Aborted, Unavailable, Overloaded, InDoubt}


@pytest.mark.parametrize(
    "path",
    [
        *(ROOT / "docs").glob("*.md"),
        ROOT / "README.md",
        *(ROOT / "tests" / "integrations" / "recipes").glob("*.py"),
    ],
    ids=lambda path: path.name,
)
def test_no_example_chooses_a_status_of_its_own(path: Path) -> None:
    text = path.read_text()
    blocks = re.findall(r"^```python.*?\n(.*?)^```$", text, re.M | re.S) if path.suffix == ".md" else [text]
    for block in blocks:
        assert not re.search(r"\b(202|409|500|502|503|504)\b", block), "use raftcoord.integrations.http.answer"
