"""One state goes by the name of a participant, whoever comes first, until an operator replaces it."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path

import pytest

from node.local_consensus import Log
from node.world import Bank, Caller, Served, new_txid, serving, serving_one, until
from raftcoord import limits
from raftcoord.config import Address
from raftcoord.core.tables.participants import Bind
from raftcoord.env import Env
from raftcoord.errors import LocalProtocolError, Unavailable
from raftcoord.limits import NodeBounds
from raftcoord.participants.sqlite import SqliteParticipant
from raftcoord.participants.worker import Worker
from raftcoord.types import State, Verdict

ONE, OTHER, THIRD = "1a" * 16, "2b" * 16, "3c" * 16


def bank(name: str, identity: str, instance: int = 1) -> Bank:
    made = Bank(name)
    made.identity, made.instance = identity, f"{name}-{instance}"
    return made


def bound(served: Served, name: str = "a") -> str:
    known = served.consensus.ledger.participants.get(name)
    return known.identity if known else ""


async def refused(bank: Bank, served: Served) -> str:
    with pytest.raises(LocalProtocolError) as caught:
        await bank.join(served)
    return str(caught.value)


async def test_the_first_state_is_bound_and_another_is_refused_at_every_node() -> None:
    async with serving(Log("n1", "n2", "n3")) as nodes:
        await bank("a", ONE).join(*nodes)
        assert [bound(node) for node in nodes] == [ONE] * 3
        for node in nodes:
            said = await refused(bank("a", OTHER, 2), node)
            assert ONE[:8] in said
            assert OTHER[:8] in said
            assert "raftcoord participant replace a" in said
            assert len(node.node.sessions.of("a")) == 1


async def test_two_processes_with_two_files_under_one_name_are_not_both_admitted(tmp_path: Path) -> None:
    """What split the money: each got some of the branches, and the outcomes of the other's."""
    async with serving(Log("n1", "n2", "n3")) as nodes:
        addresses = [Address("127.0.0.1", node.node.client_port) for node in nodes]
        with (
            closing(SqliteParticipant(tmp_path / "1.db")) as first,
            closing(SqliteParticipant(tmp_path / "2.db")) as second,
        ):
            workers = [Worker(each, "bank-a", addresses, Env.real()) for each in (first, second)]
            serving_them = [asyncio.create_task(worker.run()) for worker in workers]
            try:
                await until(lambda: any(worker.ready.is_set() for worker in workers))
                await until(lambda: all(len(node.node.sessions.of("bank-a")) == 1 for node in nodes))
                loser = workers[0] if workers[1].ready.is_set() else workers[1]
                await until(lambda: all("another state" in link._dialer.last_error for link in loser._links))
                assert not loser.ready.is_set()
                assert bound(nodes[0], "bank-a") in (first.identity(), second.identity())
            finally:
                for worker in workers:
                    worker.stop()
                await asyncio.gather(*serving_them)


async def test_instances_that_share_a_state_are_admitted_together() -> None:
    async with serving_one() as served:
        await bank("a", ONE, 1).join(served)
        await bank("a", ONE, 2).join(served)
        assert len(served.node.sessions.of("a")) == 2
        assert len(served.proposed(Bind)) == 1


async def test_two_nodes_at_which_nothing_is_applied_yet_do_not_admit_two() -> None:
    async with serving(Log("n1", "n2")) as (n1, n2):
        for node in (n1, n2):
            node.consensus.held = True
        one, other = bank("a", ONE), bank("a", OTHER, 2)
        joining = [asyncio.ensure_future(one.join(n1)), asyncio.ensure_future(other.join(n2))]
        await until(lambda: n1.proposed(Bind) and n2.proposed(Bind))
        assert not n1.node.sessions.names()
        assert not n2.node.sessions.names()
        for node in (n1, n2):
            node.consensus.held = False
            node.consensus.release()
        done = await asyncio.gather(*joining, return_exceptions=True)
        assert [type(each) for each in done] == [Bank, LocalProtocolError]
        assert bound(n1) == bound(n2) == ONE


