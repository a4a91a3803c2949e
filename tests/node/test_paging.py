"""A listing is answered in as many parts as its bytes need, and a part that was cut short says so."""

from __future__ import annotations

from typing import Any

import pytest

from node.world import NOW_MS, Bank, Caller, new_txid, serving_one
from raftcoord import AsyncClient, limits
from raftcoord.api import answers
from raftcoord.core.tables.damages import Damage
from raftcoord.core.tables.decisions import Decide, Decision
from raftcoord.limits import NodeBounds
from raftcoord.node.listings import Portion, row
from raftcoord.rpc import frames
from raftcoord.types import Verdict

NAMES = tuple(f"resource-of-a-long-name-{number:08}" for number in range(limits.BRANCHES_MAX))
LARGEST = Decision(
    new_txid(), Verdict.ABORT, NAMES, NAMES, "\N{GRINNING FACE}" * limits.REASON_LENGTH_MAX, NAMES[0], 1, 1, 1
)


async def test_a_thousand_open_rows_of_many_branches_are_listed() -> None:
    """They exceed a frame together: the resolver, which reads them so, would be blind for ever."""
    async with serving_one() as served:
        txids = [new_txid() for _ in range(limits.ROWS_MAX)]
        for txid in txids:
            served.consensus.log.append(Decide(txid, Verdict.COMMIT, NAMES, "", "", NOW_MS))
        async with AsyncClient.from_addresses([f"127.0.0.1:{served.node.client_port}"]) as client:
            listed = await client.transactions("open", limit=limits.ROWS_MAX)
            assert [each["txid"] for each in listed] == sorted(txids, reverse=True)
            some = await client.transactions("open", limit=limits.ROWS_MAX - 1, before=listed[0]["txid"])
            assert [each["txid"] for each in some] == sorted(txids, reverse=True)[1:]
        first, is_cut = answers.ROWS.read(await (await Caller.of(served)).ask("txns", {"limit": limits.ROWS_MAX}))
        assert is_cut
        assert 0 < len(first) < limits.ROWS_MAX


def test_a_page_takes_so_many_bytes_and_not_one_row_more() -> None:
    each = row(LARGEST)
    fitting = NodeBounds.listing_bytes_max // len(frames.packer()(each))
    page: Portion[Any] = Portion(lambda made: made, NodeBounds.listing_bytes_max)
    for _ in range(fitting):
        assert page.add(each)
    assert answers.ROWS.write(page.page) == [each] * fitting
    assert not page.add(each)
    assert answers.ROWS.write(page.page) == {"rows": [each] * fitting, "more": True}
    assert not page.add({})


def test_the_largest_row_has_the_bytes_that_limits_say_and_a_page_fits_into_a_frame() -> None:
    size = len(frames.packer()(row(LARGEST)))
    assert 6_000 < size <= 7_000
    assert NodeBounds.listing_bytes_max + size <= limits.CLIENT_FRAME_BYTES_MAX


def test_a_row_that_is_alone_is_answered_whatever_its_size() -> None:
    page: Portion[Any] = Portion(lambda made: made, 1)
    assert page.add({"reason": "x" * 100})
    assert not page.add({"reason": ""})
    assert len(page.page.rows) == 1


@pytest.mark.parametrize(
    "result", [{}, {"rows": []}, {"rows": [], "more": True}, {"more": True}, None, "", {"rows": [1]}]
)
def test_a_part_without_rows_is_no_answer(result: object) -> None:
    with pytest.raises(answers.UnreadableAnswer):
        answers.ROWS.read(result)


async def test_participants_are_listed_however_many_they_are() -> None:
    async with serving_one(bounds=NodeBounds(listing_bytes_max=200)) as served:
        names = [f"bank-{number}" for number in range(7)]
        for name in names:
            await Bank(name).join(served)
        async with AsyncClient.from_addresses([f"127.0.0.1:{served.node.client_port}"]) as client:
            assert [row.name for row in await client.participants()] == names
        assert (await (await Caller.of(served)).ask("participants"))["more"] is True


def test_the_largest_damages_of_one_listing_fit_into_a_frame() -> None:
    widest = "\N{GRINNING FACE}"
    largest = Damage(new_txid(), NAMES[0], widest * limits.REASON_LENGTH_MAX, 1 << 47, widest * limits.WHO_LENGTH_MAX)
    rows = [largest._asdict()] * limits.DAMAGES_MAX
    assert len(frames.packer()({"damages": rows, "pending": 1 << 40, "total": 1 << 40})) < limits.CLIENT_FRAME_BYTES_MAX
