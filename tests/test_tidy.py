"""The rules of the house that a machine can hold: which room may import which, and how a file reads."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINES_EXPLAINED = 400
"""From here on a file says in ``LONG`` why it is one idea."""

LONG = {
    "raftcoord/client/asynchronous.py": "every method of the client, with what it promises its caller",
    "raftcoord/limits.py": "a table: every bound stands in one place, with its unit and its reason",
    "raftcoord/consensus/consensus.py": "one node's part in the cluster: proposals, links, copies, and who takes part",
    "raftcoord/core/tables/decisions.py": "a table is one file: its commands, its rows, its rules and its memory",
}
"""Files that are long because their idea is. A count never splits an idea."""

LEVELS = (
    ("limits",),
    ("env", "errors", "lifeline"),
    ("foreign", "private", "types"),
    ("logs", "strict_yaml"),
    ("databases",),
    ("config", "core"),
    ("events", "history", "rpc", "storage"),
    ("api", "consensus", "processes"),
    ("client", "node", "participants"),
    ("databases.resolver", "drills", "integrations"),
    ("sim",),
    ("bench", "demos", "doctor"),
    ("raftcoord_cli",),
)
"""DESIGN section 2: a room imports only from lower levels, and from itself."""

PRINTS = {
    "raftcoord/node/main.py",
    "raftcoord/participants/serve.py",
    "raftcoord/drills/banks.py",
    "raftcoord/drills/paying_program.py",
}
"""Beside __main__.py: the line that says ready, which whoever started the process waits for."""

SIDE_EFFECTS = {
    *(
        "asyncio",
        "concurrent",
        "ctypes",
        "fcntl",
        "io",
        "logging",
        "multiprocessing",
        "os",
        "pathlib",
        "queue",
        "random",
    ),
    *(
        "secrets",
        "select",
        "shutil",
        "signal",
        "socket",
        "sqlite3",
        "ssl",
        "subprocess",
        "sys",
        "tempfile",
        "threading",
        "time",
    ),
}
UNUSUAL = re.compile(r"\b(whoever|bears?|mend(?:s|ed|ing)?|heed(?:s|ed|ing)?|at the latest)\b", re.IGNORECASE)
"""Words that a reader in a hurry stumbles over; each has a usual one: everybody, carries, fixes, follows, at most 5 s after."""

UNSAFE_TO_LOAD = {"cPickle", "cloudpickle", "dill", "marshal", "pickle", "shelve"}


def sources() -> list[Path]:
    """Every module of the product."""
    return sorted([*(ROOT / "raftcoord").rglob("*.py"), *(ROOT / "cli").rglob("*.py")])


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def shown(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def room_of(path: Path) -> str:
    """``config`` for raftcoord/config.py, ``core`` for what lies in raftcoord/core/; "" for raftcoord/__init__.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "cli":
        return "raftcoord_cli"
    return "" if parts[1] == "__init__" else room_in(".".join(parts[1:]))


