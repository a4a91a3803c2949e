"""Every command ends with the right exit code and, for an error, one sentence: no traceback, whatever happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from raftcoord_cli.errors import exit_code
from raftcoord_cli.main import main

from raftcoord import errors
from raftcoord.config import Config
from raftcoord.databases.resource_config import ResourceConfig
from raftcoord.databases.steps import Finding
from raftcoord.drills.audit import AuditViolation
from raftcoord.drills.report import DrillReport
from raftcoord.errors import ConfigError, Unavailable
from raftcoord.processes.local_cluster import LocalCluster, write_local_config
from raftcoord.types import Outcome, TxId

TXID = TxId.new()
ONE_BRANCH = '{"branches": {"bank-a": []}}'


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A cluster.yaml of which no node runs."""
    write_local_config(tmp_path)
    return str(tmp_path / "cluster.yaml")


def run(*arguments: str, stdin: str | bytes | None = None, **environment: str) -> Result:
    result = CliRunner().invoke(main, list(arguments), input=stdin, env=environment)
    assert "Traceback" not in result.output
    return result


def refusal(*arguments: str, code: int = 2, stdin: str | bytes | None = None) -> str:
    """The one sentence on stderr of a command that fails with ``code`` and says nothing on stdout."""
    result = run(*arguments, stdin=stdin)
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def json_error(*arguments: str, stdin: str | None = None) -> dict[str, Any]:
    """The error of a command with ``-o json``: on stdout, and nothing on stderr."""
    result = run(*arguments, "-o", "json", stdin=stdin)
    assert result.stderr == ""
    error: dict[str, Any] = json.loads(result.stdout)["error"]
    assert error["exit_code"] == result.exit_code
    return error


def test_help_imports_nothing_that_takes_time() -> None:
    program = (
        "import sys; from raftcoord_cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'asyncio', 'rich', 'yaml', 'raftcoord', 'sqlite3'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.Aborted(TXID, "no money", "bank-a"), 3),
        (errors.InDoubt(TXID, "no node answered"), 4),
        (errors.Unavailable("x"), 5),
        (errors.Overloaded("x"), 5),
        (errors.ConfigError("x"), 2),
        (errors.LocalProtocolError("x"), 2),
        (errors.RemoteProtocolError("x"), 1),
        (errors.CorruptionError("x"), 1),
        (errors.StorageError("x"), 1),
        (KeyError("x"), 1),
    ],
)
def test_each_error_has_its_exit_code(error: Exception, code: int) -> None:
    assert exit_code(error) == code


def test_a_cluster_yaml_that_is_not_there_is_named(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent.yaml")
    for command in (("status",), ("up", "-d"), ("down",), ("node", "kill", "n1"), ("txn", "ls"), ("submit", "-")):
        assert f"there is no file {absent}" in refusal(*command, "-c", absent, stdin=ONE_BRANCH)


def test_a_wrong_cluster_yaml_is_named_with_its_line(config: str) -> None:
    path = Path(config)
    path.write_text(path.read_text() + "colour: red\n")
    error = json_error("status", "-c", config)
    assert error["kind"] == "ConfigError"
    assert error["message"].startswith(f"{config}:")
    assert "unknown key 'colour'" in error["message"]


def test_the_config_may_come_from_the_environment(config: str) -> None:
    assert run("down", RAFTCOORD_CONFIG=config).stdout == "nothing was running\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "standard input is empty; write {"),
        (" \n", "standard input is empty; write {"),
        ('{"branches": {"a": %s}}' % ("9" * 5000), "an integer of 5000 digits; amounts are integers (cents)"),
        ('{"branches":\n  {"bank-a" []}}', "standard input:2:13: not JSON: Expecting ':' delimiter"),
        ("[]", "a transaction has the one key 'branches'"),
        ('{"branch": {}}', "a transaction has the one key 'branches'"),
        ('{"branches": {}, "timeout": 3}', "a transaction has the one key 'branches'"),
        ('{"branches": []}', "a transaction has the one key 'branches'"),
        ('{"branches": {"a": [], "a": []}}', "the key 'a' is given twice"),
        ('{"branches": {"a": NaN}}', "NaN is not a JSON number"),
        ("[" * 100_000, "nested too deeply"),
        (b'{"branches": \xff}', "not UTF-8"),
        ('{"branches": {}}', "without a participant"),
        ('{"branches": {"Bank A": []}}', "'Bank A' is not a name"),
    ],
)
def test_a_transaction_that_cannot_be_read_is_refused_before_anything_is_sent(
    config: str, text: str | bytes, says: str
) -> None:
    assert says in refusal("submit", "-", "-c", config, stdin=text)


