"""A replicated table is one file, one entry in the list and a model: here one is added, and nothing else of the house is touched.

It is added to a copy of the source, with which real nodes then run. What is noted at one of them is applied everywhere, is stored
and is there after a restart. It is copied to a node that is too far behind for the log. The model finds a ledger that is wrong.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NEW = Path(__file__).parent / "a_new_table"
LINES_MAX = 60

SCENARIO = """
import asyncio, sqlite3, sys
from pathlib import Path

import raftcoord
from cluster import Cluster, config_in, until
from raftcoord.core.tables.notes import Note, Notes
from raftcoord.limits import NodeBounds
from raftcoord.sim.models import LedgerModel
from raftcoord.storage.schema import FORMAT

place, source = Path(sys.argv[1]), Path(sys.argv[2])
assert Path(raftcoord.__file__).is_relative_to(source), raftcoord.__file__
assert FORMAT == 3
model = LedgerModel()


async def note(cluster, at, name, text):
    loop = asyncio.get_running_loop()
    answered = loop.create_future()
    cluster.nodes[at].propose(Note(name, text), loop.time() + 20, answered.set_result)
    result = await answered
    model.apply(Note(name, text), 0, 0)
    return result.changed


async def main():
    async with Cluster(config_in(place), NodeBounds(log_tail_entries=2, log_compact_slack=2)) as cluster:
        await cluster.start()
        leader = await cluster.leader()
        behind = (await cluster.followers())[0]
        assert await note(cluster, behind, "a", "first")
        assert not await note(cluster, leader, "a", "first")
        await cluster.agreed()
        last = cluster.nodes[behind].position().log_last
        await cluster.stop(behind)
        for number in range(12):
            assert await note(cluster, leader, f"n{number % 3}", str(number))
        await until(lambda: cluster.nodes[leader].position().log_first > last, "the log to be cut")
        await cluster.start(behind)
        await cluster.agreed()
        assert cluster.nodes[behind].position().log_first > last, "it was told by the log, not by a copy"
        for name in cluster.names:
            assert model.difference(cluster.nodes[name].ledger, ()) is None, name
        await until(lambda: cluster.dbs[behind].load().tables["notes"].rows, "it to be stored there")
        await cluster.stop()
        await cluster.start()
        await cluster.agreed()
        ledgers = [cluster.nodes[name].ledger for name in cluster.names]
        assert {ledger[Notes].by_name["n2"].text for ledger in ledgers} == {"11"}
        assert [model.difference(ledger, ()) for ledger in ledgers] == [None] * 3
        ledgers[0].apply(Note("n2", "of this node alone"), 1, 1)
        print(model.difference(ledgers[0], ()))
        assert cluster.halted == []


asyncio.run(main())
[(crc,)] = sqlite3.connect(place / "n2" / "node.db").execute("SELECT crc FROM notes WHERE name = ?", (b"a",))
"""


def test_a_table_is_added_by_one_file_and_one_entry(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "raftcoord", source / "raftcoord", ignore=shutil.ignore_patterns("__pycache__"))
    table = shutil.copy(NEW / "notes.py", source / "raftcoord/core/tables/notes.py")
    shutil.copy(NEW / "model.py", source / "raftcoord/sim/models/notes.py")
    assert Path(table).read_text().count("\n") < LINES_MAX
    listed = source / "raftcoord/core/tables/__init__.py"
    before = listed.read_text()
    after = before.replace(", ClusterMembers)", ", ClusterMembers, Notes)")
    assert after != before
    listed.write_text(after.replace("from typing", "from raftcoord.core.tables.notes import Notes\nfrom typing", 1))
    paths = os.pathsep.join(map(str, (source, ROOT / "tests/consensus", ROOT / "tests")))
    done = subprocess.run(
        [sys.executable, "-c", SCENARIO, str(tmp_path / "data"), str(source)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "of this node alone" in done.stdout
