"""Orders are read exactly, or refused with the line and the reason."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from raftcoord.drills.orders import (
    CENTS_MAX,
    HOME_BANK,
    Generated,
    Order,
    cents_of,
    load,
    opening_for,
    parse,
    text_of,
)
from raftcoord.errors import ConfigError
from raftcoord.types import checked_branch

HEADER = "order_id\taccount_from\tbank_to\taccount_to\tamount\tpurpose\n"
REAL = Path(__file__).parents[2].parent / "shared/data/payment_orders.tsv"


def parsed(*lines: str) -> tuple[Order, ...]:
    return parse(HEADER + "".join(f"{line}\n" for line in lines), "orders.tsv")


def refusal(*lines: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parsed(*lines)
    return str(caught.value)


def test_a_line_becomes_an_order_with_exact_cents() -> None:
    (order,) = parsed("29401\t1\tYZ\t87144583\t245.20\tHH")
    assert order == Order(29401, "1", checked_branch("bank-yz"), "87144583", 24520, "HH")


def test_the_last_line_may_lack_its_newline_and_the_purpose_may_be_empty() -> None:
    (order,) = parse(HEADER + "1\t2\tAB\t3\t4.00\t", "orders.tsv")
    assert order.purpose == ""


def test_an_order_takes_from_the_home_bank_and_gives_to_the_other() -> None:
    (order,) = parsed("1\t22\tAB\t33\t4.05\tLO")
    assert order.payloads() == {
        "bank-home": [{"op": "add", "key": "22", "amount": -405, "min": 0}],
        "bank-ab": [{"op": "add", "key": "33", "amount": 405}],
    }


@pytest.mark.parametrize(
    ("text", "cents"),
    [
        ("245.20", 24520),
        (".80", 80),
        ("33", 3300),
        ("33.5", 3350),
        ("0.01", 1),
        ("1128.70", 112870),
        ("10000000000", CENTS_MAX),
    ],
)
def test_amounts_are_exact(text: str, cents: int) -> None:
    assert cents_of(text) == cents


@pytest.mark.parametrize(
    "text",
    ["", ".", "1.", "1.234", "-1.00", "+1", "1e3", "1,000.00", " 1", "0.00", "nan", "٣.00", "10000000000.01"],
)
def test_what_is_not_an_exact_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="amount"):
        cents_of(text)


def test_cents_are_written_as_people_write_money() -> None:
    assert [text_of(cents) for cents in (0, 5, 212289936, -1234)] == ["0.00", "0.05", "2,122,899.36", "-12.34"]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("1\t2\tAB\t3\t4.00", "5 columns"),
        ("1\t2\tAB\t3\t4.00\tHH\tx", "7 columns"),
        ("", "1 columns"),
        ("x\t2\tAB\t3\t4.00\tHH", "order_id 'x'"),
        ("1\t\tAB\t3\t4.00\tHH", "account_from ''"),
        ("1\t2\tAB\t3a\t4.00\tHH", "account_to '3a'"),
        ("1\t2\tab\t3\t4.00\tHH", "bank_to 'ab'"),
        ("1\t2\tABC\t3\t4.00\tHH", "bank_to 'ABC'"),
        ("1\t2\tAB\t3\t4.001\tHH", "amount '4.001'"),
        ("1\t2\tAB\t3\t4.00\tH", "purpose 'H'"),
        ("1\t2\tAB\t3\t4.00\tHH\r", "carriage return"),
    ],
)
def test_a_wrong_line_is_named_with_what_is_wrong(line: str, what: str) -> None:
    text = refusal("9\t2\tAB\t3\t4.00\tHH", line)
    assert text.startswith("orders.tsv:3: ")
    assert what in text


def test_an_order_id_twice_is_refused() -> None:
    assert "orders.tsv:3: order_id 1 stands" in refusal("1\t2\tAB\t3\t4.00\tHH", "1\t2\tAB\t3\t5.00\tHH")


@pytest.mark.parametrize("text", ["", "order_id,account_from\n", "1\t2\tAB\t3\t4.00\tHH\n"])
def test_a_file_without_the_column_names_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"orders.tsv:1: the first line must be the column names"):
        parse(text, "orders.tsv")


def test_a_file_without_orders_is_refused() -> None:
    with pytest.raises(ConfigError, match="no order"):
        parse(HEADER, "orders.tsv")


def test_a_file_that_cannot_be_read_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "none.tsv")
    (tmp_path / "latin.tsv").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(tmp_path / "latin.tsv")


@pytest.mark.skipif(not REAL.exists(), reason="the real payment orders are not beside the project")
def test_the_real_file_has_its_published_totals() -> None:
    orders = load(REAL)
    assert len(orders) == 6471
    assert sum(order.cents for order in orders) == 212_289_936
    opening = opening_for(orders)
    assert len(opening) == 14
    assert len(opening[HOME_BANK]) == 3758
    assert sum(len(accounts) for accounts in opening.values()) == 3758 + 6446


def test_whoever_pays_can_pay_all_of_its_orders() -> None:
    orders = parsed("1\t2\tAB\t3\t4.00\tHH", "2\t2\tCD\t3\t5.00\tHH")
    assert opening_for(orders, spare_cents=7) == {"bank-home": {"2": 907}, "bank-ab": {"3": 0}, "bank-cd": {"3": 0}}


def test_generated_orders_depend_on_the_seed_alone() -> None:
    first, again, other = (tuple(islice(Generated(seed).orders(), 50)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_generated_orders_name_only_opened_accounts() -> None:
    source = Generated(3, banks=2, accounts=20, empty_every=10)
    opening = source.opening(cents=500)
    for order in islice(source.orders(), 200):
        assert order.account_from in opening[HOME_BANK]
        assert order.account_to in opening[order.bank_to]
    assert [account for account, cents in opening[HOME_BANK].items() if cents == 0] == ["10", "20"]


@pytest.mark.parametrize("banks", [0, 27])
def test_generated_orders_need_1_to_26_banks(banks: int) -> None:
    with pytest.raises(ConfigError):
        Generated(1, banks=banks)
    assert len(Generated(1, banks=26).opening()) == 27
