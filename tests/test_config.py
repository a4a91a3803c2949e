"""cluster.yaml: what is right is read; what is wrong is named, with its line and what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftcoord import limits
from raftcoord.config import Address, Config, NodeConfig, Timing
from raftcoord.errors import ConfigError
from raftcoord.types import NodeName

GOOD = """\
cluster: demo
data_dir: data
nodes:
  - {name: n1, peer: "127.0.0.1:7401", client: "127.0.0.1:7501"}
  - {name: n2, peer: "127.0.0.1:7402", client: "127.0.0.1:7502"}
  - {name: n3, peer: "127.0.0.1:7403", client: "127.0.0.1:7503"}
"""


def refused(text: str, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        Config.parse(text, "c.yaml", environ)
    message = str(caught.value)
    assert "\n" not in message
    return message


def nodes(count: int, first_host: str = "127.0.0.1") -> str:
    rows = "".join(
        f'  - {{name: n{n}, peer: "{first_host if n == 1 else "127.0.0.1"}:{7400 + n}", client: "127.0.0.1:{7500 + n}"}}\n'
        for n in range(1, count + 1)
    )
    return f"cluster: demo\ndata_dir: data\nnodes:\n{rows}"


def test_the_shipped_cluster_yaml_is_a_cluster_of_three_on_loopback() -> None:
    config = Config.load(Path(__file__).parent.parent / "cluster.yaml")
    assert [node.name for node in config.nodes] == ["n1", "n2", "n3"]
    assert all(address.loopback for node in config.nodes for address in (node.peer, node.client))
    assert config.timing == Timing(50, 300, 600)
    assert config.retention_ms == limits.RETENTION_MS_DEFAULT


def test_the_data_directory_is_relative_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(GOOD)
    assert Config.load(file).node("n2").data_dir == tmp_path / "data" / "n2"


def test_what_is_left_out_has_the_documented_default() -> None:
    config = Config.parse(GOOD)
    assert (config.timing, config.retention_ms, config.allow_remote) == (Timing(), limits.RETENTION_MS_DEFAULT, False)


@pytest.mark.parametrize("count", range(1, 8))
def test_up_to_seven_nodes_are_a_cluster(count: int) -> None:
    assert len(Config.parse(nodes(count)).nodes) == count


@pytest.mark.parametrize(("count", "advice"), [(2, "write 1 or 3"), (4, "write 3 or 5"), (6, "write 5 or 7")])
def test_a_cluster_is_not_founded_with_an_even_number_of_nodes(count: int, advice: str) -> None:
    with pytest.raises(
        ConfigError, match=f"cannot be founded with {count} nodes; {advice}; an even number survives no more"
    ):
        Config.parse(nodes(count)).check_founding()


@pytest.mark.parametrize("count", [1, 3, 5, 7])
def test_a_cluster_is_founded_with_an_odd_number_of_nodes(count: int) -> None:
    Config.parse(nodes(count)).check_founding()


def test_nine_nodes_and_none_are_refused() -> None:
    assert "9 nodes; write 3 or 5 (a cluster has 1 to 7)" in refused(nodes(9))
    assert "0 nodes; write 3 or 5" in refused("cluster: demo\ndata_dir: data\nnodes: []\n")


def test_node_ids_follow_the_names_and_not_the_lines() -> None:
    config = Config.parse(GOOD.replace("name: n1", "name: zed"))
    assert [config.node_id(name) for name in ("n2", "n3", "zed")] == [1, 2, 3]


def test_an_unknown_node_is_told_the_names_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no node 'n9' in c\.yaml; its nodes are n1, n2, n3"):
        Config.parse(GOOD, "c.yaml").node("n9")


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("data_dir", "data_dri", 2, "unknown key 'data_dri' in the file; did you mean 'data_dir'?"),
        (
            'client: "127.0.0.1:7502',
            'cleint: "127.0.0.1:7502',
            5,
            "unknown key 'cleint' in node 2; did you mean 'client'?",
        ),
        ("cluster: demo", "cluster: demo\nwheels: 4", 2, "the keys here are cluster, data_dir, nodes, timing"),
        ("cluster: demo\n", "", 1, "lacks the key 'cluster'; write 'cluster: demo'"),
        (', client: "127.0.0.1:7502"', "", 5, "node 2 lacks the key 'client'"),
        ("data_dir: data", "data_dir: data\ndata_dir: data", 3, "'data_dir' is given twice"),
        ("name: n2", "name: n2, name: n4", 5, "'name' is given twice in node 2"),
        ("cluster: demo", "cluster: 7", 1, "'cluster' must be text, and is '7'"),
        ("cluster: demo", "cluster: on", 1, "'cluster' must be text, and is 'on'; if that is meant, put it in quotes"),
        ("cluster: demo", "cluster:", 1, "'cluster' has no value"),
        ("cluster: demo", 'cluster: ""', 1, "'cluster' is empty"),
        ("cluster: demo", "cluster: [demo]", 1, "'cluster' must be text, and is a list"),
        ("cluster: demo", "cluster: The Demo", 1, "cluster 'The Demo' is not a name"),
        ("data_dir: data", 'data_dir: "da\\0ta"', 2, "control character"),
        ("name: n2", "name: n1", 5, "two nodes are called 'n1'"),
        ("name: n2", "name: N2", 5, "node 'N2' is not a name"),
        ("127.0.0.1:7402", "127.0.0.1:7401", 5, "127.0.0.1:7401 is the peer of node 'n1' already"),
        ("127.0.0.1:7402", "localhost:7401", 5, "localhost:7401 is the peer of node 'n1' already"),
        ("127.0.0.1:7502", "127.0.0.1:7402", 5, "127.0.0.1:7402 is the peer of node 'n2' already"),
        ("127.0.0.1:7402", "7402", 5, "'7402' is not an address; write host:port"),
        ('"127.0.0.1:7402"', "7402", 5, "c.yaml:5: 'peer' must be text, and is '7402'; write it like 127.0.0.1:7401"),
        ("127.0.0.1:7402", "127.0.0.1:0", 5, "no port from 1 to 65535"),
        ("127.0.0.1:7402", "127.0.0.1:65536", 5, "no port from 1 to 65535"),
        ("127.0.0.1:7402", "127.0.0.1:" + "9" * 5000, 5, "no port from 1 to 65535"),
        ("127.0.0.1:7402", "::1:7402", 5, "is not an address"),
        ("127.0.0.1:7402", "10.0.0.7:7402", 5, "can be reached from other machines"),
        ("127.0.0.1:7402", "db.example:7402", 5, "'allow_remote: true'"),
        ("127.0.0.1:7402", "0.0.0.0:7402", 5, "cannot be dialled"),
        ("data_dir: data", 'data_dir: "\\U00110000"', 2, "out of bounds"),
        ("data_dir: data", 'data_dir: "\\UFFFFFFFF"', 2, "out of bounds"),
        *(
            ("127.0.0.1:7402", f"{host}:7402", 5, "is not an address")
            for host in ("a..b", "a'b", "-a", "a" * 64, "b\u00fcro")
        ),
    ],
)
def test_each_wrong_line_is_named_with_what_to_write(old: str, new: str, line: int, says: str) -> None:
    assert old in GOOD
    message = refused(GOOD.replace(old, new, 1))
    assert message.startswith(f"c.yaml:{line}: ")
    assert message.count("c.yaml") == 1
    assert says in message


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("timing: fast", "'timing' must be keys and values, and is 'fast'"),
        (
            "timing: {heartbeat_ms: 50ms}",
            "'heartbeat_ms' must be an integer of milliseconds from 5 to 5000, and is '50ms'",
        ),
        ("timing: {heartbeat_ms: 050}", "and is '050'"),
        ("timing: {heartbeat_ms: 5.5}", "and is '5.5'"),
        ("timing: {heartbeat_ms: '50'}", "must be an integer"),
        ("timing: {heartbeat_ms: true}", "and is 'true'"),
        ("timing: {election_ms: 300}", "'election_ms' must be a list, and is '300'"),
        ("timing: {election_ms: [300]}", "must be a list of two"),
        ("timing: {election_ms: [600, 300]}", "election_ms is [600, 300]"),
        ("retention_hours: a day", "'retention_hours' must be a number of hours"),
        ("allow_remote: yes", "'allow_remote' must be true or false, and is 'yes'"),
        ("allow_remote: 1", "'allow_remote' must be true or false, and is '1'"),
    ],
)
def test_each_wrong_setting_is_named_with_its_bounds(more: str, says: str) -> None:
    message = refused(GOOD + more + "\n")
    assert message.startswith("c.yaml:7: ")
    assert says in message


@pytest.mark.parametrize(("heartbeat", "shortest", "longest"), [(5, 15, 16), (5000, 15_000, 60_000), (100, 300, 301)])
def test_timing_at_its_bounds_is_accepted(heartbeat: int, shortest: int, longest: int) -> None:
    more = f"timing: {{heartbeat_ms: {heartbeat}, election_ms: [{shortest}, {longest}]}}\n"
    assert Config.parse(GOOD + more).timing == Timing(heartbeat, shortest, longest)


@pytest.mark.parametrize(
    ("heartbeat", "shortest", "longest"),
    [(4, 300, 600), (5001, 20_000, 30_000), (100, 299, 600), (50, 300, 300), (50, 300, 60_001)],
)
def test_timing_one_past_its_bounds_is_refused(heartbeat: int, shortest: int, longest: int) -> None:
    refused(GOOD + f"timing: {{heartbeat_ms: {heartbeat}, election_ms: [{shortest}, {longest}]}}\n")


def test_retention_at_its_bounds_is_accepted_and_one_past_is_refused() -> None:
    assert Config.parse(GOOD + "retention_hours: 0.25\n").retention_ms == limits.RETENTION_MS_MIN
    assert Config.parse(GOOD + "retention_hours: 8784\n").retention_ms == limits.RETENTION_MS_MAX
    refused(GOOD + "retention_hours: 0.2499\n")
    refused(GOOD + "retention_hours: 8784.1\n")


def test_remote_addresses_are_accepted_in_so_many_words() -> None:
    text = nodes(3, first_host="10.0.0.7") + "allow_remote: true\n"
    assert Config.parse(text).nodes[0].peer == Address("10.0.0.7", 7401)
    assert "can be reached" in refused(nodes(3, first_host="10.0.0.7") + "allow_remote: false\n")


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1:7401",
        "[::1]:7401",
        "[fe80::1%eth0]:7401",
        "localhost:1",
        "db-1.example.org:65535",
        "a" * 63 + ".b_c.:1",
    ],
)
def test_an_address_is_written_as_it_is_read(text: str) -> None:
    assert str(Address.parse(text)) == text


def test_ipv6_loopback_needs_no_permission() -> None:
    assert Config.parse(GOOD.replace("127.0.0.1:7402", "[::1]:7402")).nodes[1].peer.loopback


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the file is empty"),
        ("# nothing\n", "the file is empty"),
        ("- a\n- b\n", "the file must be keys and values, and is a list"),
        ("cluster: demo\n\tdata_dir: x\n", "c.yaml:2: not YAML"),
        ('cluster: "demo\n', "not YAML"),
        ("cluster: a\n---\ncluster: b\n", "not YAML"),
        ("cluster: \x01\n", "c.yaml:1: a character that YAML does not allow"),
        ("[" * 5000, "nested too deeply"),
        (f"# a\n%YAML 1.{'9' * 5000}\n---\na: b\n", "c.yaml:2: not YAML"),
        ("? [a]\n: b\n", "unknown key"),
        ("nodes: &n [*n]\ncluster: a\ndata_dir: b\n", "c.yaml:1: node 1 must be keys and values"),
    ],
)
def test_what_is_not_a_cluster_at_all_is_one_sentence(text: str, says: str) -> None:
    assert says in refused(text)


def test_a_file_that_is_absent_a_directory_too_long_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no file .*absent\.yaml; give the path with -c"):
        Config.load(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        Config.load(tmp_path)
    file = tmp_path / "c.yaml"
    file.write_bytes(GOOD.encode() + b"#" * (limits.CONFIG_BYTES_MAX - len(GOOD)))
    assert Config.load(file).cluster == "demo"
    file.write_bytes(file.read_bytes() + b"#")
    with pytest.raises(ConfigError, match="more than 1048576 bytes"):
        Config.load(file)
    file.write_bytes(b"cluster: demo\n\xff\n")
    with pytest.raises(ConfigError, match=r"c\.yaml:2: not UTF-8"):
        Config.load(file)


def test_a_config_writes_the_file_that_reads_back_as_itself(tmp_path: Path) -> None:
    source = tmp_path / "it's here" / "c.yaml"
    text = nodes(5, first_host="10.0.0.7") + "allow_remote: true\nretention_hours: 0.5\ntiming: {heartbeat_ms: 20}\n"
    config = Config.parse(text, source)
    assert Config.parse(config.to_yaml(), source) == config


def test_a_config_made_in_code_is_checked_as_a_file_is(tmp_path: Path) -> None:
    node = NodeConfig(NodeName("n1"), Address("127.0.0.1", 7401), Address("127.0.0.1", 7501), tmp_path / "n1")
    assert Config("demo", (node,)).data_dir == tmp_path
    with pytest.raises(ConfigError, match="two nodes are called 'n1'"):
        Config("demo", (node, node))
    elsewhere = NodeConfig(NodeName("n1"), node.peer, node.client, tmp_path / "other")
    with pytest.raises(ConfigError, match="outside the cluster's data_dir"):
        Config("demo", (elsewhere,))


# -- variables ----------------------------------------------------------------------------------------------------


def test_a_variable_in_any_value_comes_from_the_environment() -> None:
    text = GOOD.replace("demo", "${NAME}").replace('"127.0.0.1:7401"', '"${HOST}:${PORT}"') + (
        "timing:\n  heartbeat_ms: ${BEAT}\n  election_ms: ['${LEAST}', 900]\nretention_hours: ${HOURS}\nallow_remote: ${YES}\n"
    )
    environ = {
        "NAME": "shop",
        "HOST": "10.0.0.1",
        "PORT": "7401",
        "BEAT": "60",
        "LEAST": "400",
        "HOURS": "2.5",
        "YES": "true",
    }
    config = Config.parse(text, "c.yaml", environ)
    assert (config.cluster, str(config.nodes[0].peer)) == ("shop", "10.0.0.1:7401")
    assert config.timing == Timing(60, 400, 900)
    assert (config.retention_ms, config.allow_remote) == (9_000_000, True)


@pytest.mark.parametrize(
    ("written", "environ", "says"),
    [
        (
            "${NAME}",
            {},
            "c.yaml:1: 'cluster': the environment variable NAME is not set; set it where this command runs",
        ),
        ("${NAME}", {"NAME": ""}, "c.yaml:1: 'cluster': the environment variable NAME is empty"),
        ("a-${NAME}-${OTHER}", {"NAME": "x"}, "c.yaml:1: 'cluster': the environment variable OTHER is not set"),
        ("${NA ME}", {"NA ME": "x"}, "a '${' that names no variable"),
        ("${}", {}, "a '${' that names no variable"),
        ("'${NAME'", {"NAME": "x"}, "a '${' that names no variable"),
        ("${NAME}", {"NAME": "De Mo"}, "'De Mo' is not a name"),
        ("${NAME}", {"NAME": "a\nb"}, "holds a control character"),
    ],
)
def test_a_variable_that_is_not_set_or_does_not_fit_is_named_with_its_line(
    written: str, environ: dict[str, str], says: str
) -> None:
    assert says in refused(GOOD.replace("demo", written), environ)


def test_a_number_from_the_environment_is_held_to_the_same_bounds_and_not_shown() -> None:
    text = GOOD + "retention_hours: ${HOURS}\n"
    for value in ("0", "9000", "soon", "1e3", "0x10"):
        message = refused(text, {"HOURS": value})
        assert message.startswith("c.yaml:7: 'retention_hours' must be a number of hours"), message
        assert "is '${HOURS}'" in message


def test_two_dollars_before_a_brace_are_one_and_no_variable() -> None:
    config = Config.parse(GOOD.replace("data_dir: data", "data_dir: /a$${HOME}$x"), "c.yaml", {})
    assert str(config.data_dir) == "/a${HOME}$x"
    assert Config.parse(config.to_yaml(), "c.yaml", {}) == config


# -- resources ----------------------------------------------------------------------------------------------------

PG = "postgresql://app:s3cret@db.example.org:5433/shop"
MY = "mysql://app:s3cret@127.0.0.1/orders?unix_socket=/run/my.sock"


def resources(*rows: str) -> str:
    return GOOD + "resources:\n" + "".join(f"  - {row}\n" for row in rows)


def test_resources_are_named_databases() -> None:
    config = Config.parse(resources(f"{{name: ledger, url: '{PG}'}}", f"{{name: orders, url: '{MY}'}}"))
    assert [resource.name for resource in config.resources] == ["ledger", "orders"]
    assert config.resource("ledger").url() == PG
    assert config.resource("ledger").shown() == "postgresql shop at db.example.org:5433"
    assert config.resource("orders").shown() == "mariadb orders at 127.0.0.1"
    assert Config.parse(GOOD).resources == ()
    with pytest.raises(
        ConfigError, match=r"there is no resource 'stock' in cluster\.yaml; its resources are ledger, orders"
    ):
        config.resource("stock")
    with pytest.raises(ConfigError, match=r"there is no resource 'stock' in cluster\.yaml; it names no resources$"):
        Config.parse(GOOD).resource("stock")


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("postgres://u@h/d", "postgresql://u@h/d"),
        ("postgresql+psycopg://u@h/d", "postgresql://u@h/d"),
        ("mariadb://u@h:3307/d", "mariadb://u@h:3307/d"),
        ("mysql+pymysql://u@[::1]:3307/d", "mariadb://u@[::1]:3307/d"),
        ("postgresql:///d?host=/run/postgresql", "postgresql:///d?host=/run/postgresql"),
        ("sqlite:////var/lib/a.db", "sqlite:////var/lib/a.db"),
    ],
)
def test_a_url_is_read_as_other_programs_write_it(url: str, read: str) -> None:
    assert Config.parse(resources(f"{{name: ledger, url: '{url}'}}")).resources[0].url() == read


def test_the_file_of_a_sqlite_resource_is_relative_to_cluster_yaml(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(resources("{name: ledger, url: 'sqlite:///a%20b/ledger.db'}"))
    resource = Config.load(file).resources[0]
    assert resource.url() == f"sqlite:///{tmp_path}/a%20b/ledger.db"
    assert resource.shown() == f"sqlite {tmp_path}/a b/ledger.db"


def test_the_variables_of_a_url_are_read_when_it_is_used_because_nodes_hold_no_credentials() -> None:
    config = Config.parse(resources("{name: ledger, url: 'postgresql://app:${PG_PASSWORD}@db/shop'}"), "c.yaml", {})
    resource = config.resource("ledger")
    assert resource.url({"PG_PASSWORD": "s3cret"}) == "postgresql://app:s3cret@db/shop"
    with pytest.raises(ConfigError, match=r"^c\.yaml:8: the environment variable PG_PASSWORD is not set; set it where"):
        resource.url({})
    assert "${PG_PASSWORD}" in config.to_yaml()
    assert Config.parse(config.to_yaml(), "c.yaml", {}) == config


def test_a_whole_url_may_be_a_variable() -> None:
    (resource,) = Config.parse(resources("{name: ledger, url: '${LEDGER_URL}'}"), "c.yaml", {}).resources
    assert resource.url({"LEDGER_URL": PG}) == PG
    with pytest.raises(ConfigError, match="does not begin with postgresql://"):
        resource.url({"LEDGER_URL": "s3cret"})


@pytest.mark.parametrize(
    ("row", "line", "says"),
    [
        ("{name: ledger}", 8, "resource 1 lacks the key 'url'; write 'url: postgresql://USER:${PASSWORD}@HOST"),
        ("{url: 'postgresql://app:s3cret@h/d'}", 8, "resource 1 lacks the key 'name'"),
        ("{name: ledger, url: 'postgresql://app:s3cret@h/d', user: x}", 8, "unknown key 'user' in resource 1"),
        ("{name: Ledger, url: 'postgresql://app:s3cret@h/d'}", 8, "resource 'Ledger' is not a name"),
        ("{name: 'postgresql://app:s3cret@h/d', url: x}", 8, "a URL stands as the name"),
        ("postgresql://app:s3cret@h/d", 8, "resource 1 must be keys and values, and is 'postgresql://...'"),
        ("{name: ledger, 'postgresql://app:s3cret@h/d': url}", 8, "unknown key 'postgresql://...'"),
        ("{name: ledger, url: ''}", 8, "'url' is empty"),
        ("{name: ledger, url: 5}", 8, "'url' must be text"),
        ("{name: ledger, url: ['postgresql://app:s3cret@h/d']}", 8, "'url' must be text, and is a list"),
        (
            "{name: ledger, url: 'oracle://app:s3cret@h/d'}",
            8,
            "does not begin with postgresql://, mariadb:// or sqlite:///",
        ),
        ("{name: ledger, url: 'app:s3cret@h/d'}", 8, "does not begin with postgresql://"),
        ("{name: ledger, url: 'postgresql://app:s3cret@h/'}", 8, "names no database"),
        ("{name: ledger, url: 'postgresql://app:s3cret@h'}", 8, "names no database"),
        ("{name: ledger, url: 'postgresql://app:s3cret@/d'}", 8, "names no host"),
        ("{name: ledger, url: 'postgresql://app:s3cret@h:0/d'}", 8, "has the port 0"),
        ("{name: ledger, url: 'postgresql://app:s3cret@h:99999/d'}", 8, "cannot be read: its port"),
        ("{name: ledger, url: 'postgresql://app:s3/cret@h/d'}", 8, "cannot be read: its port"),
        ("{name: ledger, url: 'mysql://app:s3 cret@h/d'}", 8, "holds a blank"),
        ("{name: ledger, url: 'sqlite:///:memory:'}", 8, "names no file"),
        ("{name: ledger, url: 'sqlite://ledger.db'}", 8, "names no file"),
    ],
)
def test_a_wrong_resource_is_named_and_its_password_is_not(row: str, line: int, says: str) -> None:
    message = refused(resources(row))
    assert message.startswith(f"c.yaml:{line}: "), message
    assert says in message
    assert "s3" not in message.replace("sqlite3", "")


def test_two_resources_of_one_name_are_refused() -> None:
    message = refused(resources(f"{{name: ledger, url: '{PG}'}}", f"{{name: ledger, url: '{MY}'}}"))
    assert message == "c.yaml:9: two resources are called 'ledger'; give each its own"


def test_as_many_resources_as_allowed_and_not_one_more() -> None:
    rows = [f"{{name: r{number}, url: '{PG}'}}" for number in range(limits.RESOURCES_MAX + 1)]
    assert len(Config.parse(resources(*rows[:-1])).resources) == limits.RESOURCES_MAX
    assert f"at most {limits.RESOURCES_MAX}" in refused(resources(*rows))


def test_neither_repr_nor_what_is_shown_of_a_resource_holds_its_password() -> None:
    config = Config.parse(resources(f"{{name: ledger, url: '{PG}'}}"))
    (resource,) = config.resources
    for shown in (repr(config), repr(resource), str(resource), resource.shown()):
        assert "s3cret" not in shown
    assert resource.scrub("password s3cret is wrong for s3cret") == "password *** is wrong for ***"


def test_the_commented_resources_of_the_shipped_file_are_resources() -> None:
    text = (Path(__file__).parent.parent / "cluster.yaml").read_text()
    head, marker, tail = text.partition("#resources:")
    assert marker
    lines = [line.removeprefix("#") for line in (marker + tail).splitlines()]
    config = Config.parse(head + "\n".join(lines), "cluster.yaml", {})
    assert [resource.name for resource in config.resources] == ["ledger", "orders"]
    assert all(resource.url({"PG_PASSWORD": "a", "MY_PASSWORD": "b"}) for resource in config.resources)
