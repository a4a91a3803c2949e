"""Every block of the docs is of the language that it says, so that it can be typed as it stands."""

from __future__ import annotations

import ast
import configparser
import json
import re
import subprocess
import textwrap
from pathlib import Path

import pytest

from raftcoord.config import Config

ROOT = Path(__file__).parents[1]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINE = re.compile(r"^(\s*)```(.*)$")


def blocks(path: Path) -> list[tuple[int, str, str]]:
    """Of each block: its line, its language (the first word after the fence), its text."""
    found, begun = [], None
    for number, line in enumerate(path.read_text().splitlines(), 1):
        fence = LINE.match(line)
        if fence and begun is None:
            begun = (number, fence[2].partition(" ")[0], [])  # type: ignore[var-annotated]
        elif fence:
            assert begun is not None
            found.append((begun[0], begun[1], textwrap.dedent("\n".join(begun[2])) + "\n"))
            begun = None
        elif begun is not None:
            begun[2].append(line)
    assert begun is None, f"{path.name}: a block has no end"
    return found


def indented(path: Path) -> list[tuple[int, str, str]]:
    """What is a block because it is indented, outside of lists and fences. Such a block is for the shell."""
    found: list[tuple[int, str, str]] = []
    fenced, in_list, before = False, False, ""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        fenced ^= bool(LINE.match(line))
        if line and not line.startswith(" "):
            in_list = bool(re.match(r"[-*] |\d+\. ", line))
        if line.startswith("    ") and not fenced and not in_list:
            if before.startswith("    "):
                found[-1] = (*found[-1][:2], f"{found[-1][2]}{line[4:]}\n")
            else:
                found.append((number, "sh", f"{line[4:]}\n"))
        before = line
    return found


BLOCKS = [(path, *block) for path in DOCS for block in (*blocks(path), *indented(path))]
SHELL_WORDS = re.compile(r"^\s*(\$ |raftcoord |pip |python3? |pytest |sudo |export |cd |mkdir |mv |bash |sh )", re.M)
PYTHON_WORDS = re.compile(r"^\s*(import \w+$|from [\w.]+ import |def \w+\(|class \w+|with .*:$|async with )", re.M)


@pytest.mark.parametrize(
    ("path", "line", "language", "text"), [pytest.param(*each, id=f"{each[0].name}:{each[1]}") for each in BLOCKS]
)
def test_a_block_is_of_the_language_that_it_says(
    path: Path, line: int, language: str, text: str, tmp_path: Path
) -> None:
    match language:
        case "python":
            compile(text, f"{path.name}:{line}", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)
            assert not SHELL_WORDS.search(text)
        case "sh":
            done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            assert not PYTHON_WORDS.search(text)
        case "json":
            json.loads(text)
        case "ini":
            configparser.ConfigParser(strict=False, interpolation=None).read_string(text)
        case "yaml":
            assert re.search(r"^\s*[\w-]+:", text, re.M)
            assert not SHELL_WORDS.search(text)
            if text.startswith("cluster:"):
                (tmp_path / "cluster.yaml").write_text(text)
                Config.load(tmp_path / "cluster.yaml")
        case "":
            assert not SHELL_WORDS.search(text), "say sh"
            assert not PYTHON_WORDS.search(text), "say python"
        case _:
            raise AssertionError(f"{language} is a language that nobody checks")