async def test_a_node_that_lags_admits_nobody_whose_name_it_does_not_know() -> None:
    async with serving(Log("n1", "n2")) as (n1, n2):
        n2.consensus.behind = True
        await bank("a", ONE).join(n1)
        joining = asyncio.ensure_future(bank("a", OTHER, 2).join(n2))
        await until(lambda: n2.proposed(Bind))
        assert not n2.node.sessions.names()
        n2.consensus.behind = False
        n2.consensus.catch_up()
        with pytest.raises(LocalProtocolError, match="another state"):
            await joining


async def test_without_a_leader_nobody_new_is_admitted_and_what_is_known_is() -> None:
    async with serving_one() as served:
        await bank("a", ONE).join(served)
        served.consensus.refusing = Unavailable("no leader")
        await bank("a", ONE, 2).join(served)
        joining = asyncio.ensure_future(bank("b", OTHER).join(served))
        done, _ = await asyncio.wait([joining], timeout=0.05)
        assert not done
        served.consensus.refusing = None
        await joining


@pytest.mark.parametrize("given", [None, OTHER])
async def test_an_operator_replaces_a_state_that_is_lost(given: str | None) -> None:
    log = Log("n1", "n2")
    async with serving(log) as (n1, n2):
        lost = await bank("a", ONE).join(n1, n2)
        client = await Caller.of(n1)
        assert "stop it first" in (await client.refused("replace_participant", "a", OTHER, "ops")).message
        new = bank("a", OTHER, 2)
        await refused(new, n1)
        lost.leave()
        await until(lambda: not n1.node.sessions.names())
        done = await client.ask("replace_participant", "a", given, "ops@example")
        assert (done["identity"], done["before"], done["who"]) == (OTHER, ONE, "ops@example")
        assert done["at_ms"] == n1.clock.ms
        assert bound(n2) == OTHER
        await new.join(n1, n2)
        assert "another state" in await refused(lost, n1)
        again = await client.ask("replace_participant", "a", OTHER, "somebody else")
        assert again["who"] == "ops@example"


async def test_a_session_of_the_state_that_is_replaced_ends_at_every_node() -> None:
    async with serving(Log("n1", "n2")) as (n1, n2):
        lost = await bank("a", ONE).join(n2)
        await (await Caller.of(n1)).ask("replace_participant", "a", OTHER, "ops")
        await until(lambda: not n2.node.sessions.names())
        assert lost.conns[0].closed


async def test_a_transaction_with_the_replaced_state_gets_no_vote_of_it() -> None:
    async with serving_one() as served:
        lost = await bank("a", ONE).join(served)
        served.consensus.log.append(Bind("a", OTHER, ONE, "ops", 1))
        client, txid = await Caller.of(served), new_txid()
        assert (await client.submit(txid, "a", timeout_ms=300))[0] == State.ABORTED
        assert ("prepare", txid) not in lost.heard


async def test_which_state_is_meant_must_be_known() -> None:
    async with serving_one() as served:
        client = await Caller.of(served)
        assert "no state is bound" in (await client.refused("replace_participant", "a", None, "ops")).message
        (await bank("a", ONE).join(served)).leave()
        await until(lambda: not served.node.sessions.names())
        nobody = await client.refused("replace_participant", "a", None, "ops")
        assert (nobody.code, "no other state was refused here" in nobody.message) == ("unavailable", True)
        await refused(bank("a", OTHER), served)
        await refused(bank("a", THIRD), served)
        two = (await client.refused("replace_participant", "a", None, "ops")).message
        assert OTHER in two
        assert THIRD in two
        assert bound(served) == ONE
        for bad in ("", "nonsense", OTHER.upper(), 7):
            assert "32 hex digits" in (await client.refused("replace_participant", "a", bad, "ops")).message
        assert "names nobody" in (await client.refused("replace_participant", "a", THIRD, " ")).message
        assert (await client.ask("replace_participant", "a", THIRD, "ops"))["identity"] == THIRD


