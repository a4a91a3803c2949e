"""The whole tree of commands, walked: what holds for one of them holds for all, also for those that come later."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from click.testing import CliRunner, Result
from raftcoord_cli.groups import Commands, summary
from raftcoord_cli.main import main

from raftcoord.processes.local_cluster import write_local_config

DESIGNED = {
    *("demo", "init", "up", "down", "status", "top", "submit", "doctor", "participant run", "resolver run"),
    *("node start", "node stop", "node kill", "node pause", "node resume", "node logs", "node run", "node replace"),
    *("txn ls", "txn show", "txn resolve", "txn acknowledge", "txn close", "resource init", "resource ls"),
    *("participant ls", "participant replace", "participant forget"),
    *("drill ls", "drill run", "drill databases crashes", "drill databases transfers"),
    *("bench decide", "bench transfer", "bench databases", "bench failover", "sim run", "sim replay", "sim faults"),
}


class Found(NamedTuple):
    """A command, and the words that lead to it."""

    path: tuple[str, ...]
    command: click.Command

    def __str__(self) -> str:
        return " ".join(self.path) or "raftcoord"


def walk(command: click.Command = main, path: tuple[str, ...] = ()) -> Iterator[Found]:
    yield Found(path, command)
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None, name
            yield from walk(below, (*path, name))


EVERY = list(walk())
GROUPS = [found for found in EVERY if isinstance(found.command, click.Group)]
LEAVES = [found for found in EVERY if not isinstance(found.command, click.Group)]
every = pytest.mark.parametrize("found", EVERY, ids=str)
every_group = pytest.mark.parametrize("found", GROUPS, ids=str)
every_leaf = pytest.mark.parametrize("found", LEAVES, ids=str)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory with a cluster.yaml, of which no node runs."""
    write_local_config(tmp_path)
    monkeypatch.chdir(tmp_path)


def run(*arguments: str, columns: int = 80) -> Result:
    result = CliRunner().invoke(main, list(arguments), env={"COLUMNS": str(columns)}, input="{", prog_name="raftcoord")
    assert "Traceback" not in result.output
    return result


def refused(*arguments: str) -> str:
    """What is said of wrong input: one line on stderr, nothing on stdout; the same as JSON; exit code 2."""
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: "), line
    assert "bug in raftcoord" not in line, line
    told = run("-o", "json", *arguments)
    assert (told.exit_code, told.stderr) == (2, ""), told.output
    error = json.loads(told.stdout)["error"]
    assert (error["exit_code"], f"error: {error['message']}") == (2, line)
    return line


def test_the_commands_of_the_design_are_there() -> None:
    assert {str(found) for found in LEAVES} >= DESIGNED


@every
def test_help_is_shown_whole(found: Found) -> None:
    for option in ("--help", "-h"):
        result = run(*found.path, option)
        assert result.exit_code == 0
        assert "..." not in result.stdout.replace("[ARGS]...", "").replace("KIND,...", "").replace("[...]", "")
        assert max(map(len, result.stdout.splitlines())) <= 80


@every_leaf
def test_every_command_says_what_it_does_and_takes_json(found: Found) -> None:
    assert "-o, --output [text|json]" in run(*found.path, "--help").stdout
    assert 10 < len(summary(found.command)) <= 100, summary(found.command)


@every_group
def test_a_group_lists_each_of_its_commands_with_its_whole_summary(found: Found) -> None:
    assert isinstance(found.command, Commands), "use @click.group(cls=Commands)"
    shown = " ".join(run(*found.path, "--help").stdout.split())
    for below in walk(found.command):
        if len(below.path) == 1:
            assert f"{below.path[0]} {' '.join(summary(below.command).split())}" in shown


@every_group
def test_without_a_command_the_help_is_shown(found: Found) -> None:
    result = run(*found.path)
    assert (result.exit_code, result.stderr) == (2, "")
    assert result.stdout == run(*found.path, "--help").stdout


@every_group
def test_a_command_that_is_not_there_is_named_with_the_nearest(found: Found) -> None:
    path = " ".join(("raftcoord", *found.path))
    for below in walk(found.command):
        if len(below.path) == 1:
            (name,) = below.path
            typed = f"{name}s"
            assert f"there is no command {typed!r}; did you mean" in refused(*found.path, typed)
    assert refused(*found.path, "qqqqqq").endswith(f"; see {path} --help")


@every
def test_an_option_that_is_not_there_is_named_with_the_nearest(found: Found) -> None:
    path = " ".join(("raftcoord", *found.path))
    assert refused(*found.path, "--hlep").endswith(
        f"there is no option '--hlep'; did you mean '--help'? See {path} --help"
    )
    for option in found.command.params:
        if isinstance(option, click.Option):
            typed = f"{max(option.opts, key=len)}s"
            assert f"there is no option {typed!r}; did you mean '" in refused(*found.path, typed)


