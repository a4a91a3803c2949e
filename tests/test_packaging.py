"""What is installed is what is here: every package is listed, the command is there, and no module is called cli."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
COPIED = (
    *(".ci", ".gitignore", "LICENSE", "README.md", "cli", "cluster.yaml", "docs", "pyproject.toml", "raftcoord"),
    *("scripts", "tests"),
)


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def packages_here() -> set[str]:
    found = set()
    for init in [*(ROOT / "raftcoord").rglob("__init__.py"), *(ROOT / "cli").rglob("__init__.py")]:
        parts = init.parent.relative_to(ROOT).parts
        found.add(".".join(("raftcoord_cli", *parts[1:]) if parts[0] == "cli" else parts))
    return found


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy to build from, because building leaves files beside the sources."""
    copy = tmp_path_factory.mktemp("sources")
    for name in COPIED:
        subprocess.run(["cp", "-R", str(ROOT / name), str(copy)], check=True)
    return copy


def environment() -> dict[str, str]:
    """This one without what would let Python, or pip, find the sources."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RAFTCOORD"))}


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, env=environment(), cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this version."""
    directory = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(directory), str(sources))
    (built,) = directory.glob("raftcoord-*.whl")
    return built


def test_every_package_is_listed() -> None:
    assert set(project()["tool"]["setuptools"]["packages"]) == packages_here()


def test_what_the_wheel_holds_is_what_is_here(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "raftcoord").rglob("*.py")}
    modules |= {f"raftcoord_cli/{path.relative_to(ROOT / 'cli')}" for path in (ROOT / "cli").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    assert {"raftcoord/py.typed", "raftcoord_cli/py.typed"} <= names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"raftcoord", "raftcoord_cli"}


def test_the_source_distribution_holds_all_that_is_here(sources: Path, tmp_path: Path) -> None:
    program = "import sys; sys.path.insert(0, '.ci'); import backend; backend.build_sdist(sys.argv[1])"
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=sources, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = tmp_path.glob("raftcoord-*.tar.gz")
    with tarfile.open(built) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = [
        *COPIED,
        "docs/operations.md",
        "scripts/demo",
        "scripts/test",
        "tests/conftest.py",
        "tests/storage/filling.py",
    ]
    assert set(tracked) <= names
    here = {str(path.relative_to(ROOT)) for name in ("docs", "scripts") for path in (ROOT / name).iterdir()}
    assert here <= names
    assert not [name for name in names if "__pycache__" in name]
    with tarfile.open(built) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = next(path for path in tmp_path.iterdir() if path.is_dir())
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(unpacked))
    assert list(tmp_path.glob("raftcoord-*.whl"))


@pytest.mark.parametrize("way", ["wheel", "editable", "strict editable"])
def test_each_way_of_installing_gives_the_command_and_no_module_called_cli(
    way: str, wheel: Path, sources: Path, tmp_path: Path
) -> None:
    """Into a virtual environment that borrows the dependencies of this one and sees neither this raftcoord nor its directory."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    strict = ["--config-settings", "editable_mode=strict"] if way == "strict editable" else []
    what = [str(wheel)] if way == "wheel" else ["--no-build-isolation", *strict, "--editable", str(sources)]
    borrow_dependencies(python)
    pip("--python", str(python), "install", "--no-deps", *what)

    program = "import importlib.util as u; import raftcoord.config, raftcoord_cli.main; print(u.find_spec('cli'))"
    for command, expected in (
        ([str(python), "-c", program], "None"),
        ([str(tmp_path / "venv" / "bin" / "raftcoord"), "--version"], f"raftcoord {project()['project']['version']}"),
    ):
        done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout.strip()) == (0, expected), done.stderr


def borrow_dependencies(python: Path) -> None:
    """Link this environment's packages into the new one, except what belongs to raftcoord."""
    show = "import sysconfig; print(sysconfig.get_path('purelib'))"
    here, there = (
        Path(subprocess.run([which, "-c", show], capture_output=True, text=True, check=True).stdout.strip())
        for which in (sys.executable, str(python))
    )
    for entry in here.iterdir():
        if "raftcoord" not in entry.name and not (there / entry.name).exists():
            (there / entry.name).symlink_to(entry)
