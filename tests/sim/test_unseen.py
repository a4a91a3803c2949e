"""Planted bugs that no simulation can reach: each has a test that sees it, and here that test fails with the bug in."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from sim.oversights import UNSEEN
from sim.plants import PLANTS

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("name", UNSEEN)
def test_what_no_simulation_reaches_is_seen_by_its_test(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path, test = UNSEEN[name].test.split("::")
    spec = importlib.util.spec_from_file_location(f"unseen_{Path(path).stem}", TESTS.parent / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    claim = getattr(module, test)
    claim()
    with UNSEEN[name].plant(), pytest.raises(AssertionError):
        claim()


def test_a_bug_is_hunted_or_unseen_and_not_both() -> None:
    assert not UNSEEN.keys() & PLANTS.keys()