def test_a_transaction_file_is_named_in_its_error(config: str, tmp_path: Path) -> None:
    file = tmp_path / "pay.json"
    file.write_text("{")
    assert refusal("submit", str(file), "-c", config).startswith(f"{file}:1:2: not JSON")
    result = run("submit", str(tmp_path / ("deep" * 30) / "absent.json"), "-c", config)
    assert result.exit_code == 2
    assert "/absent.json'" in result.stderr, "a long path is cut in the middle"


@pytest.mark.parametrize("txid", ["x", "0" * 32, "z" * 32])
def test_a_txid_that_is_not_one_is_refused(config: str, txid: str) -> None:
    assert "is not a txid" in refusal("submit", "-", "--txid", txid, "-c", config, stdin=ONE_BRANCH)
    assert "is not a txid" in refusal("txn", "show", txid, "-c", config)
    assert "is not a txid" in refusal("txn", "resolve", txid, "-c", config)


@pytest.mark.parametrize("timeout", ["0", "-1", "601", "soon"])
def test_a_timeout_beyond_its_bounds_is_refused(config: str, timeout: str) -> None:
    assert run("submit", "-", "--timeout", timeout, "-c", config, stdin=ONE_BRANCH).exit_code == 2


def test_a_cluster_that_cannot_be_reached_is_unavailable_and_nothing_was_attempted(config: str) -> None:
    for command in (("submit", "-"), ("txn", "resolve", str(TXID))):
        refusal(*command, "--timeout", "0.2", "-c", config, code=5, stdin=ONE_BRANCH)
    error = json_error("submit", "-", "--timeout", "0.2", "-c", config, stdin=ONE_BRANCH)
    assert (error["kind"], error["exit_code"]) == ("Unavailable", 5)


def test_status_without_a_cluster_says_why_of_each_node(config: str) -> None:
    result = run("status", "-c", config)
    assert result.exit_code == 5
    assert "no leader, 0 of 3 nodes reachable" in result.stdout
    nodes = json.loads(run("status", "-c", config, "-o", "json").stdout)["nodes"]
    assert [(node["name"], node["reachable"]) for node in nodes] == [("n1", False), ("n2", False), ("n3", False)]
    assert all(node["why"] for node in nodes)


def test_a_node_that_does_not_run_cannot_be_killed(config: str) -> None:
    for verb in ("kill", "pause", "resume"):
        says = refusal("node", verb, "n1", "-c", config)
        assert says == f"node n1 does not run here; start it with: raftcoord node start n1 -c {config}"
    assert run("node", "stop", "n1", "-c", config).stdout == "node n1 was not running\n"
    assert "there is no node 'n9'" in refusal("node", "kill", "n9", "-c", config)
    assert "was never started here" in refusal("node", "logs", "n1", "-c", config)


def test_the_last_lines_of_a_log_are_shown(config: str) -> None:
    data = Path(config).parent / "data"
    data.mkdir()
    (data / "n1.log").write_text("one\ntwo\nthree\n")
    assert run("node", "logs", "n1", "-n", "2", "-c", config).stdout == "two\nthree\n"
    assert json.loads(run("node", "logs", "n1", "-n", "1", "-c", config, "-o", "json").stdout)["lines"] == ["three"]


