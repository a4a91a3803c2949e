"""The tutorial's model, unmodified, over two engines, and its program killed with kill -9 at every point."""

from __future__ import annotations

import pytest

from raftcoord import Client, State

from .shop import Shop
from .signing_up import PLAIN_STOPS
from .stopping import STOPS
from .world import until

COMMITS = {*STOPS[STOPS.index("first commit") :], "end"}
"""The points behind the decision."""


@pytest.mark.parametrize("stop", ["flush", *STOPS, "end"])
def test_a_program_killed_anywhere_leaves_users_and_addresses_equal(shop: Shop, client: Client, stop: str) -> None:
    txid = shop.kill_at("signing_up.py", "ours", stop)
    shop.resolve(client)
    rows = 1 if stop in COMMITS else 0
    assert shop.rows() == (rows, rows)
    state = client.resolve(txid).state
    assert state is (State.COMMITTED if rows else State.ABORTED)
    assert client.damages(txid).total == 0
    if rows:
        until(lambda: shop.resolve(client) or not client.show(txid)["outstanding"])  # type: ignore[index]


def prepared_by_sqlalchemy(shop: Shop) -> list[tuple[str, str]]:
    """What its own ids name, on each side."""
    ledger = shop.ledger.sql(
        "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() AND gid LIKE '%\\_sa\\_%'"
    )
    orders = [bytes(data)[:length].decode() for _, length, _, data in shop.orders.sql("XA RECOVER")]
    return [("ledger", gid) for (gid,) in ledger] + [("orders", gid) for gid in orders if gid.startswith("_sa_")]


def roll_back_blindly(shop: Shop) -> None:
    """What people do: nobody recorded a decision, so what is prepared is rolled back."""

    def finish() -> bool:
        for side, gid in prepared_by_sqlalchemy(shop):
            if side == "ledger":
                shop.ledger.sql(f"ROLLBACK PREPARED '{gid}'")
            else:
                shop.orders.sql(f"XA ROLLBACK '{gid}'")
        return not prepared_by_sqlalchemy(shop)

    until(finish)


def test_with_twophase_true_alone_the_two_sides_diverge(shop: Shop, client: Client) -> None:
    """Killed between the two commits: one side has the row, and the other side's is rolled back."""
    diverged = []
    for stop in PLAIN_STOPS:
        shop.clear(client)
        shop.kill_at("signing_up.py", "plain", stop)
        until(lambda: not unfinished(shop))
        roll_back_blindly(shop)
        users, addresses = shop.rows()
        if users != addresses:
            diverged.append(stop)
    assert diverged == ["second commit"]


def unfinished(shop: Shop) -> bool:
    """Whether the killed program's sessions are still there: MariaDB ends a branch only when they have gone."""
    mine = f"db = '{shop.orders.database}' AND id <> connection_id()"
    return bool(shop.orders.sql(f"SELECT 1 FROM information_schema.processlist WHERE {mine}"))