def room_in(name: str) -> str:
    """The room of the module ``name``, below raftcoord; a folder that is named in LEVELS is a room of its own."""
    parts = name.split(".")
    folder = ".".join(parts[:2])
    return folder if any(folder in rooms for rooms in LEVELS) else parts[0]


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Each absolute import that is carried out, also inside functions, as a dotted name."""
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            assert isinstance(child, ast.If)
            for alternative in child.orelse:
                yield from imports(alternative)
        elif isinstance(child, ast.Import):
            yield from ((child, alias.name) for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.level == 0:
            yield from ((child, f"{child.module}.{alias.name}") for alias in child.names)
        else:
            yield from imports(child)


def level_of(room: str) -> int:
    return next(level for level, rooms in enumerate(LEVELS) if room in rooms)


def hold(judge: Callable[[Path], Iterator[str]]) -> None:
    """Fail with every offence that ``judge`` finds in any module."""
    offences = [offence for path in sources() for offence in judge(path)]
    assert not offences, "\n".join(["", *offences])


def test_every_room_has_its_place() -> None:
    known = {room for rooms in LEVELS for room in rooms}
    assert {room_of(path) for path in sources()} - {""} <= known


def test_arrows_point_downwards_only() -> None:
    def judge(path: Path) -> Iterator[str]:
        room = room_of(path)
        for node, name in imports(tree_of(path)):
            top, _, rest = name.partition(".")
            if top not in ("raftcoord", "raftcoord_cli", "cli") or rest.startswith("__"):
                continue
            imported = room_in(rest) if top == "raftcoord" else "raftcoord_cli"
            known = any(imported in rooms for rooms in LEVELS)
            if not room:
                if known and level_of(imported) >= level_of("drills"):
                    yield f"{shown(path, node)}: the public API imports {name}"
            elif not known:
                yield f"{shown(path, node)}: {name} is not a room: import from the module that defines it"
            elif imported != room and level_of(imported) >= level_of(room):
                yield f"{shown(path, node)}: {room} imports {name}"

    hold(judge)


def test_the_core_imports_nothing_with_a_side_effect() -> None:
    def judge(path: Path) -> Iterator[str]:
        if room_of(path) == "core":
            for node, name in imports(tree_of(path)):
                if name.partition(".")[0] in SIDE_EFFECTS or name.startswith("raftcoord.env"):
                    yield f"{shown(path, node)}: {name}"

    hold(judge)


def test_only_one_package_imports_pysyncobj() -> None:
    def judge(path: Path) -> Iterator[str]:
        if path.parent != ROOT / "raftcoord" / "consensus" / "pysyncobj":
            for node, name in imports(tree_of(path)):
                if name.partition(".")[0] == "pysyncobj":
                    yield f"{shown(path, node)}: {name}"
            if '"pysyncobj' in path.read_text(encoding="utf-8"):
                yield f"{shown(path, tree_of(path))}: it is named as a module to be loaded"

    hold(judge)


def test_nothing_is_unpickled() -> None:
    def judge(path: Path) -> Iterator[str]:
        for node, name in imports(tree_of(path)):
            if name.partition(".")[0] in UNSAFE_TO_LOAD:
                yield f"{shown(path, node)}: {name}"

    hold(judge)


def test_a_long_file_says_why_it_is_one_idea() -> None:
    def judge(path: Path) -> Iterator[str]:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        room = str(path.relative_to(ROOT))
        if lines > LINES_EXPLAINED and room not in LONG:
            yield f"{room}: {lines} lines; split it if it is two ideas, or give it a reason in LONG"

    hold(judge)
    short = [room for room in LONG if (ROOT / room).read_text(encoding="utf-8").count("\n") <= LINES_EXPLAINED]
    assert not short, f"not long any more: {short}"


def test_one_file_knows_the_command_lines_of_our_processes() -> None:
    def judge(path: Path) -> Iterator[str]:
        for node in ast.walk(tree_of(path)):
            elsewhere = path != ROOT / "raftcoord" / "processes" / "commands.py"
            if elsewhere and isinstance(node, ast.Attribute) and node.attr == "executable":
                yield f"{shown(path, node)}: ask processes/commands.py"

    hold(judge)


def test_the_library_does_not_print() -> None:
    def judge(path: Path) -> Iterator[str]:
        if path.name == "__main__.py" or str(path.relative_to(ROOT)) in PRINTS:
            return
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "pprint"):
                yield shown(path, node)

    hold(judge)


def test_asynchronous_code_takes_its_time_from_the_loop() -> None:
    """time.sleep would hold every connection; time.monotonic would be blind to a simulator's clock."""

    def judge(path: Path) -> Iterator[str]:
        if not any(name.partition(".")[0] == "asyncio" for _, name in imports(tree_of(path))):
            return
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in (
                "time.sleep",
                "time.monotonic",
                "time.monotonic_ns",
            ):
                yield f"{shown(path, node)}: {ast.unparse(node)}"

    hold(judge)


def test_every_module_says_what_it_is_for() -> None:
    def judge(path: Path) -> Iterator[str]:
        if ast.get_docstring(tree_of(path)) is None:
            yield f"{path.relative_to(ROOT)}"

    hold(judge)


def test_a_class_name_is_one_thing() -> None:
    """Two classes of one name in two files are two names waiting to be found: the field's word for each, or what it is of."""
    found: dict[str, set[str]] = {}
    for path in sources():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, set()).add(str(path.relative_to(ROOT)))
    twice = [f"{name}: {', '.join(sorted(paths))}" for name, paths in sorted(found.items()) if len(paths) > 1]
    assert not twice, "\n".join(["", *twice])


def test_docs_and_docstrings_use_the_usual_words() -> None:
    """Names in backquotes are left out: they are code."""

    def judge(path: Path) -> Iterator[str]:
        for node in ast.walk(tree_of(path)):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                for found in UNUSUAL.findall(re.sub(r"``[^`]*``", "", node.value.value)):
                    yield f"{shown(path, node)}: {found}"

    hold(judge)
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        found = UNUSUAL.findall(re.sub(r"`[^`]*`", "", page.read_text(encoding="utf-8")))
        assert not found, f"{page.name}: {found}"


def test_the_public_api_says_what_it_owes() -> None:
    """What users call has a docstring. Elsewhere one that only echoes the name is worse than none."""
    module = importlib.import_module("raftcoord")
    silent = []
    for name in module.__all__:
        public = getattr(module, name)
        if not inspect.isclass(public) and not inspect.isfunction(public):
            continue
        if not inspect.getdoc(public):
            silent.append(name)
        for attribute, value in vars(public).items() if inspect.isclass(public) else ():
            called = inspect.isfunction(value) or isinstance(value, property | classmethod | staticmethod)
            if called and not attribute.startswith("_") and not inspect.getdoc(getattr(public, attribute)):
                silent.append(f"{name}.{attribute}")
    assert not silent


@pytest.mark.parametrize("path", [path for path in sources() if path.name == "__init__.py"], ids=room_of)
def test_what_a_package_exports_is_real_and_in_order(path: Path) -> None:
    parts = path.relative_to(ROOT).parent.parts
    module = importlib.import_module("raftcoord_cli" if parts == ("cli",) else ".".join(parts))
    names: list[str] = list(getattr(module, "__all__", []))
    assert names == sorted(set(names), key=lambda name: (not name.isupper(), not name[:1].isupper(), name))
    for name in names:
        getattr(module, name)


def test_the_public_api_is_all_that_the_package_imports() -> None:
    path = ROOT / "raftcoord" / "__init__.py"
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("raftcoord")
        for alias in node.names
    }
    exported = set(getattr(importlib.import_module("raftcoord"), "__all__", []))
    assert imported <= exported
