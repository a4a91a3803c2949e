"""Everything that raftcoord relies on inside PySyncObj, by name: an upgrade that moves any of it fails here, and in one place."""

from __future__ import annotations

import inspect
import re
from importlib import metadata
from pathlib import Path

import pysyncobj.syncobj
import pytest

from raftcoord.consensus import engine
from raftcoord.consensus.pysyncobj import library

ROOM = Path(inspect.getsourcefile(library) or "").parent
SOURCE = "\n".join(path.read_text(encoding="utf-8") for path in sorted(ROOM.glob("*.py")) if path.name != "library.py")


def a_syncobj() -> object:
    """A bare SyncObj of three nodes, which runs nothing."""
    settings = library.SyncObjConf(autoTick=False)
    settings.journalFile = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library._module, "createJournal", lambda _: Journal())
        return library.SyncObj(
            library.Node(1), [library.Node(2), library.Node(3)], settings, transport=Ready(None, None, ())
        )


class Journal(list[tuple[bytes, int, int]]):
    """The least that PySyncObj asks of a journal while it is made."""

    def add(self, command: bytes, idx: int, term: int) -> None:
        self.append((command, idx, term))

    def getCurrentTerm(self) -> int:
        return 0

    def getVotedForNodeId(self) -> None:
        return None

    def getRaftCommitIndex(self) -> int:
        return 1


class Ready(library.Transport):  # type: ignore[misc]
    """A transport that is there."""


def test_it_is_the_version_whose_source_was_read() -> None:
    assert metadata.version("pysyncobj") == pysyncobj.syncobj.VERSION == library.VERSION


@pytest.mark.parametrize("name", library.INTERNALS)
def test_the_attribute_exists(name: str) -> None:
    assert name in vars(a_syncobj())


@pytest.mark.parametrize("name", library.METHODS)
def test_the_method_exists(name: str) -> None:
    assert callable(getattr(library.SyncObj, name))


def test_everything_that_is_used_is_named() -> None:
    used = set(re.findall(r"_SyncObj__\w+", SOURCE))
    assert used - {*library.INTERNALS, *library.METHODS} == set(), "name it in engine.INTERNALS or engine.METHODS"


def test_nothing_is_named_that_the_engine_does_not_have_or_nobody_needs() -> None:
    needed_inside = set(re.findall(r"self\.__(\w+)", inspect.getsource(pysyncobj.syncobj)))
    for name in (*library.INTERNALS, *library.METHODS):
        assert name in SOURCE or name.removeprefix("_SyncObj__") in needed_inside


def test_only_known_settings_are_given() -> None:
    """SyncObjConf takes any keyword and ignores what it does not know."""
    given = re.findall(
        r"^        (\w+)=", SOURCE[SOURCE.index("return SyncObjConf(") :].partition("\n    )")[0], re.MULTILINE
    )
    assert len(given) >= 9
    known = vars(library.SyncObjConf())
    assert [name for name in given if name not in known] == []


def test_the_engine_is_a_private_copy() -> None:
    """What is replaced in it is replaced for nobody else in the process."""
    assert library._module is not pysyncobj.syncobj
    assert pysyncobj.syncobj.pickle.__name__ == "pysyncobj.pickle"
    assert pysyncobj.syncobj.monotonicTime is not library._module.monotonicTime


def test_the_engine_has_no_clock_of_its_own() -> None:
    library.CLOCK.now = 123.0
    assert library._module.monotonicTime() == 123.0


def test_the_engine_logs_nothing() -> None:
    assert library._module.logger.disabled


def test_the_kinds_of_entries_are_those_in_every_log_so_far() -> None:
    kinds = (library.KINDS.REGULAR, library.KINDS.NO_OP, library.KINDS.MEMBERSHIP)
    assert tuple(bytes((kind,)) for kind in kinds) == (engine.REGULAR, engine.NO_OP, engine.MEMBERS)
    assert (engine.REGULAR, engine.NO_OP, engine.MEMBERS) == (b"\x00", b"\x01", b"\x02")


def test_the_messages_have_the_fields_that_the_wire_carries() -> None:
    """PySyncObj builds none of them here, but it reads them: each must stand in its source."""
    source = inspect.getsource(library.SyncObj)
    for field in ("term", "commit_index", "prevLogIdx", "prevLogTerm", "next_node_idx", "reset", "success"):
        assert f"message['{field}']" in source
    for field in ("last_log_index", "last_log_term"):
        assert f"message['{field}']" in source
    assert "message.get('entries'" in source