async def test_of_two_operators_who_replace_the_same_state_one_hears_what_the_other_did() -> None:
    async with serving(Log("n1", "n2")) as (n1, n2):
        (await bank("a", ONE).join(n1)).leave()
        for node in (n1, n2):
            node.consensus.held = True
        asked = [
            (await Caller.of(n1)).begin("replace_participant", "a", OTHER, "ops"),
            (await Caller.of(n2)).begin("replace_participant", "a", THIRD, "dev"),
        ]
        await until(lambda: len(n1.proposed(Bind)) + len(n2.proposed(Bind)) == 3)
        for node in (n1, n2):
            node.consensus.held = False
            node.consensus.release()
        first, second = await asyncio.gather(*asked, return_exceptions=True)
        assert first["identity"] == OTHER
        assert "nothing was changed" in str(second)
        assert "ops" in str(second)


async def test_no_identity_is_taken_only_while_the_name_is_not_bound(caplog: pytest.LogCaptureFixture) -> None:
    async with serving_one() as served:
        old = await bank("a", "").join(served)
        await bank("a", "", 2).join(served)
        said = [record.getMessage() for record in caplog.records if "gives no identity" in record.getMessage()]
        assert len(said) == 1
        await bank("a", ONE, 3).join(served)
        await until(lambda: len(served.node.sessions.of("a")) == 1)
        assert old.conns[0].closed
        assert "gives no identity" in await refused(bank("a", "", 4), served)


@pytest.mark.parametrize("bad", ["x" * 32, "1a", "1A" * 16, 5, b"1a" * 16])
async def test_a_malformed_identity_is_refused(bad: object) -> None:
    async with serving_one() as served:
        assert "32 hex digits" in await refused(bank("a", bad), served)  # type: ignore[arg-type]
        assert not served.proposed(Bind)


async def test_a_name_is_forgotten_and_then_free() -> None:
    async with serving_one() as served:
        client = await Caller.of(served)
        first = await bank("a", ONE).join(served)
        assert "stop it first" in (await client.refused("forget_participant", "a", "ops")).message
        first.leave()
        await until(lambda: not served.node.sessions.names())
        assert (await client.ask("forget_participant", "a", "ops"))["before"] == ONE
        assert "no state is bound" in (await client.refused("forget_participant", "a", "ops")).message
        await bank("a", OTHER).join(served)
        assert bound(served) == OTHER


async def test_as_many_participants_are_known_as_may_be_and_the_next_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "PARTICIPANTS_MAX", 2)
    async with serving_one() as served:
        first = await bank("a", ONE).join(served)
        await bank("b", ONE).join(served)
        assert "raftcoord participant forget" in await refused(bank("c", ONE), served)
        first.leave()
        await until(lambda: "a" not in served.node.sessions.names())
        await (await Caller.of(served)).ask("forget_participant", "a", "ops")
        await bank("c", ONE).join(served)


async def test_refused_states_are_remembered_up_to_a_bound() -> None:
    async with serving_one(bounds=NodeBounds(participants_refused_max=2)) as served:
        await bank("a", ONE).join(served)
        for identity in (OTHER, THIRD, "4d" * 16):
            await refused(bank("a", identity), served)
        [row] = await (await Caller.of(served)).ask("participants")
        assert row["refused"] == [THIRD, "4d" * 16]
        assert (row["name"], row["identity"], row["sessions"]) == ("a", ONE, 1)


async def test_the_name_of_a_resource_is_never_bound() -> None:
    async with serving(Log("n1"), resources=("db",)) as (served,):
        assert "is a resource" in await refused(bank("db", ONE), served)
        assert not served.proposed(Bind)


async def test_a_vote_is_asked_of_a_bound_state_as_before() -> None:
    async with serving_one() as served:
        await bank("a", ONE).join(served)
        client, txid = await Caller.of(served), new_txid()
        assert (await client.submit(txid, "a"))[0] == State.COMMITTED
        decision = served.decision(txid)
        assert decision is not None
        assert decision.verdict is Verdict.COMMIT