def test_a_participant_is_checked_before_it_is_run(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[object, ...]] = []

    def serve_accounts(db: Path, name: str, config: Config, accounts: dict[str, int], on_ready: Any) -> None:
        called.append((db, name, str(config.path), accounts))
        on_ready("ready")

    monkeypatch.setattr("raftcoord.participants.serve.serve_accounts", serve_accounts)
    base = ("participant", "run", "--db", "a.db", "-c", config)
    for wrong in ("alice", "alice=", "=5", "alice=1.5", "alice=--5", "alice=1_0", "alice=" + "9" * 5000):
        assert "KEY=AMOUNT" in refusal(*base, "--name", "bank-a", "--open", wrong)
    assert "given twice" in refusal(*base, "--name", "bank-a", "--open", "alice=1", "--open", "alice=2")
    assert called == []
    result = run(*base, "--name", "bank-a", "--open", "alice=100", "--open", "bob=-5", "-o", "json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"participant": "bank-a", "ready": True})
    assert called == [(Path("a.db"), "bank-a", config, {"alice": 100, "bob": -5})]


def test_a_participant_whose_name_is_none_is_refused_and_makes_no_file(config: str, tmp_path: Path) -> None:
    error = json_error("participant", "run", "--name", "Bank", "--db", str(tmp_path / "a.db"), "-c", config)
    assert "'Bank' is not a name" in error["message"]
    assert error["exit_code"] == 2
    assert not (tmp_path / "a.db").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("drill", "run", "kill-everything"), "there is no drill 'kill-everything'; choose one of"),
        (("drill", "run", "kill-all", "--nodes", "2"), "3, 5 or 7"),
        (("demo", "--nodes", "4"), "1, 3, 5 or 7"),
        (("demo", "--orders", "absent.tsv"), "absent.tsv"),
        (("bench", "decide", "--in-flight", "0"), "in flight"),
        (("bench", "transfer", "--seconds", "0.01"), "out of range"),
        (("bench", "databases", "--workers", "61"), "numbers from 1 to 60"),
        (("bench", "databases", "--pairs", "oracle"), "postgresql, mariadb, mixed"),
        (("bench", "failover", "--nodes", "1"), "3, 5 or 7"),
    ],
)
def test_a_drill_that_cannot_be_run_is_refused_at_once(arguments: tuple[str, ...], says: str) -> None:
    assert says in refusal(*arguments)


def test_the_drills_are_listed() -> None:
    drills = json.loads(run("drill", "ls", "-o", "json").stdout)["drills"]
    names = {drill["name"] for drill in drills}
    assert {"kill-leader", "kill-follower", "kill-all", "pause-leader", "kill-participant", "kill-coordinator"} <= names
    assert all(name in run("drill", "ls").stdout for name in names)


def test_a_broken_promise_is_exit_code_6_and_names_the_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    violation = AuditViolation("outcome lost", TXID, "acknowledged, and no node knows it")
    report = DrillReport("kill-all", [violation], {"transactions": 7}, 1)
    monkeypatch.setattr("raftcoord.drills.catalog.run", lambda name, options, on_event: report)
    result = run("drill", "run", "kill-all")
    assert result.exit_code == 6
    assert result.stdout.splitlines()[-1].startswith("BROKEN: kill-all")
    assert str(TXID) in result.stdout.splitlines()[-1]
    assert "\x1b" not in result.stdout
    assert json.loads(run("drill", "run", "kill-all", "-o", "json").stdout)["held"] is False


