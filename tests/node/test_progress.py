"""A node that reads for long says how far it is, and says nothing while it makes no progress."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from storage.filling import fill, opened

from raftcoord.processes import progress
from raftcoord.storage.node_db import NodeDb
from raftcoord.storage.reading import Reading


def test_the_decisions_that_were_read_are_counted(tmp_path: Path) -> None:
    db = opened(tmp_path / "n1")
    fill(db, decisions=60)
    stored = len(db.decisions(None, 1000, None))
    db.close()
    reading = Reading()
    NodeDb.open(tmp_path / "n1", cluster_name="demo", node="n1", reading=reading).close()
    assert (reading.what, reading.done, reading.total) == ("decisions", stored, stored)
    assert str(reading) == f"decisions: {stored} of {stored}"


def test_progress_is_told_and_standstill_is_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.1)
    caplog.set_level("INFO")
    with progress.Progress() as told:
        told.reading.begin("decisions", 10)
        wait_for(lambda: "reading decisions: 0 of 10" in caplog.text)
        told.reading.done = 7
        wait_for(lambda: "reading decisions: 7 of 10" in caplog.text)
        told.reading.begin("structure")  # one long call of SQLite: it says nothing, and uses the processor
        wait_for(lambda: "reading structure, " in caplog.text)
        began = caplog.text.count("reading structure")
        wait_for(lambda: caplog.text.count("reading structure") > began, busy=True)
        told.stop()
    waiting = progress.Progress()
    monkeypatch.setattr(progress, "_used", lambda: (0.0, 0))
    caplog.clear()
    with waiting:
        waiting.reading.begin("structure")
        wait_for(lambda: "reading structure" in caplog.text)
        time.sleep(0.5)  # five times the interval, in which nothing is used
        assert caplog.text.count("reading structure") == 1


def wait_for(condition: object, *, busy: bool = False) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        if busy:
            sum(range(10_000))
        else:
            time.sleep(0.01)
