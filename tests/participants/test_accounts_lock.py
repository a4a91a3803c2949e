"""One process at a time works on a file of accounts, by whatever path it comes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raftcoord.errors import ConfigError
from raftcoord.participants.accounts import AccountsFile

OPEN = """
import sys
from pathlib import Path
from raftcoord.errors import ConfigError
from raftcoord.participants.accounts import AccountsFile
try:
    AccountsFile(Path(sys.argv[1])).close()
except ConfigError as error:
    print(error)
else:
    print("opened")
"""


def opened_elsewhere(path: Path | str) -> str:
    """What another process says that opens it."""
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "bank").mkdir()
    return tmp_path / "bank" / "accounts.db"


@pytest.fixture
def held(path: Path) -> Iterator[AccountsFile]:
    made = AccountsFile(path)
    yield made
    made.close()


def link(path: Path) -> Path:
    made = path.parent.parent / "link.db"
    made.symlink_to(path)
    return made


def link_to_a_link(path: Path) -> Path:
    made = path.parent / "second.db"
    made.symlink_to(link(path))
    return made


def linked_directory(path: Path) -> Path:
    made = path.parent.parent / "way"
    made.symlink_to(path.parent)
    return made / path.name


WAYS: list[Callable[[Path], Path | str]] = [
    lambda path: path,
    link,
    link_to_a_link,
    linked_directory,
    lambda path: f"{path.parent}/../{path.parent.name}/./{path.name}",
    lambda path: f"/proc/self/root{path}",
]


@pytest.mark.parametrize("way", WAYS)
def test_a_second_process_is_refused_by_every_path(
    held: AccountsFile, path: Path, way: Callable[[Path], Path | str]
) -> None:
    other = way(path)
    assert "is in use by another participant" in opened_elsewhere(other)
    held.close()
    assert opened_elsewhere(other) == "opened\n"


def test_it_goes_both_ways(path: Path) -> None:
    AccountsFile(path).close()
    by_link = AccountsFile(link(path))
    assert "is in use by another participant" in opened_elsewhere(path)
    by_link.close()


def test_a_new_file_may_be_made_by_a_link(path: Path) -> None:
    way = link(path)
    AccountsFile(way).close()
    assert path.is_file()
    assert way.is_symlink()


def test_a_file_of_two_names_is_refused_before_anything_is_changed(path: Path) -> None:
    AccountsFile(path).close()
    second = path.with_name("second.db")
    second.hardlink_to(path)
    before = path.read_bytes()
    for name in (path, second):
        with pytest.raises(ConfigError, match="2 names"):
            AccountsFile(name)
    assert path.read_bytes() == before
    second.unlink()
    AccountsFile(path).close()


@pytest.mark.skipif(
    sys.platform != "linux", reason="flock(2) on the file itself is safe beside SQLite's locks on Linux alone"
)
def test_the_file_itself_is_locked_and_not_its_path_alone(held: AccountsFile, path: Path) -> None:
    path.with_name(f"{path.name}.lock").unlink()
    assert "is in use by another participant" in opened_elsewhere(path)


def test_a_link_to_itself_is_refused(path: Path) -> None:
    path.symlink_to(path)
    with pytest.raises(ConfigError):
        AccountsFile(path)