def test_an_abort_is_an_answer_with_exit_code_3(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = Outcome(TXID, False, "alice has not enough", 3, 17, "bank-a")
    monkeypatch.setattr("raftcoord.client.synchronous.Client.submit", lambda *_, **__: outcome)
    result = run("submit", "-", "-c", config, stdin=ONE_BRANCH)
    assert result.exit_code == 3
    assert result.stdout == f"ABORTED {TXID} (term 3, index 17) by bank-a: alice has not enough\n"
    value = json.loads(run("submit", "-", "-c", config, "-o", "json", stdin=ONE_BRANCH).stdout)
    assert (value["state"], value["branch"], value["reason"]) == ("ABORTED", "bank-a", "alice has not enough")


def test_a_commit_is_exit_code_0(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = Outcome(TXID, True, "", 3, 17)
    monkeypatch.setattr("raftcoord.client.synchronous.Client.submit", lambda *_, **__: outcome)
    result = run("submit", "-", "-c", config, stdin=ONE_BRANCH)
    assert (result.exit_code, result.stdout) == (0, f"COMMITTED {TXID} (term 3, index 17)\n")


def test_what_is_in_doubt_carries_the_txid_and_the_next_step(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def submit(*_: object, **__: object) -> Outcome:
        raise errors.InDoubt(TXID, "no node answered in time")

    monkeypatch.setattr("raftcoord.client.synchronous.Client.submit", submit)
    assert f"raftcoord txn resolve {TXID}" in refusal("submit", "-", "-c", config, stdin=ONE_BRANCH, code=4)
    assert json_error("submit", "-", "-c", config, stdin=ONE_BRANCH)["txid"] == str(TXID)


def test_an_unexpected_error_is_one_sentence_that_says_how_to_see_more(
    config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_all(_: LocalCluster) -> list[str]:
        raise KeyError("surprise")

    monkeypatch.setattr(LocalCluster, "stop_all", stop_all)
    assert "KeyError: 'surprise'; this is a bug in raftcoord" in refusal("down", "-c", config, code=1)
    assert json_error("down", "-c", config)["kind"] == "Internal"
    shown = CliRunner().invoke(main, ["down", "-c", config], env={"RAFTCOORD_TRACEBACK": "1"})
    assert shown.exit_code == 1
    assert "Traceback (most recent call last)" in shown.stderr


def test_an_error_tells_the_notes_that_it_carries(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop_all(_: LocalCluster) -> list[str]:
        error = errors.Unavailable("no leader")
        error.add_note("the files are kept in /tmp/x")
        raise error

    monkeypatch.setattr(LocalCluster, "stop_all", stop_all)
    assert refusal("down", "-c", config, code=5) == "no leader; the files are kept in /tmp/x"


def test_ctrl_c_is_exit_code_130_and_one_line(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop_all(_: LocalCluster) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalCluster, "stop_all", stop_all)
    result = run("down", "-c", config)
    assert (result.exit_code, result.output.strip()) == (130, "interrupted")
    told = run("down", "-c", config, "-o", "json")
    assert (told.stderr.strip(), json.loads(told.stdout)["error"]["kind"]) == ("", "Interrupted")


def test_ctrl_c_during_submit_says_how_to_learn_the_outcome(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def submit(*_: object, **__: object) -> Outcome:
        raise KeyboardInterrupt

    monkeypatch.setattr("raftcoord.client.synchronous.Client.submit", submit)
    result = run("submit", "-", "--txid", str(TXID), "-c", config, stdin=ONE_BRANCH)
    assert result.exit_code == 130
    assert result.stderr.strip() == f"interrupted; it may have been decided: raftcoord txn resolve {TXID}"


def test_a_file_that_is_no_database_is_no_participants_and_stays_as_it_is(config: str) -> None:
    before = Path(config).read_bytes()
    says = refusal("participant", "run", "--name", "bank-a", "--db", config, "-c", config)
    assert says == (
        f"{config} is not a SQLite database, and was left as it is; give this participant a file of its own with --db"
    )
    assert Path(config).read_bytes() == before


def test_a_name_that_is_not_there_is_shown_the_nearest(config: str) -> None:
    path = Path(config)
    path.write_text(path.read_text() + "resources:\n  - name: ledger\n    url: postgresql://localhost/ledger\n")
    assert "there is no node 'n11' in" in refusal("node", "stop", "n11", "-c", config)
    assert refusal("node", "stop", "n11", "-c", config).endswith("; did you mean 'n1'?")
    assert refusal("resource", "init", "ledgr", "-c", config).endswith("; did you mean 'ledger'?")
    assert refusal("drill", "run", "kil-leader").endswith("; did you mean 'kill-leader'?")


def test_a_resource_that_refuses_does_not_keep_resource_init_from_the_others(
    config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(config)
    urls = "".join(
        f"  - name: {name}\n    url: sqlite:////nowhere/{name}.db\n" for name in ("ledger", "orders", "audit")
    )
    path.write_text(path.read_text() + f"resources:\n{urls}")

    def make(_: object, resource: ResourceConfig, cluster: str) -> tuple[bool, list[Finding]]:
        if resource.name == "audit":
            return True, []
        raise {"ledger": ConfigError, "orders": Unavailable}[resource.name](f"resource {resource.name} refuses")

    monkeypatch.setattr("raftcoord.databases.resolver.listing.cluster_of", lambda _: "aa")
    monkeypatch.setattr("raftcoord.databases.resolver.listing.make_marks", make)
    result = run("resource", "init", "-c", config)
    assert result.exit_code == 5
    lines = result.stdout.splitlines()
    assert lines[:2] == ["resource ledger refuses", "resource orders refuses"]
    assert lines[2].startswith("audit (sqlite /nowhere/audit.db): the table of marks is there")
    rows = json.loads(run("resource", "init", "-c", config, "-o", "json").stdout)["resources"]
    assert [row.get("error") for row in rows] == ["resource ledger refuses", "resource orders refuses", None]


def test_a_database_in_which_nothing_can_be_prepared_is_exit_code_2(
    config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(config)
    path.write_text(path.read_text() + "resources:\n  - name: ledger\n    url: postgresql://localhost/ledger\n")
    lacks = Finding("max_prepared_transactions is 0", "set it", True)
    monkeypatch.setattr("raftcoord.databases.resolver.listing.cluster_of", lambda _: "")
    for findings, code in (([lacks], 2), ([lacks._replace(fatal=False)], 0), ([], 0)):
        monkeypatch.setattr("raftcoord.databases.resolver.listing.make_marks", lambda *_, shown=findings: (True, shown))
        result = run("resource", "init", "-c", config)
        assert (result.exit_code, "no branch can be prepared in ledger" in result.stdout) == (code, code == 2)


def test_an_output_without_room_is_not_called_a_bug() -> None:
    command = [sys.executable, "-c", "from raftcoord_cli.main import main; main()", "drill", "ls"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, "No space left on device: make room" in done.stderr) == (1, True)
    assert "bug" not in done.stderr


def test_the_shell_completes_names(config: str) -> None:
    path = Path(config)
    path.write_text(path.read_text() + "resources:\n  - name: ledger\n    url: postgresql://localhost/ledger\n")
    for words, found in (
        (["node", "stop", "-c", config, ""], ["n1", "n2", "n3"]),
        (["node", "stop", "-c", config, "x"], []),
        (["node", "stop", "-c", f"{config}.no", ""], []),
        (["resource", "init", "-c", config, "l"], ["ledger"]),
        (["drill", "run", "rounds"], ["rounds-kill-node", "rounds-kill-all"]),
    ):
        completing = {
            "_RAFTCOORD_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(["raftcoord", *words]),
            "COMP_CWORD": str(len(words)),
        }
        command = [
            sys.executable,
            "-c",
            "import sys; sys.argv[0] = 'raftcoord'; from raftcoord_cli.main import main; main()",
        ]
        done = subprocess.run(command, env={**os.environ, **completing}, capture_output=True, text=True, check=False)
        assert [line.partition(",")[2] for line in done.stdout.split()] == found
        assert not done.stderr


def test_a_running_cluster_has_the_nodes_that_it_has(config: str) -> None:
    assert "it goes without -c" in refusal("bench", "decide", "-c", config, "--nodes", "5")
