"""The desk answers every operation of the table. An entry there and a function here are all that an operation needs."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import pytest

from node.world import Bank, Caller, new_txid, serving_one
from raftcoord import AsyncClient, LocalProtocolError
from raftcoord.api import answers, fields
from raftcoord.api.answers import Codec
from raftcoord.api.operations import OPERATIONS, Operation, Role
from raftcoord.node.listings import Answering, Asker
from raftcoord.rpc.codes import RpcError


async def test_every_operation_of_the_table_is_served_to_those_who_may_ask_and_to_no_others() -> None:
    async with serving_one() as served:
        for role in Role:
            methods = served.node.desk.methods([role])
            assert {each.operation for each in methods.values()} == {
                each for each in OPERATIONS if role in each.methods
            }
        bank = await Bank("a").join(served)
        with pytest.raises(RpcError, match="unknown method 'close'"):
            await bank.ask("close", [[new_txid(), ["a"]]], "a", "it wants to")


# -- another operation: an entry and a function ---------------------------------------------------------------------------


class Shouted(NamedTuple):
    """What the operation of this test takes."""

    text: Annotated[str, fields.WHY]
    times: Annotated[int, fields.up_to(3)] = 1


def _loud(result: Any) -> str:
    if type(result) is not str:
        raise answers.UnreadableAnswer(result)
    return result


SHOUT = Operation("shout", Shouted, Codec(_loud, lambda text: text), {Role.CLIENT: "shout"})


def shout(request: Shouted, asker: Asker, answer: Answering) -> None:
    answer(request.text.upper() * request.times)


async def test_an_operation_that_is_added_in_one_place_is_served_by_node_and_client() -> None:
    async with serving_one() as served:
        served.node.desk.serve(SHOUT, shout)
        async with AsyncClient.from_addresses([f"127.0.0.1:{served.node.client_port}"]) as client:
            assert await client.ask(SHOUT, "hurry", 2) == "HURRYHURRY"
            assert await client.ask(SHOUT, "hurry") == "HURRY"
            for given in (("hurry", 4), ("", 1), (), ("a", 1, 1)):
                with pytest.raises(LocalProtocolError):  # before anything is sent
                    await client.ask(SHOUT, *given)
        caller = await Caller.of(served)
        assert (await caller.refused("shout", "hurry", 4)).code == "bad_request"
        with pytest.raises(RpcError, match="unknown method"):
            await (await Bank("a").join(served)).ask("shout", "hurry")
