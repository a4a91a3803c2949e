"""The Flask recipe of docs/sqlalchemy.md, as an application: what its responses say has happened."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from raftcoord import ABORT, Client, Outcome, TxId, Unavailable
from raftcoord.config import Config

from . import cookbook
from .shop import Shop, in_doubt

ALICE = {"name": "alice", "email": "alice@example.org"}


@pytest.fixture
def site(shop: Shop, config: Config, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module of the recipe, and ``site.http`` to it."""
    made = cookbook.run("flask_shop", monkeypatch, config, shop, ("psycopg2", "pymysql"))
    made.http = made.app.test_client()
    yield made
    made.client.close()
    made.ledger.dispose()
    made.orders.dispose()


def test_the_docs_show_it() -> None:
    cookbook.shown("flask_shop")


def test_it_is_committed_when_the_response_is_there(site: Any, shop: Shop) -> None:
    rows: list[tuple[int, int]] = []

    @site.app.after_request
    def look(response: Any) -> Any:
        rows.append(shop.rows())
        return response

    for number in (1, 2):
        response = site.http.post("/users", data=ALICE)
        assert response.status_code == 201
        assert rows[-1] == (number, number)
    assert response.json == {"id": shop.ledger.sql("SELECT max(id) FROM user_account")[0][0]}


def test_aborted_is_503_and_may_be_repeated(site: Any, shop: Shop, client: Client) -> None:
    decide = site.client.decide

    def lost(txid: TxId, *args: Any, **options: Any) -> Outcome:
        client.decide(txid, ABORT, reason="somebody resolved it")
        outcome: Outcome = decide(txid, *args, **options)
        return outcome

    site.client.decide = lost
    response = site.http.post("/users", data=ALICE)
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert "somebody resolved it" in response.json["error"]
    assert shop.rows() == (0, 0)
    site.client.decide = decide
    assert site.http.post("/users", data=ALICE).status_code == 201
    assert shop.rows() == (1, 1)


def test_no_node_is_503(site: Any, shop: Shop) -> None:
    def nobody(*_: Any) -> None:
        raise Unavailable("no node answers")

    site.client.admit = nobody
    assert site.http.post("/users", data=ALICE).status_code == 503
    assert shop.rows() == (0, 0)


def test_in_doubt_is_202_and_says_where_to_ask(site: Any, shop: Shop, client: Client) -> None:
    decide = site.client.decide

    def unheard(txid: TxId, *args: Any, **options: Any) -> None:
        decide(txid, *args, **options)
        in_doubt(txid)

    site.client.decide = unheard
    response = site.http.post("/users", data=ALICE)
    assert response.status_code == 202
    shop.resolve(client)
    assert site.http.get(response.headers["location"]).json == {"txid": response.json["txid"], "state": "COMMITTED"}
    assert shop.rows() == (1, 1)
    assert site.http.get("/transactions/nonsense").status_code == 404


def test_an_error_in_the_view_rolls_back(site: Any, shop: Shop) -> None:
    assert site.http.post("/users", data={"name": "alice"}).status_code == 400
    shop.orders.sql("ALTER TABLE address RENAME TO hidden")
    try:
        assert site.http.post("/users", data=ALICE).status_code == 500
    finally:
        shop.orders.sql("ALTER TABLE hidden RENAME TO address")
    assert shop.rows() == (0, 0)
    assert site.http.post("/users", data=ALICE).status_code == 201
