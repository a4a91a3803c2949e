"""Tables on narrow and wide screens, in files and in pipes: what is shown is shown whole, and a txid always is."""

from __future__ import annotations

import io
import random
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from raftcoord_cli import bench, participant, resource, telling, txn
from raftcoord_cli.tables import Column, PrintedTable
from raftcoord_cli.view import View
from rich.console import Console

from raftcoord.api.answers import ParticipantRow
from raftcoord.errors import Unavailable
from raftcoord.types import State, TxId

CLI = Path(txn.__file__).parent
WIDTHS = range(40, 201)
WORDS = (
    "COMMITTED",
    "bank-a, bank-b, bank-c",
    "no answer in time from 'bank-b'",
    "-",
    "",
    "x" * 90,
    "日本語の名前",
    "a b",
)


def lines(shown: Any, width: int, terminal: bool = False) -> list[str]:
    screen = Console(file=io.StringIO(), width=width, force_terminal=terminal, highlight=False, color_system=None)
    with screen.capture() as captured:
        screen.print(shown)
    return [line.rstrip() for line in captured.get().splitlines()]


def squeezed(text: str) -> str:
    return re.sub(r"\s", "", text)


def transactions() -> PrintedTable:
    row = {
        "state": State.ABORTED,
        "at_ms": 1_700_000_000_000,
        "branches": ["bank-a", "bank-b"],
        "outstanding": [],
        "branch": "",
    }
    rows = [
        {**row, "txid": TxId.new(), "reason": reason}
        for reason in ("", "participant 'bank-z' is not connected to this node: start it, or correct the name")
    ]
    table = txn._table(rows)
    assert isinstance(table, PrintedTable)
    return table


def participants() -> PrintedTable:
    row = ParticipantRow("bank-a", *[None] * (len(ParticipantRow._fields) - 1))  # type: ignore[arg-type]
    row = row._replace(identity="ab" * 16, at_ms=1_700_000_000_000, who="alice", before="cd" * 16, refused=("ef" * 16,))
    table = participant._table([row, row._replace(name="a-bank-with-a-name-of-its-own", sessions=2)])
    assert isinstance(table, PrintedTable)
    return table


def prepared() -> PrintedTable:
    gid = SimpleNamespace(txid=TxId.new(), branch="ledger")
    branch = SimpleNamespace(
        each=(gid, 12.0, "shop_of_the_other_branch", False), whose="this cluster", state="UNDECIDED"
    )
    return resource._table(SimpleNamespace(branches=[branch, branch]))  # type: ignore[arg-type]


def nodes() -> PrintedTable:
    said = {"role": "leader", "term": 7, "commit_index": 123_456, "applied_index": 123_456, "open": 0, "running": 12}
    answers = {**said, "uptime_s": 12_345.0, "participants": ["bank-a", "bank-b"], "peers": {}, "damages": 0}
    return View("demo", {"n1": answers, "n2": {**answers, "role": "follower"}})._table()


def measured() -> PrintedTable:
    each = SimpleNamespace(
        what="decide through a follower",
        in_flight=512,
        rate_per_s=45_123.4,
        latency_ms_p50=1.234,
        latency_ms_p99=12.345,
        latency_ms_max=123.456,
    )
    return bench._table(SimpleNamespace(results=[each]))  # type: ignore[arg-type]


def compared() -> PrintedTable:
    rate = SimpleNamespace(rate_per_s=1234.5, latency_ms_p50=1.2, latency_ms_p99=3.4)
    each = SimpleNamespace(
        pair="mixed", workers=32, plain=rate, coordinated=rate, ratio=0.8, ratio_min=0.7, ratio_max=0.9
    )
    return bench._databases_table(SimpleNamespace(results=[each]))  # type: ignore[arg-type]


def killed() -> PrintedTable:
    row = {
        "pair": "postgresql-mariadb",
        "drivers": ["psycopg", "PyMySQL"],
        "point": "after the decision, before the commits",
        "killed": "program",
        "outcome": "COMMITTED",
        "told": "killed",
        "locks_free_s": 1.5,
        "held": True,
    }
    return telling._cases([row])


TABLES: tuple[Callable[[], PrintedTable], ...] = (
    transactions,
    participants,
    prepared,
    nodes,
    measured,
    compared,
    killed,
)


def judge(table: PrintedTable, width: int, terminal: bool) -> None:
    shown = lines(table, width, terminal)
    assert max(map(len, shown)) <= width
    assert not any("…" in line for line in shown)
    named = [line for line in shown if line.startswith(f"not shown in {width} columns: ")]
    text = squeezed(" ".join(shown))
    stacked = squeezed(f"{table.columns[0].name}: {table.rows[0][0][0]}") in text
    dropped = set(re.findall(r"not shown in \d+ columns: (.*?) \(-o json", " ".join(shown))) if named else set()
    names = {name for each in dropped for name in each.split(", ")}
    assert names <= {column.name for column in table.columns if column.drop}
    for number, column in enumerate(table.columns):
        for cells, _ in table.rows:
            if column.name not in names and (stacked or not column.wrap):
                assert squeezed(cells[number]) in text, (column.name, width)


