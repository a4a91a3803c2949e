"""cluster.yaml: any text is a Config, or one ConfigError that names the line."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import event, given
from hypothesis import strategies as st

from raftcoord.config import Address, Config
from raftcoord.errors import ConfigError

from .effort import examples
from .shapes import altered, damaged, ints, values

GOOD = """\
# a cluster
cluster: demo
data_dir: data
nodes:
  - {name: n1, peer: 127.0.0.1:7401, client: 127.0.0.1:7501}
  - {name: n2, peer: 127.0.0.1:7402, client: "[::1]:7502"}
  - {name: n3, peer: 'localhost:7403', client: 127.0.0.1:7503}
timing:
  heartbeat_ms: 50
  election_ms: [300, 600]
retention_hours: 24.5
allow_remote: false
"""

_YAML = st.sampled_from(
    [*"\n\t:-[]{}&*!|>'\"%@#,?~", "\\", "\r", "\x85", "\u2028", "\ufeff", "\x00", "---", "...", "&a ", "*a", "<<: ", "!!str ",
     '"\\UFFFFFFFF"', '"\\U00110000"', '"\\ud800"', "%YAML 1.1\n", "%YAML 9.99999999999999999999999\n", "!<%ff>", "%TAG ! a\n",
     "'", "[" * 200, "{a: " * 200, "1e999", "0x10", "1_000", "9" * 5000, "n1", "data", "cluster", "${HOME}", "null"]
)  # fmt: skip
_SCALARS = (
    "demo",
    "data$",
    "n2",
    "127.0.0.1:7401",
    "50$",
    "300",
    "24.5",
    "false",
    r"\[300, 600\]",
    "timing",
    "{name: n1",
    "- ",
)


@st.composite
def edited(draw: st.DrawFn) -> str:
    """The good text after some edits of a kind that YAML minds."""
    text = draw(st.sampled_from([GOOD, GOOD, "cluster: demo\n", ""]))
    for _ in range(draw(st.integers(1, 3))):
        if draw(st.integers(0, 3)) == 0:
            old = re.search(draw(st.sampled_from(_SCALARS)), text, re.MULTILINE)
            text = text if old is None else text[: old.start()] + draw(_YAML) + text[old.end() :]
            continue
        at = draw(st.integers(0, len(text)))
        end = at + draw(st.sampled_from([0, 0, 1, 4, 30]))
        text = text[:at] + draw(_YAML | st.text(max_size=6)) + text[end:]
    return text


hosts = st.sampled_from(
    ["127.0.0.1", "localhost", "[::1]", "[fe80::1%eth0]", "db.example.org", "0.0.0.0", "a..b", 'a"b', "a'b"]
)
addresses = st.builds("{}:{}".format, hosts | st.text(max_size=8), st.integers(1, 65_535) | ints)
directories = st.sampled_from(
    ["data", "/var/lib/x", "~/x", "~nobody-at-all/x", "it's", 'a "b" \\c', "../..", "/", " é"]
)
documents = st.fixed_dictionaries(
    {
        "cluster": st.sampled_from(["demo", "a-b"]),
        "data_dir": directories | st.text(max_size=9),
        "nodes": st.integers(0, 5).map(
            lambda count: [
                {"name": f"n{n}", "peer": f"127.0.0.1:{7400 + n}", "client": f"127.0.0.1:{7500 + n}"} for n in range(count)
            ]
        ),
    },
    optional={
        "timing": st.fixed_dictionaries(
            {}, optional={"heartbeat_ms": ints, "election_ms": st.lists(st.integers(1, 70_000), max_size=3)}
        ),
        "retention_hours": st.floats(0, 9000) | ints,
        "allow_remote": st.booleans(),
    },
)  # fmt: skip
dumped = altered(documents, values | addresses).map(lambda value: yaml.safe_dump(value, allow_unicode=True, width=200))
remote = st.lists(addresses, min_size=2, max_size=2).map(
    lambda pair: yaml.safe_dump(
        {
            "cluster": "demo",
            "data_dir": "data",
            "nodes": [{"name": "n1", "peer": pair[0], "client": pair[1]}],
            "allow_remote": True,
        }
    )
)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory) / "cluster.yaml"


def read(text: str, source: str = "cluster.yaml") -> Config | None:
    """The cluster, or None if it was refused with the line."""
    try:
        config = Config.parse(text, source)
    except ConfigError as error:
        refusal = str(error)
    else:
        event("read")
        return config
    found = re.match(re.escape(source) + r":(\d+): .", refusal)
    assert found, f"without its line: {refusal}"
    assert 1 <= int(found[1]) <= len(text.splitlines()) + 1
    return None


@examples(450)
@given(edited() | dumped | remote | st.text(max_size=60))
def test_any_text_is_a_cluster_or_an_error_that_names_the_line(text: str) -> None:
    config = read(text)
    if config is not None:
        assert Config.parse(config.to_yaml(), "cluster.yaml") == config


@examples(200)
@given(damaged(edited().map(lambda text: text.encode("utf-8"))) | st.binary(max_size=60))
def test_any_file_is_a_cluster_or_an_error_that_names_it(place: Path, data: bytes) -> None:
    place.write_bytes(data)
    refusal = None
    try:
        Config.load(place)
    except ConfigError as error:
        refusal = str(error)
    assert refusal is None or re.match(re.escape(str(place)) + r":\d+: .", refusal), f"without its line: {refusal}"


@examples(300)
@given(addresses | st.text(max_size=20))
def test_an_address_can_be_written_and_read_and_dialled(text: str) -> None:
    try:
        address = Address.parse(text)
    except ConfigError:
        return
    assert Address.parse(str(address)) == address
    address.host.encode("idna")  # what every resolver call does first; a socket takes no NUL either
    assert "\0" not in address.host
