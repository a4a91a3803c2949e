"""The FastAPI recipe of docs/sqlalchemy.md, as an application: what its responses say has happened."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from raftcoord import ABORT, Client, TxId, Unavailable
from raftcoord.config import Config

from . import cookbook
from .shop import Shop, in_doubt

ALICE = {"name": "alice", "email": "alice@example.org"}


class Site:
    """The application, and at each response how many rows stood committed when it was sent."""

    def __init__(self, app: Any, shop: Shop) -> None:
        self.app = app
        self.rows: list[tuple[int, int]] = []

        async def watched(scope: Any, receive: Any, send: Any) -> None:
            async def told(message: Any) -> None:
                if message["type"] == "http.response.start":
                    self.rows.append(shop.rows())
                await send(message)

            await app(scope, receive, told)

        transport = httpx.ASGITransport(watched, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://shop")

    async def __aenter__(self) -> Site:
        self._running = self.app.router.lifespan_context(self.app)
        await self._running.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.http.aclose()
        await self._running.__aexit__(*error)


@pytest.fixture
def the_site(shop: Shop, config: Config, client: Client, monkeypatch: pytest.MonkeyPatch) -> Site:
    """To be entered by the test, in its event loop."""
    return Site(cookbook.run("fastapi_shop", monkeypatch, config, shop, ("asyncpg", "asyncmy")).app, shop)


def test_the_docs_show_it() -> None:
    cookbook.shown("fastapi_shop")


async def test_it_is_committed_before_the_response_is_sent(the_site: Site, shop: Shop) -> None:
    async with the_site as site:
        for number in (1, 2):
            response = await site.http.post("/users", params=ALICE)
            assert response.status_code == 201
            assert site.rows[-1] == (number, number)
        assert response.json() == {"id": shop.ledger.sql("SELECT max(id) FROM user_account")[0][0]}


async def test_aborted_is_503_and_may_be_repeated(the_site: Site, client: Client) -> None:
    async with the_site as site:
        state = site.app.state
        decide = state.client.decide

        async def lost(txid: TxId, *args: Any, **options: Any) -> Any:
            client.decide(txid, ABORT, reason="somebody resolved it")
            return await decide(txid, *args, **options)

        state.client.decide = lost
        response = await site.http.post("/users", params=ALICE)
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert "somebody resolved it" in response.json()["error"]
        assert site.rows == [(0, 0)]
        state.client.decide = decide
        assert (await site.http.post("/users", params=ALICE)).status_code == 201
        assert site.rows[-1] == (1, 1)


async def test_no_node_is_503(the_site: Site) -> None:
    async with the_site as site:

        async def nobody(*_: Any) -> None:
            raise Unavailable("no node answers")

        site.app.state.client.admit = nobody
        assert (await site.http.post("/users", params=ALICE)).status_code == 503
        assert site.rows == [(0, 0)]


async def test_in_doubt_is_202_and_says_where_to_ask(the_site: Site, shop: Shop, client: Client) -> None:
    async with the_site as site:
        decide = site.app.state.client.decide

        async def unheard(txid: TxId, *args: Any, **options: Any) -> None:
            await decide(txid, *args, **options)
            in_doubt(txid)

        site.app.state.client.decide = unheard
        response = await site.http.post("/users", params=ALICE)
        assert response.status_code == 202
        shop.resolve(client)
        assert (await site.http.get(response.headers["location"])).json() == {
            "txid": response.json()["txid"],
            "state": "COMMITTED",
        }
        assert shop.rows() == (1, 1)
        assert (await site.http.get("/transactions/nonsense")).status_code == 404


async def test_an_error_in_the_function_rolls_back(the_site: Site, shop: Shop) -> None:
    async with the_site as site:
        shop.orders.sql("ALTER TABLE address RENAME TO hidden")
        try:
            assert (await site.http.post("/users", params=ALICE)).status_code == 500
        finally:
            shop.orders.sql("ALTER TABLE hidden RENAME TO address")
        assert shop.rows() == (0, 0)
        assert (await site.http.post("/users", params=ALICE)).status_code == 201