@pytest.mark.parametrize("make", TABLES, ids=lambda make: make.__name__)
def test_every_table_of_the_command_line_fits_every_width(make: Callable[[], PrintedTable]) -> None:
    table = make()
    for width in WIDTHS:
        for terminal in (False, True):
            judge(table, width, terminal)
    (*_, last) = lines(table, 10_000)
    assert len(last.split()) >= 2, "in a pipe a row is one line"
    assert len(lines(table, 10_000)) == len(table.rows) + 3


def test_a_txid_is_whole_and_in_one_piece_at_every_width() -> None:
    for make in (transactions, prepared):
        table = make()
        for width in WIDTHS:
            shown = "\n".join(lines(table, width))
            assert all(cells[0] in shown for cells, _ in table.rows)


def test_no_list_has_a_table_of_its_own() -> None:
    """doctor and sim show pairs of a name and a text, not rows."""
    users = {path.name for path in CLI.glob("*.py") if "rich.table" in path.read_text()}
    assert users == {"doctor.py", "sim.py"}
    made = {path.stem for path in CLI.glob("*.py") if "= PrintedTable(" in path.read_text()}
    assert made == {"txn", "participant", "resource", "view", "bench", "telling"}, "add it to TABLES"


def test_any_table_fits_whatever_it_holds() -> None:
    rng = random.Random(7)
    for _ in range(60):
        columns = [Column("key")]
        columns += [
            Column(f"column {number}", rng.randrange(5), rng.random() < 0.5, rng.random() < 0.5) for number in range(5)
        ]
        table = PrintedTable(columns)
        for _ in range(rng.randrange(1, 4)):
            table.add("0123456789abcdef" * 2, *(rng.choice(WORDS) for _ in range(5)))
        for width in rng.sample(WIDTHS, 10):
            shown = lines(table, width)
            assert not any("…" in line for line in shown)
            assert "0123456789abcdef" * 2 in "\n".join(shown)


def test_what_a_stranger_wrote_moves_no_cursor_and_makes_no_line() -> None:
    table = PrintedTable([Column("key"), Column("reason", wrap=True)])
    table.add("k", "red \x1b[31m[bold]alarm[/bold]\nERROR forged\r")
    shown = lines(table, 100)
    assert len(shown) == 4
    assert "red \\x1b[31m[bold]alarm[/bold]\\nERROR forged\\r" in shown[-1]


def test_a_node_that_is_no_member_is_shown_as_none_by_the_newest_set() -> None:
    said = {"role": "leader", "term": 7, "commit_index": 9, "applied_index": 9, "open": 0, "running": 0}
    rest = {"uptime_s": 1.0, "participants": [], "peers": {}, "damages": 0}
    before = [{"name": "n1"}, {"name": "n2"}]
    told = {
        "n1": {**said, **rest, "epoch": 3, "members": [{"name": "n1"}]},
        "n2": {**said, **rest, "role": "removed", "epoch": 2, "members": before},
        "n3": Unavailable("cannot reach it"),
    }
    view = View("demo", told)
    assert [node["member"] for node in view.to_json()["nodes"]] == [True, False, False]
    shown = lines(view.shown(), 200)
    assert "n2: is no member; take it out of cluster.yaml, or take it in: raftcoord node add n2" in shown
    assert "no member" in next(line for line in shown if "n3" in line)
    nobody_knows = View(
        "demo", {"n1": {**said, **rest, "epoch": 0, "members": []}, "n3": Unavailable("cannot reach it")}
    )
    assert [node["member"] for node in nobody_knows.to_json()["nodes"]] == [None, None]


def test_what_comes_from_others_cannot_steer_a_terminal() -> None:
    said = {
        "role": "leader",
        "term": 7,
        "commit_index": 9,
        "applied_index": 9,
        "open": 0,
        "running": 0,
        "uptime_s": 1.0,
    }
    peers = {"n2": {"why": "gone: raftcoord node \x1b[2J", "awaited": True, "refused": "ab"}}
    told = {
        "n1": {**said, "participants": ["bank\x1b]0;x\x07"], "peers": peers, "damages": 0},
        "n2": {**said, "role": "waiting\x1b[1m", "participants": [], "peers": peers, "damages": 0},
        "n3": Unavailable("cannot \x1b[31m reach\nit"),
    }
    for view in (View("demo", told), View("demo", {name: told[name] for name in ("n2", "n3")})):
        shown = "".join(lines(view.shown(), 200)) + view.sentence()
        assert shown.isprintable()
        assert "\\x1b[2J" in shown
