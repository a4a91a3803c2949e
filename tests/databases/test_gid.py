"""A gid is read back as it was written, and nothing else is ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftcoord import LocalProtocolError, TxId, limits
from raftcoord.databases import gid
from raftcoord.databases.gid import POSTGRESQL_BYTES_MAX, XA_PART_BYTES_MAX

CLUSTER = "0123456789abcdef"
TXID = TxId.parse("01a1ffb8d82170638f1d83752131d4de")


def test_it_is_written_as_designed_and_read_back() -> None:
    made = gid.make(CLUSTER, TXID, "ledger")
    assert str(made) == f"rc1.{CLUSTER}.{TXID}.ledger"
    assert made.xid == f"'rc1.{CLUSTER}.{TXID}','ledger'"
    assert gid.parse(str(made)) == made
    row = (1, len(made.gtrid), len(made.bqual), made.gtrid + made.bqual)
    assert gid.parse_xa(*row) == made
    assert gid.parse_xa(*row[:3], row[3].encode()) == made


def test_the_longest_fits_everywhere_and_one_more_is_refused() -> None:
    made = gid.make(CLUSTER, TXID, "b" * limits.NAME_LENGTH_MAX)
    assert len(str(made)) <= POSTGRESQL_BYTES_MAX
    assert len(made.gtrid) <= XA_PART_BYTES_MAX
    assert len(made.bqual) <= XA_PART_BYTES_MAX
    with pytest.raises(LocalProtocolError, match="is not a name"):
        gid.make(CLUSTER, TXID, "b" * (limits.NAME_LENGTH_MAX + 1))


@pytest.mark.parametrize(
    "branch", ["", "Ledger", "led_ger", "led.ger", "led'ger", "-ledger", "ledger-", "ü", None, 1, b"a"]
)
def test_a_wrong_branch_name_is_refused(branch: object) -> None:
    with pytest.raises(LocalProtocolError, match="is not a name"):
        gid.make(CLUSTER, TXID, branch)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rc1.",
        f"rc2.{CLUSTER}.{TXID}.ledger",
        f"rc1.{CLUSTER}.{TXID}",
        f"rc1.{CLUSTER}.{TXID}.ledger.more",
        f"rc1.{CLUSTER}.{str(TXID).upper()}.ledger",
        f"rc1.{CLUSTER}.{TXID}.Ledger",
        f"rc1.{CLUSTER.upper()}.{TXID}.ledger",
        f"rc1.{CLUSTER}.{'0' * 32}.ledger",
        f" rc1.{CLUSTER}.{TXID}.ledger",
        None,
        7,
        b"rc1",
    ],
)
def test_what_is_not_exactly_one_is_not_ours(text: object) -> None:
    assert gid.parse(text) is None


@given(st.one_of(st.text(), st.binary(), st.integers(), st.text("rc1.0123456789abcdef-", max_size=100)))
def test_nothing_makes_parse_raise(text: object) -> None:
    read = gid.parse(text)
    assert read is None or str(read) == text


@given(
    st.one_of(st.none(), st.integers(0, 3)),
    st.one_of(st.none(), st.integers(-5, 70)),
    st.one_of(st.none(), st.integers(-5, 70)),
    st.one_of(st.none(), st.text(max_size=140), st.binary(max_size=140)),
)
def test_nothing_makes_parse_xa_raise(format_id: object, gtrid: object, bqual: object, joined: object) -> None:
    assert gid.parse_xa(format_id, gtrid, bqual, joined) is None


def test_a_row_of_another_format_or_split_is_not_ours() -> None:
    made = gid.make(CLUSTER, TXID, "ledger")
    joined = made.gtrid + made.bqual
    assert gid.parse_xa(2, len(made.gtrid), len(made.bqual), joined) is None
    assert gid.parse_xa(1, len(made.gtrid) + 1, len(made.bqual) - 1, joined) is None
