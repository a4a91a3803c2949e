"""What follows from what was told: clocks, nodes, disks, versions and settings that no server here has."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from raftcoord import TxId, __version__, limits
from raftcoord.api.answers import DamagePage, DamageRow
from raftcoord.config import Address, Config, NodeConfig
from raftcoord.databases import gid as gids
from raftcoord.databases.mariadb import checks as mariadb
from raftcoord.databases.registry import named
from raftcoord.databases.steps import Finding, PreparedHere, SqlError
from raftcoord.doctor import access, clocks, disks, horizon, nodes, prepared
from raftcoord.doctor.clocks import ClockOffset
from raftcoord.doctor.disks import Speed
from raftcoord.doctor.findings import DAMAGE, LEADER, REACHABLE, DoctorReport, Row, Severity
from raftcoord.doctor.prepared import PreparedFound
from raftcoord.errors import ConfigError, Unavailable
from raftcoord.processes.local_cluster import write_local_config
from raftcoord.types import NodeName

from .rows import having, lacking, run, troubles

HOUR_MS = 3_600_000
POSTGRESQL_SETTINGS = {
    "version": 150018,
    "standby": False,
    "read_only": False,
    "allowed": 100,
    "connections": 100,
    "prepared": 3,
    "marks": True,
    "fsync": True,
    "pages": True,
    "lazy": False,
    "user": "app",
}
MYSQL_SETTINGS = {
    "version": "8.0.36",
    "innodb_flush_log_at_trx_commit": "1",
    "innodb_flush_method": "fsync",
    "log_bin": "ON",
    "sync_binlog": "1",
    "binlog_format": "ROW",
    "read_only": "OFF",
}


# -- clocks -------------------------------------------------------------------------------------------------------


def judged(retention_ms: int = HOUR_MS, **ahead_ms: float) -> list[Row]:
    """``ahead_ms`` of each node, give or take 10."""
    return clocks.judge({name: ClockOffset(ahead, 10) for name, ahead in ahead_ms.items()}, retention_ms)


def of(rows: list[Row], subject: str) -> Row:
    (row,) = [row for row in rows if row.subject == subject]
    return row


def test_the_round_trip_is_halved_and_bounds_what_is_certain() -> None:
    assert clocks.measured(1_000, 1_600, 200) == ClockOffset(500, 100)


def test_clocks_that_agree_are_fine() -> None:
    rows = judged(n1=0, n2=40, n3=-30)
    assert not troubles(rows)
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("apart_ms", "verdict"),
    [
        (clocks.APART_MS + 20, Severity.OK),
        (clocks.APART_MS + 21, Severity.WARNING),
        (limits.ClockBounds.spread_ms_max + 20, Severity.WARNING),
        (limits.ClockBounds.spread_ms_max + 21, Severity.ERROR),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_node_apart_from_the_others_is_the_one_that_is_blamed(apart_ms: int, verdict: Severity, sign: int) -> None:
    rows = judged(n1=0, n2=sign * apart_ms, n3=0)
    row = of(rows, "node n2")
    assert row.verdict is verdict
    assert bool(row.mend) is (verdict is not Severity.OK)
    assert of(rows, "node n1").verdict is of(rows, clocks.HERE).verdict is Severity.OK


@pytest.mark.parametrize(
    ("ahead_ms", "verdict"),
    [
        (clocks.APART_MS + 11, Severity.WARNING),
        (limits.ClockBounds.future_ms_max + 10, Severity.WARNING),
        (limits.ClockBounds.future_ms_max + 11, Severity.ERROR),
        (-limits.ClockBounds.future_ms_max - 11, Severity.WARNING),
        (-HOUR_MS - 11, Severity.ERROR),
    ],
)
def test_when_all_nodes_agree_it_is_this_machine_that_is_wrong(ahead_ms: int, verdict: Severity) -> None:
    rows = judged(n1=-ahead_ms, n2=-ahead_ms, n3=-ahead_ms)
    assert of(rows, clocks.HERE).verdict is verdict
    assert all(row.verdict is Severity.OK for row in rows if row.subject != clocks.HERE)


def test_without_an_answer_nothing_is_said_of_clocks() -> None:
    assert judged() == []


# -- the horizon --------------------------------------------------------------------------------------------------

NOW_MS = 1_700_000_000_000


def of_horizon(ahead_ms: int, retentions: tuple[int, ...] = (HOUR_MS, HOUR_MS, HOUR_MS), **clock: float) -> list[Row]:
    """The horizon so far ahead of a time that is this machine's; ``clock``: how far a node's clock is ahead of that."""
    names = [f"n{number}" for number in range(1, len(retentions) + 1)]
    answering = {
        name: {"horizon_ms": NOW_MS + ahead_ms, "retention_ms": kept}
        for name, kept in zip(names, retentions, strict=True)
    }
    times = {name: ClockOffset(clock.get(name, 0), 10) for name in names}
    return horizon.judge(answering, times, NOW_MS, HOUR_MS)


@pytest.mark.parametrize(
    ("ahead_ms", "verdict"),
    [
        (48 * HOUR_MS, Severity.ERROR),
        (11, Severity.ERROR),
        (10, Severity.WARNING),
        (-HOUR_MS + limits.ClockBounds.spread_ms_max + 11, Severity.WARNING),
        (-HOUR_MS + limits.ClockBounds.spread_ms_max + 10, Severity.OK),
        (-HOUR_MS, Severity.OK),
        (-48 * HOUR_MS, Severity.OK),
        (-NOW_MS, Severity.OK),
    ],
)
def test_the_horizon_is_compared_with_the_clocks_and_the_retention(ahead_ms: int, verdict: Severity) -> None:
    (row,) = of_horizon(ahead_ms)
    assert row.verdict is verdict
    assert bool(row.mend) is (verdict is not Severity.OK)


def test_a_horizon_in_the_future_is_found_though_the_clock_that_moved_it_is_still_wrong() -> None:
    assert of_horizon(24 * HOUR_MS, n1=48 * HOUR_MS)[-1].verdict is Severity.ERROR
    assert "raftcoord horizon lower" in of_horizon(24 * HOUR_MS)[-1].mend


def test_nodes_with_different_retentions_are_told() -> None:
    rows = of_horizon(-HOUR_MS, retentions=(HOUR_MS, HOUR_MS, 2 * HOUR_MS))
    row = of(rows, "node n3")
    assert (row.verdict, row.check) == (Severity.WARNING, horizon.RETENTION)
    assert "2.0 h" in row.what
    assert not troubles([each for each in rows if each.subject != "node n3"])


# -- nodes --------------------------------------------------------------------------------------------------------


def told(role: str = "follower", applied: int = 10, **more: Any) -> dict[str, Any]:
    about = {"version": __version__, "peers": {}, "commit_index": 10, "cluster": "aa", "participants": [], **more}
    return {"role": role, "term": 3, "applied_index": applied, "uptime_s": 60.0, **about}


def link(*, up: bool = True, awaited: bool = False, refused: str = "", why: str = "") -> dict[str, Any]:
    return {"up": up, "awaited": awaited, "refused": refused, "why": why}


def test_a_healthy_cluster_is_fine() -> None:
    rows = nodes.judge({"n1": told("leader"), "n2": told(), "n3": told()})
    assert not troubles(rows)
    assert having(rows, "n1 leads").check == LEADER


def test_a_node_that_does_not_answer_is_an_error_with_its_start() -> None:
    rows = nodes.judge({"n1": told("leader"), "n2": told(), "n3": Unavailable("refused")})
    row = having(rows, "node n3", REACHABLE)
    assert row.verdict is Severity.ERROR
    assert "raftcoord node start n3" in row.mend
    assert troubles(rows) == [row]


def test_without_a_leader_it_says_how_many_nodes_are_needed() -> None:
    rows = nodes.judge({"n1": told("candidate"), "n2": Unavailable("gone"), "n3": Unavailable("gone")})
    row = having(rows, LEADER, "1 of 3 nodes answer, 2 are needed")
    assert row.verdict is Severity.ERROR
    assert DoctorReport(rows).fails(LEADER)


@pytest.mark.parametrize(("behind", "verdict"), [(nodes.BEHIND_ENTRIES, None), (nodes.BEHIND_ENTRIES + 1, "warning")])
def test_a_node_far_behind_is_told(behind: int, verdict: str | None) -> None:
    at = {"n1": told("leader", commit_index=50_000, applied=50_000), "n2": told(applied=50_000 - behind), "n3": told()}
    at["n3"]["applied_index"] = 50_000
    found = [row.verdict.name.lower() for row in troubles(nodes.judge(at)) if row.subject == "node n2"]
    assert found == ([verdict] if verdict else [])


def test_a_node_that_waits_to_meet_others_is_told_whom_to_start() -> None:
    waiting = told("waiting", peers={"n1": link(up=False, awaited=True), "n2": link()})
    row = having(nodes.judge({"n1": Unavailable("x"), "n2": told(), "n3": waiting}), "node n3", "takes part")
    assert (row.verdict, row.mend) == (Severity.ERROR, "start n1")


def test_a_wiped_node_that_others_refuse_is_to_be_replaced() -> None:
    waiting = told("waiting", peers={"n1": link(awaited=True), "n2": link(awaited=True)})
    at = {
        "n1": told("leader", peers={"n3": link(up=False, refused="00ff", why="wiped")}),
        "n2": told(),
        "n3": waiting,
    }
    row = having(nodes.judge(at), "node n3", "takes part")
    assert row.verdict is Severity.ERROR
    assert row.mend.endswith("raftcoord node replace n3")


def test_nodes_that_do_not_reach_each_other_although_both_answer_are_told() -> None:
    at = {"n1": told("leader", peers={"n2": link(up=False, why="refused")}), "n2": told(), "n3": told()}
    row = having(nodes.judge(at), "node n1", "no link to n2: refused")
    assert row.verdict is Severity.WARNING
    assert "firewall" in row.mend


def test_a_link_that_is_refused_is_not_blamed_on_the_firewall() -> None:
    why = "node n2 was wiped or replaced"
    at = {
        "n1": told("leader", peers={"n2": link(up=False, refused="00ff", why=why)}),
        "n2": told(peers={"n1": link(up=False, why=why)}),
    }
    for row in (
        having(nodes.judge(at), "no link to n2: node n2 was"),
        having(nodes.judge(at), "no link to n1: node n2 was"),
    ):
        assert "firewall" not in row.mend
        assert row.mend.startswith("do what it says")


def test_an_address_of_another_cluster_is_to_be_corrected() -> None:
    rows = nodes.judge({"n1": told("leader"), "n2": ConfigError("it is a node of cluster 'shop'")})
    assert having(rows, "node n2", REACHABLE).mend.startswith("correct the addresses of n2")


def test_a_participant_that_only_some_nodes_see_is_told() -> None:
    at = {"n1": told("leader", participants=["bank-a", "bank-b"]), "n2": told(participants=["bank-b"])}
    row = having(nodes.judge(at), "node n2", "not to this one: bank-a;")
    assert row.verdict is Severity.WARNING
    assert "restart" in row.mend
    assert troubles(nodes.judge(at)) == [row]
    for about in ({"uptime_s": nodes.SETTLED_S - 0.1}, {"role": "removed"}, {"participants": ["bank-a", "bank-b"]}):
        assert not troubles(nodes.judge({**at, "n2": {**at["n2"], **about}}))


def test_another_release_is_told() -> None:
    row = having(nodes.judge({"n1": told("leader", version="0.0.1")}), "release 0.0.1, and this is")
    assert row.verdict is Severity.WARNING


def test_damage_that_nobody_acknowledged_is_an_error_with_the_command() -> None:
    txid = TxId.new()
    pending, seen = DamageRow(txid, "bank", "rolled back by hand", 1, ""), DamageRow(txid, "other", "seen", 1, "ann")
    rows = nodes.judge_damages(DamagePage([pending, seen], 3, 4))
    row = having(rows, DAMAGE, "rolled back by hand")
    assert row.verdict is Severity.ERROR
    assert f"raftcoord txn acknowledge {txid} bank --as NAME" in row.mend
    assert having(rows, "2 more damaged").verdict is Severity.ERROR
    lacking(rows, "other")


def test_acknowledged_damage_is_no_trouble_and_an_unknown_one_is_not_called_none() -> None:
    assert having(nodes.judge_damages(DamagePage([], 0, 4)), "4 acknowledged").verdict is Severity.OK
    row = having(nodes.judge_damages(Unavailable("nobody")), "could not be asked")
    assert row.verdict is Severity.WARNING
    assert not DoctorReport([row]).fails(DAMAGE)


# -- directories --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        ("ext4", Severity.OK),
        ("tmpfs", Severity.ERROR),
        ("nfs4", Severity.WARNING),
        ("overlay", Severity.WARNING),
        ("", Severity.NOTE),
    ],
)
def test_the_kind_of_file_system_matters(kind: str, verdict: Severity) -> None:
    row = disks.judge_kind("node n1", Path("/data"), kind)
    assert row.verdict is verdict
    assert bool(row.mend) is (verdict > Severity.NOTE)


@pytest.mark.parametrize(
    ("free", "verdict"),
    [
        (disks.FREE_BYTES_WARNING, Severity.OK),
        (disks.FREE_BYTES_WARNING - 1, Severity.WARNING),
        (disks.FREE_BYTES_ERROR, Severity.WARNING),
        (disks.FREE_BYTES_ERROR - 1, Severity.ERROR),
    ],
)
def test_room_is_judged_at_its_bounds(free: int, verdict: Severity) -> None:
    assert disks.judge_room("node n1", free).verdict is verdict


@pytest.mark.parametrize(
    ("median_s", "part", "verdict"),
    [
        (disks.HONEST_S * 0.99, "no disk is that quick", Severity.WARNING),
        (disks.HONEST_S, "cannot be measured", Severity.OK),
        (disks.SLOW_S, "cannot be measured", Severity.OK),
        (disks.SLOW_S * 1.01, "each decision waits", Severity.WARNING),
    ],
)
def test_an_fdatasync_quicker_than_any_disk_is_not_believed(median_s: float, part: str, verdict: Severity) -> None:
    row = disks.judge_speed("node n1", Speed(median_s, 0.1, 50))
    assert row.verdict is verdict
    assert part in row.what
    assert f"median {median_s * 1000:.3f} ms" in row.what or f"median {median_s * 1000:.1f} ms" in row.what


def test_the_probe_leaves_no_file_and_ends_in_time(tmp_path: Path) -> None:
    ticks = iter(range(1000))
    found = disks.speed(tmp_path, clock=lambda: next(ticks) * disks.PROBE_S_MAX)
    assert found.times == 1
    assert 1 <= disks.speed(tmp_path).times <= disks.PROBES
    assert list(tmp_path.iterdir()) == []


def test_a_directory_is_looked_at_and_nothing_stays_in_it(tmp_path: Path) -> None:
    rows = disks.look("node n1", tmp_path)
    assert {row.check for row in rows} == {"directory", "file system", "room", "fsync"}
    assert {row.check for row in disks.look("node n1", tmp_path, measure=False)} == {"directory", "file system", "room"}
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    assert having(disks.look("node n1", tmp_path / "gone"), "is not there").verdict is Severity.ERROR


def test_a_directory_of_another_user_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    rows = disks.look("node n1", tmp_path)
    assert having(rows, "cannot be written").verdict is Severity.WARNING
    lacking(rows, "fdatasync of")


def test_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Path) -> Speed:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disks, "speed", full)
    row = having(disks.look("node n1", tmp_path), "No space left")
    assert (row.verdict, row.mend) == (Severity.ERROR, "make room on it")


def test_the_longest_mount_point_is_that_of_the_directory(tmp_path: Path) -> None:
    inside = tmp_path / "with blank" / "data"
    inside.mkdir(parents=True)
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 0:1 / / rw - ext4 /dev/x rw\n"
        f"2 1 0:2 / {str(inside.parent).replace(' ', chr(92) + '040')} rw shared:1 - nfs4 host:/ rw\n"
        f"3 1 0:3 / {tmp_path}/with rw - tmpfs none rw\n",
        encoding="utf-8",
    )
    assert disks.kind_of(inside, mounts) == "nfs4"
    assert disks.kind_of(tmp_path, mounts) == "ext4"
    assert disks.kind_of(inside, tmp_path / "none") == ""


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
def test_tmpfs_is_found_out_by_its_speed_as_well() -> None:
    memory = Path("/dev/shm")
    if disks.kind_of(memory) != "tmpfs":
        pytest.skip("there is no tmpfs here")
    rows = disks.look("node n1", memory)
    assert having(rows, "file system", "in memory").verdict is Severity.ERROR


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
def test_a_library_that_swallows_fsync_is_found_in_the_process(tmp_path: Path) -> None:
    library = tmp_path / "libeatmydata.so"
    library.write_bytes(bytes(4096))
    program = (
        f"import mmap; f = open({str(library)!r}, 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); "
        "print(flush=True); input()"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        (row,) = disks.judge_process("node n1", child.pid)
        assert row.verdict is Severity.ERROR
        assert "LD_PRELOAD" in row.mend
        assert disks.judge_process("node n1", os.getpid()) == []
    finally:
        child.kill()
        child.communicate()
    assert disks.judge_process("node n1", child.pid) == []


def test_one_device_is_measured_once_and_a_node_elsewhere_is_left_to_its_machine(tmp_path: Path) -> None:
    config = write_local_config(tmp_path)
    for name in ("n1", "n2"):
        config.node(name).data_dir.mkdir(parents=True)
    rows = nodes.directories(config)
    assert [row.subject for row in rows if row.check == "fsync"] == ["node n1"]
    assert having(rows, "node n2", "can be written")
    assert having(rows, "node n3").verdict is Severity.NOTE


def test_a_directory_that_may_not_be_entered_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_local_config(tmp_path)

    def denied(_: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", denied)
    rows = nodes.directories(config)
    assert {row.subject for row in rows} == {"node n1", "node n2", "node n3"}
    assert all(row.verdict is Severity.WARNING and "Permission denied" in row.what for row in rows)


def test_resources_without_a_resolver_are_a_warning(tmp_path: Path) -> None:
    config = write_local_config(tmp_path)
    assert nodes.judge_resolver(config) == []
    assert config.path is not None
    with config.path.open("a") as file:
        file.write("resources: [{name: audit, url: 'sqlite:///a.db'}]\n")
    (row,) = nodes.judge_resolver(Config.load(config.path))
    assert row.verdict is Severity.WARNING
    assert "raftcoord resolver run" in row.mend


# -- databases that are not here ----------------------------------------------------------------------------------


def postgresql(**changed: Any) -> list[Finding]:
    settings = {**POSTGRESQL_SETTINGS, **changed}
    replies: Mapping[str, Any] = {
        "server_version_num": [tuple(settings.values())],
        "has_schema_privilege": [(True,) * 4],
    }
    return run(named("postgresql").checks.check(), dict(replies))


NOT_TRIED = "is MySQL, with which raftcoord was not tried"


def mysql(more: dict[str, list[tuple[Any, ...]] | SqlError] | None = None, **changed: str) -> list[Finding]:
    settings = {**MYSQL_SETTINGS, **changed}
    replies: dict[str, list[tuple[Any, ...]] | SqlError] = {
        **(more or {}),
        "SHOW GLOBAL VARIABLES": list(settings.items()),
        "SELECT ENGINE": [("InnoDB",)],
        "CURRENT_USER": [("app@%", "shop")],
    }
    return [each for each in run(named("mariadb").checks.check(), replies) if NOT_TRIED not in each.what]


@pytest.mark.parametrize(
    ("version", "log_bin"), [("8.0.36", "ON"), ("8.4.0", "OFF"), ("9.7.4", "ON"), ("5.7.44", "OFF")]
)
def test_mysql_was_not_tried_which_is_said(version: str, log_bin: str) -> None:
    found = list(mariadb._by_version(version, log_bin == "ON"))
    (finding,) = [each for each in found if NOT_TRIED in each.what]
    assert not finding.fatal
    assert ("lost branches that were prepared" in finding.what) is (log_bin == "ON")
    for tried in ("10.11.19-MariaDB", "11.4.2-MariaDB-log"):
        assert not [each for each in mariadb._by_version(tried, True) if NOT_TRIED in each.what]


def test_good_settings_are_found_good() -> None:
    assert postgresql() == []
    assert mysql() == []
    assert mysql(version="10.11.6-MariaDB", log_bin="OFF") == []


@pytest.mark.parametrize(
    ("changed", "part", "fatal"),
    [
        ({"allowed": 0}, "max_prepared_transactions is 0", True),
        ({"allowed": 99}, "max_prepared_transactions is 99, below max_connections (100); 3 are in use", False),
        ({"standby": True}, "standby", True),
        ({"read_only": True}, "default_transaction_read_only", True),
        ({"marks": False}, "raftcoord.marks", True),
        ({"fsync": False}, "fsync is off", False),
        ({"pages": False}, "full_page_writes is off", False),
        ({"lazy": True}, "synchronous_commit is off", False),
        ({"version": 110022}, "server 11.22 is older", True),
        ({"version": 150003}, "server 15.3", False),
    ],
)
def test_each_setting_of_postgresql_is_judged(changed: dict[str, Any], part: str, fatal: bool) -> None:
    (finding,) = postgresql(**changed)
    assert part in finding.what
    assert finding.fatal is fatal
    assert finding.mend


@pytest.mark.parametrize("version", [120016, 130012, 140009, 150004, 160000, 180001])
def test_postgresql_that_recovers_a_prepared_transaction_once_is_fine(version: int) -> None:
    assert postgresql(version=version) == []


@pytest.mark.parametrize(
    ("changed", "part", "fatal"),
    [
        ({"version": "5.6.51"}, "loses prepared XA transactions", True),
        ({"version": "5.7.6"}, "loses prepared XA transactions", True),
        ({"version": "5.7.44"}, "WL#9335", True),
        ({"version": "8.0.29"}, "WL#11300", False),
        ({"version": "10.4.34-MariaDB"}, "loses prepared XA transactions", True),
        ({"version": "10.11.6-MariaDB"}, "MDEV-21469", False),
        ({"wsrep_on": "ON"}, "Galera", True),
        ({"read_only": "ON"}, "read_only", True),
        ({"innodb_flush_log_at_trx_commit": "0"}, "innodb_flush_log_at_trx_commit is 0", False),
        ({"innodb_flush_method": "nosync"}, "nosync", False),
        ({"sync_binlog": "0"}, "sync_binlog is 0", False),
        ({"binlog_format": "STATEMENT"}, "binlog_format is STATEMENT", False),
    ],
)
def test_each_setting_of_mysql_and_mariadb_is_judged(changed: dict[str, str], part: str, fatal: bool) -> None:
    (finding,) = mysql(**changed)
    assert part in finding.what
    assert finding.fatal is fatal
    assert finding.mend


@pytest.mark.parametrize("name", ["SHOW MASTER STATUS", "SHOW BINARY LOG STATUS"])
def test_filters_of_the_binary_log_are_found_under_both_names(name: str) -> None:
    replies: dict[str, list[tuple[Any, ...]] | SqlError] = {
        "STATUS": SqlError("1064", "syntax"),
        name: [("bin.01", 1, "shop", "")],
    }
    ordered = {name: replies[name], **replies}
    (finding,) = mysql(ordered)
    assert "filters" in finding.what
    assert mysql({"STATUS": [("bin.01", 1, "", "")]}) == []
    assert mysql({"STATUS": SqlError("1227", "denied")}) == []
    assert mysql(ordered, log_bin="OFF") == []


def test_mysql_that_does_not_list_prepared_branches_to_this_user_is_fatal_with_the_grant() -> None:
    (finding,) = mysql({"XA RECOVER": SqlError("1401", "XAER_RMERR: Fatal error occurred")})
    assert finding.fatal
    assert finding.mend == "GRANT XA_RECOVER_ADMIN ON *.* TO 'app'@'%'"


# -- what is prepared -----------------------------------------------------------------------------------------------


def test_many_orphans_are_shown_up_to_a_bound() -> None:
    number = prepared.SHOWN_MAX + 5
    each = [PreparedHere(gids.make("a" * 16, TxId.new(), "bank"), 90.0, "db", True) for _ in range(number)]
    found = PreparedFound([(one, 90.0) for one in each], [])
    rows = prepared.judge("bank", frozenset({"bank"}), found, "a" * 16, {})
    assert sum(row.check == "orphan" for row in rows) == prepared.SHOWN_MAX + 1
    assert "5 more" in having(rows, "5 more").what
    assert len(prepared.questions(found, "a" * 16)) == prepared.SHOWN_MAX


@pytest.mark.parametrize(("age_s", "orphans"), [(prepared.ORPHAN_S, 1), (prepared.ORPHAN_S - 0.1, 0)])
def test_a_branch_is_an_orphan_from_its_bound_on(age_s: float, orphans: int) -> None:
    each = PreparedHere(gids.make("a" * 16, TxId.new(), "bank"), age_s, "db", True)
    rows = prepared.judge("bank", frozenset({"bank"}), PreparedFound([(each, age_s)], []), "a" * 16, {})
    assert sum(row.check == "orphan" for row in rows) == orphans


def test_a_branch_of_another_resource_on_the_same_server_is_told_there_alone() -> None:
    each = PreparedHere(gids.make("a" * 16, TxId.new(), "other"), 90.0, "db", True)
    found = PreparedFound([(each, 90.0)], [])
    assert not troubles(prepared.judge("bank", frozenset({"bank", "other"}), found, "a" * 16, {}))
    assert troubles(prepared.judge("other", frozenset({"bank", "other"}), found, "a" * 16, {}))


# -- the report ---------------------------------------------------------------------------------------------------


def test_the_worst_comes_first_and_subjects_stay_together() -> None:
    rows = [
        Row("a", "x", Severity.OK, ""),
        Row("b", "x", Severity.WARNING, ""),
        Row("a", "y", Severity.OK, ""),
        Row("b", "y", Severity.ERROR, ""),
    ]
    report = DoctorReport(rows)
    assert [(subject, [row.check for row in each]) for subject, each in report.by_subject().items()] == [
        ("b", ["y", "x"]),
        ("a", ["x", "y"]),
    ]
    assert report.count(Severity.OK) == 2
    assert report.fails()
    assert not report.fails(DAMAGE)


def test_files_that_others_can_use_are_an_error_with_the_command(tmp_path: Path) -> None:
    directory, log = tmp_path / "n1", tmp_path / "n1.log"
    directory.mkdir(mode=0o700)
    for path in (log, directory / "node.db"):
        path.write_text("")
        path.chmod(0o600)
    assert access.judge_files("node n1", directory, [log]).verdict is Severity.OK
    (directory / "node.db").chmod(0o640)
    log.chmod(0o604)
    row = access.judge_files("node n1", directory, [log, tmp_path / "n1.pid"])
    assert row.verdict is Severity.ERROR
    assert row.mend.startswith(f"chmod go-rwx {directory / 'node.db'} {log};")


def test_ports_that_are_open_to_other_machines_are_a_warning() -> None:
    ports = [
        NodeConfig(NodeName(f"n{n}"), Address("10.0.0.1", n), Address("127.0.0.1", n), Path(f"d/n{n}"))
        for n in (1, 2, 3)
    ]
    config = Config("demo", tuple(ports), allow_remote=True)
    rows = list(access.judge_ports(config))
    assert [row.subject for row in rows] == ["node n1", "node n2", "node n3"]
    assert rows[0].verdict is Severity.WARNING
    assert rows[0].what.startswith("10.0.0.1:1 can be reached from other machines (allow_remote): without TLS")
    assert not any(row.what.count("127.0.0.1") for row in rows)