@every_leaf
def test_too_many_and_too_few_arguments_are_refused(found: Found) -> None:
    required = [each for each in found.command.params if isinstance(each, click.Argument) and each.required]
    if required:
        assert "missing argument" in refused(*found.path)
    if not any(isinstance(each, click.Argument) and each.nargs == -1 for each in found.command.params):
        given = sum(1 for each in found.command.params if isinstance(each, click.Argument))
        options = [word for each in found.command.params for word in needed(each)]
        assert "unexpected extra argument" in refused(*found.path, *options, *["-"] * given, "one-too-many")


def needed(parameter: click.Parameter) -> list[str]:
    """What must be given for an option that is required."""
    required = isinstance(parameter, click.Option) and parameter.required
    return [parameter.opts[0], "x"] if required else []


WRONG = {"integer": ("x", "1.5", "", "9" * 5000), "float": ("x", "", "nan", "inf", "-inf", "-1"), "choice": ("x", "")}


def wrong_values() -> Iterator[tuple[Found, click.Option, str]]:
    for found in LEAVES:
        for option in found.command.params:
            if isinstance(option, click.Option) and not option.is_flag:
                kind = option.type.name.removesuffix(" range")
                yield from ((found, option, value) for value in WRONG.get(kind, ()))


@pytest.mark.parametrize(
    ("found", "option", "value"),
    [pytest.param(*each, id=f"{each[0]} {each[1].opts[0]} {each[2][:9] or 'empty'}") for each in wrong_values()],
)
def test_a_value_that_is_none_is_refused_before_anything_is_done(
    found: Found, option: click.Option, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def runs(**_: object) -> None:
        raise AssertionError(f"{found} runs with {option.opts[0]}={value}")

    monkeypatch.setattr(found.command, "callback", runs)
    others = [word for each in found.command.params if each is not option for word in needed(each)]
    arguments = ["-" for each in found.command.params if isinstance(each, click.Argument) and each.required]
    name = max(option.opts, key=len)
    line = refused(*found.path, *others, f"{name}={value}", *arguments)
    assert name in line
    assert len(line) < 300, "a wrong value is shown cut"


@every_leaf
def test_ctrl_c_ends_with_a_line_and_its_exit_code(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(found.command, "invoke", interrupted)
    monkeypatch.setattr(found.command, "parse_args", lambda context, args: [])
    result = run(*found.path)
    assert (result.exit_code, result.stderr.strip(), result.stdout) == (130, "interrupted", "")
    told = run("-o", "json", *found.path)
    assert (told.exit_code, json.loads(told.stdout)["error"]["kind"]) == (130, "Interrupted")


# -- completion and the version


def completed(shell: str, *words: str) -> subprocess.CompletedProcess[str]:
    program = "from raftcoord_cli.main import main; main()"
    environment = {
        **os.environ,
        "_RAFTCOORD_COMPLETE": shell,
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": words[-1] if words and shell.startswith("fish") else str(len(words) - 1),
    }
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_completion(shell: str) -> None:
    source = completed(f"{shell}_source")
    assert (source.returncode, "_raftcoord_completion" in source.stdout) == (0, True), source.stderr
    for words, expected in (
        (("raftcoord", "sta"), "status"),
        (("raftcoord", "node", "kil"), "kill"),
        (("raftcoord", "txn", "ls", "--lim"), "--limit"),
        (("raftcoord", "txn", "ls", "--state", "abo"), "aborted"),
        (("raftcoord", "drill", "databases", "cra"), "crashes"),
    ):
        done = completed(f"{shell}_complete", *words)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout
        assert "Traceback" not in done.stderr


def test_a_shell_that_is_not_known_is_an_error_without_a_traceback() -> None:
    done = completed("tcsh_source")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)


def test_the_version_is_shown_to_people_and_to_programs() -> None:
    text = run("--version").stdout
    assert text.startswith("raftcoord ")
    for arguments in (("--version", "-o", "json"), ("-o", "json", "--version"), ("--version", "--output=json")):
        assert json.loads(run(*arguments).stdout) == {"raftcoord": text.split()[1]}


def test_output_may_be_chosen_before_the_command() -> None:
    assert json.loads(run("-o", "json", "sim", "faults").stdout) == json.loads(
        run("sim", "faults", "-o", "json").stdout
    )
    assert run("-o", "json", "sim", "faults", "-o", "text").stdout == run("sim", "faults").stdout


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        (("demo",), "3 nodes"),
        (("up",), "starting the nodes"),
        (("bench", "decide"), ""),
        (("sim", "run", "--seeds", "0:500"), ""),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else "",
)
def test_ctrl_c_of_what_takes_long_ends_with_a_line_and_130(arguments: tuple[str, ...], first: str) -> None:
    """As a process, at its first line (or after a moment), with SIGINT as a terminal sends it."""
    program = "from raftcoord_cli.main import main; print('begins', flush=True); main()"
    command = [sys.executable, "-u", "-c", program, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        if first:
            assert first in process.stdout.readline()
        else:
            time.sleep(1)
        process.send_signal(signal.SIGINT)
        said, also = process.communicate(timeout=60)
    assert process.returncode == 130, said + also
    assert "Traceback" not in also
    assert "interrupted" in said + also


def test_ctrl_c_while_python_imports_ends_with_a_line_and_130(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt\n")
    command = [sys.executable, "-c", "from raftcoord_cli.entry import main; main()", "status"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
