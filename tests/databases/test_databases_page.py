"""docs/databases.md is true: its programs run as they stand, and its table of drivers is the list of drivers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from raftcoord import Client
from raftcoord.config import Config
from raftcoord.databases import registry
from raftcoord.processes.database_servers import DatabaseServer

from .banks import MariaDbBank, PostgreSqlBank
from .connecting import ASYNC, SYNC

PAGE = (Path(__file__).parents[2] / "docs" / "databases.md").read_text()
YES = {True: "yes", False: "no"}


@pytest.mark.parametrize("kind", ["with", "async with"])
def test_the_programs_of_the_page_run_as_written(
    kind: str, config: Config, client: Client, postgresql: DatabaseServer, mariadb: DatabaseServer
) -> None:
    ledger, orders = PostgreSqlBank(postgresql), MariaDbBank(mariadb)
    (program,) = re.findall(rf"^```python {kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for written, here in (
        ("postgresql://app@db1.example.org:5432/shop", ledger.url),
        ('host="db2.example.org", port=3306, user="app"', f'host="127.0.0.1", port={mariadb.port}, user="root"'),
        ('"shop"', f'"{orders.database}"'),
    ):
        assert written in program
        program = program.replace(written, here)
    assert config.path is not None
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=config.path.parent,
        env=os.environ.copy(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "committed in both" in done.stdout or kind == "async with"
    assert (ledger.balance(), orders.balance()) == (90, 110)
    assert not ledger.prepared()
    assert not orders.prepared()
    ledger.close()
    orders.close()


def test_the_table_of_drivers_is_the_list_of_drivers_and_each_is_tried() -> None:
    table = PAGE.partition("\n## Drivers\n")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")
    ][2:]
    told = {row[0]: tuple(row[3:5]) for row in rows}
    drivers = [driver for database in registry.DATABASES for driver in database.drivers]
    known = {
        name: (
            YES[any(not each.asynchronous for each in same)],
            YES[any(each.asynchronous or each.everywhere for each in same)],
        )
        for name in {driver.called for driver in drivers}
        if (same := [driver for driver in drivers if driver.called == name])
    }
    assert told == known
    tried = {name.lower(): (YES[name in SYNC], YES[name in ASYNC]) for name in {*SYNC, *ASYNC}}
    assert tried == {name.lower(): kinds for name, kinds in known.items()}
    for row in rows:
        assert re.search(r"\d+\.\d+", row[1]), row
