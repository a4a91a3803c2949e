"""``import raftcoord`` gives the whole public API, and little else until it is used."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

import raftcoord

ROOT = Path(__file__).parent.parent.parent


def test_every_public_name_is_there() -> None:
    for name in raftcoord.__all__:
        assert getattr(raftcoord, name) is not None
    assert set(raftcoord.__all__) <= set(dir(raftcoord))
    assert raftcoord.COMMIT is raftcoord.Verdict.COMMIT
    assert raftcoord.ABORT is raftcoord.Verdict.ABORT


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Cilent'"):
        _ = raftcoord.Cilent


def test_the_version_is_the_distributions() -> None:
    try:
        assert raftcoord.__version__ == version("raftcoord")
    except PackageNotFoundError:
        assert raftcoord.__version__ == "0+source"


def test_importing_it_brings_no_sockets_yaml_or_consensus() -> None:
    program = (
        "import sys, raftcoord; raftcoord.TxId.new(); "
        "print(*sorted({'asyncio', 'msgpack', 'yaml', 'pysyncobj', 'sqlite3', 'click'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout.strip() == ""
