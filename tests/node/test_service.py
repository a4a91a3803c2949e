"""The client port: what is answered, what is refused, and that what is refused changes nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from node.local_consensus import CLUSTER, Log
from node.world import NOW_MS, SILENCE, YES, Bank, Caller, Clock, End, dial, new_txid, serving, serving_one, until
from raftcoord import limits
from raftcoord.core.protocols.interface import BranchAcknowledged
from raftcoord.core.tables.decisions import Complete, Decide
from raftcoord.core.tables.horizon import Retire
from raftcoord.core.tables.members import founded
from raftcoord.errors import LocalProtocolError, NotKnown, Overloaded, RaftcoordError, Unavailable
from raftcoord.limits import NodeBounds
from raftcoord.node.transactions import Running
from raftcoord.rpc import codes
from raftcoord.types import NodeName, State, TxId, Verdict

NOT_V7 = bytes(16)
COMMIT, ABORT = int(Verdict.COMMIT), int(Verdict.ABORT)


# -- decide -------------------------------------------------------------------------------------------------------


async def test_decide_answers_what_stands_with_its_term_and_index() -> None:
    async with serving_one() as served:
        client, txid = await Caller.of(served), new_txid()
        answer = await client.ask("decide", txid, COMMIT, ["pg", "my"], "", 5000)
        decision = served.decision(txid)
        assert decision is not None
        assert answer == [State.COMMITTED, "", "", decision.term, decision.index]
        assert decision.branches == ("pg", "my")
        assert decision.at_ms == NOW_MS


async def test_the_first_decision_wins_and_every_later_one_is_told_what_stands() -> None:
    async with serving_one() as served:
        client, committed, aborted = await Caller.of(served), new_txid(), new_txid()
        first = await client.decide(committed, Verdict.COMMIT, "pg")
        assert await client.decide(committed, Verdict.COMMIT, "pg") == first
        assert await client.decide(committed, Verdict.ABORT) == first
        first = await client.ask("decide", aborted, ABORT, [], "changed my mind", 5000)
        assert first[:2] == [State.ABORTED, "changed my mind"]
        assert await client.decide(aborted, Verdict.COMMIT, "pg") == first


async def test_decide_reads_the_ledgers_answer_and_not_its_own_view() -> None:
    async with serving(Log("n1", "n2")) as (n1, n2):
        client, txid = await Caller.of(n1), new_txid()
        n1.consensus.behind = True
        n2.consensus.log.append(Decide(txid, Verdict.ABORT, (), "n2 was first", "", 0))
        answer = client.begin("decide", txid, COMMIT, ["pg"], "", 5000)
        await until(lambda: n1.proposed(Decide))
        n1.consensus.behind = False
        n1.consensus.catch_up()
        assert (await answer)[:2] == [State.ABORTED, "n2 was first"]


@pytest.mark.parametrize("known_here", [True, False])
async def test_a_commit_with_other_branches_is_a_txid_used_twice(known_here: bool) -> None:
    async with serving_one() as served:
        client, txid = await Caller.of(served), new_txid()
        served.consensus.behind = not known_here
        served.consensus.log.append(Decide(txid, Verdict.COMMIT, ("pg",), "", "", 0))
        refused = asyncio.create_task(client.refused("decide", txid, COMMIT, ["my"], "", 5000))
        await until(lambda: known_here or served.proposed(Decide))
        served.consensus.behind = False
        served.consensus.catch_up()
        error = await refused
        assert error.code == "txid_used"
        assert error.detail["stands"][0] == State.COMMITTED


async def test_a_decision_older_than_the_horizon_is_forgotten_and_not_recorded() -> None:
    async with serving_one() as served:
        client, old = await Caller.of(served), new_txid(NOW_MS - 10_000)
        served.consensus.log.append(Retire(NOW_MS - 5_000))
        assert (await client.decide(old))[0] == State.FORGOTTEN
        assert served.decision(old) is None


async def test_decide_at_its_deadline_is_in_doubt_and_carries_the_txid() -> None:
    async with serving_one() as served:
        client, txid = await Caller.of(served), new_txid()
        served.consensus.held = True
        error = await client.refused("decide", txid, COMMIT, [], "", 20)
        assert error.code == "in_doubt"
        assert error.detail["txid"] == txid


async def test_decide_that_no_leader_took_is_unavailable() -> None:
    log = Log("n1")
    async with serving(log) as (served,):
        client = await Caller.of(served)
        log.lead(None)
        assert (await client.refused("decide", new_txid(), COMMIT, [], "", 20)).code == "unavailable"


@pytest.mark.parametrize(
    ("error", "code"), [(Overloaded("full"), "overloaded"), (Unavailable("halted"), "unavailable")]
)
async def test_what_consensus_refuses_is_refused_under_its_own_code(error: RaftcoordError, code: str) -> None:
    async with serving_one() as served:
        client, txid = await Caller.of(served), new_txid()
        served.consensus.refusing = error
        for method, params in [("decide", [txid, COMMIT, [], "", 50]), ("resolve", [txid, 50]), ("status", [txid])]:
            assert (await client.refused(method, *params)).code == code


async def test_a_long_reason_is_cut_because_an_abort_must_not_fail() -> None:
    async with serving_one() as served:
        client, txid = await Caller.of(served), new_txid()
        await client.ask("decide", txid, ABORT, [], "x" * (limits.REASON_LENGTH_MAX + 1), 5000)
        decision = served.decision(txid)
        assert decision is not None
        assert decision.reason == "x" * limits.REASON_LENGTH_MAX


# -- status and resolve -------------------------------------------------------------------------------------------


async def test_absence_is_never_aborted() -> None:
    """Way 2 of FACTS: UNDECIDED, as of the index of a barrier."""
    async with serving_one() as served:
        client, txid = await Caller.of(served), new_txid()
        served.consensus.log.append(None)
        answer = await client.ask("status", txid)
        assert answer == [State.UNDECIDED, "", "", 1, served.consensus.applied_index]
        assert served.consensus.applied_index > 1
        assert served.decision(txid) is None


async def test_status_of_what_is_applied_here_needs_no_leader() -> None:
    log = Log("n1")
    async with serving(log) as (served,):
        client, txid = await Caller.of(served), new_txid()
        await client.decide(txid)
        log.lead(None)
        assert await client.outcome(txid) is State.COMMITTED


async def test_status_passes_a_barrier_before_it_says_undecided() -> None:
    async with serving(Log("n1", "n2")) as (n1, n2):
        client, txid = await Caller.of(n2), new_txid()
        n2.consensus.behind = True
        await (await Caller.of(n1)).decide(txid)
        answer = client.begin("status", txid)
        await until(lambda: n2.consensus._answers)
        n2.consensus.behind = False
        n2.consensus.catch_up()
        assert (await answer)[0] == State.COMMITTED


async def test_status_that_cannot_be_confirmed_is_unavailable_and_not_undecided() -> None:
    async with serving_one(bounds=NodeBounds(question_ms=10)) as served:
        client = await Caller.of(served)
        served.consensus.held = True
        assert (await client.refused("status", new_txid())).code == "unavailable"
        served.consensus.lose()


async def test_what_is_older_than_the_horizon_is_forgotten() -> None:
    async with serving_one() as served:
        client, old = await Caller.of(served), new_txid(NOW_MS - 10_000)
        await client.decide(old)
        served.consensus.log.append(Retire(NOW_MS - 5_000))
        for ask in (lambda: client.ask("status", old), lambda: client.ask("resolve", old, 5000)):
            answer = await ask()
            assert answer[0] == State.FORGOTTEN
            assert answer[4] == served.consensus.applied_index


async def test_resolve_ends_what_is_undecided_and_records_it() -> None:
    async with serving_one() as served:
        client, txid = await Caller.of(served), new_txid()
        assert (await client.ask("resolve", txid, 5000))[0] == State.ABORTED
        decision = served.decision(txid)
        assert decision is not None
        assert "presumed abort" in decision.reason
        assert (await client.decide(txid))[0] == State.ABORTED


# -- participants in doubt ----------------------------------------------------------------------------------------


async def test_a_branch_is_told_committed_only_if_the_commit_names_it() -> None:
    async with serving_one() as served:
        a, b, txid = await Bank("a").join(served), await Bank("b").join(served), new_txid()
        served.consensus.log.append(Decide(txid, Verdict.COMMIT, ("a",), "", "", 0))
        for method, params in [("status", []), ("resolve", [5000])]:
            assert (await a.ask(method, txid, "a", *params))[0] == State.COMMITTED
            answer = await b.ask(method, txid, "b", *params)
            assert answer[0] == State.ABORTED
            assert "without this branch" in answer[1]


async def test_a_branch_in_doubt_is_told_aborted_for_what_is_forgotten() -> None:
    async with serving_one() as served:
        bank, old = await Bank("a").join(served), new_txid(NOW_MS - 10_000)
        served.consensus.log.append(Retire(NOW_MS - 5_000))
        assert (await bank.ask("resolve", old, "a", 5000))[0] == State.ABORTED
        assert (await bank.ask("status", old, "a"))[0] == State.ABORTED


async def test_a_branch_is_told_undecided_while_it_is() -> None:
    async with serving_one() as served:
        bank = await Bank("a").join(served)
        assert (await bank.ask("status", new_txid(), "a"))[0] == State.UNDECIDED


async def test_a_participant_may_ask_for_its_own_branch_only() -> None:
    async with serving_one() as served:
        bank, txid = await Bank("a").join(served), new_txid()
        for method, params in [("status", []), ("resolve", [5000])]:
            with pytest.raises(RaftcoordError, match="its own only"):
                await bank.ask(method, txid, "b", *params)
        assert served.decision(txid) is None


async def test_a_participant_may_not_decide() -> None:
    async with serving_one() as served:
        bank, txid = await Bank("a").join(served), new_txid()
        with pytest.raises(RaftcoordError, match="unknown method 'decide'"):
            await bank.ask("decide", txid, COMMIT, ["a"], "", 5000)
        assert served.decision(txid) is None


# -- complete -----------------------------------------------------------------------------------------------------


async def test_complete_names_branches_or_means_all() -> None:
    async with serving_one() as served:
        client, txid = await Caller.of(served), new_txid()
        await client.decide(txid, Verdict.COMMIT, "a", "b", "c")
        assert await client.ask("complete", txid, ["b"]) is True
        assert served.decision(txid).outstanding == ("a", "c")  # type: ignore[union-attr]
        assert await client.ask("complete", txid, None) is True
        assert served.decision(txid).outstanding == ()  # type: ignore[union-attr]
        assert await client.ask("complete", txid, None) is True
        assert len(served.proposed(Complete)) == 2


async def test_complete_of_what_is_decided_elsewhere_waits_until_it_is_known_here() -> None:
    async with serving(Log("n1", "n2")) as (n1, n2):
        client, txid = await Caller.of(n2), new_txid()
        n2.consensus.behind = True
        await (await Caller.of(n1)).decide(txid, Verdict.COMMIT, "a")
        answer = client.begin("complete", txid, ["a"])
        await until(lambda: n2.consensus._answers)
        n2.consensus.behind = False
        n2.consensus.catch_up()
        assert await answer is True
        assert n1.decision(txid).outstanding == ()  # type: ignore[union-attr]


async def test_complete_of_what_is_not_decided_or_of_a_strange_branch_is_refused() -> None:
    async with serving_one() as served:
        client, txid = await Caller.of(served), new_txid()
        error = await client.refused("complete", txid, None)
        assert (error.code, "is not decided" in error.message) == ("bad_request", True)
        await client.decide(txid, Verdict.COMMIT, "a")
        error = await client.refused("complete", txid, ["a", "zebra"])
        assert (error.code, "no branch 'zebra'" in error.message) == ("bad_request", True)
        assert served.proposed(Complete) == []


async def test_complete_of_what_is_forgotten_is_done() -> None:
    async with serving_one() as served:
        client, old = await Caller.of(served), new_txid(NOW_MS - 10_000)
        served.consensus.log.append(Retire(NOW_MS - 5_000))
        assert await client.ask("complete", old, ["a"]) is True


async def test_complete_of_unknown_fate_says_that_repeating_is_safe() -> None:
    async with serving_one(bounds=NodeBounds(question_ms=10)) as served:
        client, txid = await Caller.of(served), new_txid()
        await client.decide(txid, Verdict.COMMIT, "a")
        served.consensus.held = True
        error = await client.refused("complete", txid, None)
        assert error.code == "in_doubt"
        assert "complete it again, that is safe" in error.message


async def test_complete_that_was_not_attempted_is_unavailable() -> None:
    log = Log("n1")
    async with serving(log, bounds=NodeBounds(question_ms=10)) as (served,):
        client, txid = await Caller.of(served), new_txid()
        await client.decide(txid, Verdict.COMMIT, "a")
        log.lead(None)
        assert (await client.refused("complete", txid, None)).code == "unavailable"
        assert (await client.refused("complete", new_txid(), None)).code == "unavailable"


# -- showing ------------------------------------------------------------------------------------------------------


FOUNDING = founded({NodeName(f"n{n}"): (n, f"{n:032x}", f"h{n}:1", f"h{n}:2") for n in (1, 2, 3)})


@pytest.mark.parametrize("step", ["add", "remove", "replace"])
async def test_a_change_of_the_members_is_answered_with_the_members(step: str) -> None:
    async with serving(Log("n1", "n2")) as (n1, _):
        client = await Caller.of(n1)
        n1.consensus.changed = FOUNDING
        answer = await client.ask("change_members", step, "n2")
        assert {key: answer[key] for key in ("node", "step", "by", "epoch")} == {
            "node": "n2",
            "step": step,
            "by": "n1",
            "epoch": 1,
        }
        assert answer["members"][1] == {
            "id": 2,
            "name": "n2",
            "identity": f"{2:032x}",
            "voter": True,
            "peer": "h2:1",
            "client": "h2:2",
        }
        assert n1.consensus.changes == [(step, "n2")]


@pytest.mark.parametrize(
    ("params", "why"),
    [
        (("add", 5), "is not a name"),
        (("add", "N 3"), "is not a name"),
        (("upgrade", "n2"), "is no change of the members; use one of add, remove, replace"),
        ((None, "n2"), "is no change of the members"),
        (("add",), "node"),
    ],
)
async def test_a_change_of_the_members_that_makes_no_sense_is_not_proposed(params: Any, why: str) -> None:
    async with serving(Log("n1", "n2")) as (n1, _):
        error = await (await Caller.of(n1)).refused("change_members", *params)
        assert error.code == "bad_request"
        assert why in error.message
        assert n1.consensus.changes == []


@pytest.mark.parametrize(
    ("result", "code", "why"),
    [
        (Unavailable("node n1 does not lead"), "unavailable", "does not lead"),
        (LocalProtocolError("node n2 is a member already"), "bad_request", "already"),
        (NotKnown(), "unavailable", "run `raftcoord node remove n2` again, that is safe"),
    ],
)
async def test_a_change_of_the_members_that_was_not_made_says_why(result: Any, code: str, why: str) -> None:
    async with serving(Log("n1", "n2")) as (n1, _):
        n1.consensus.changed = result
        error = await (await Caller.of(n1)).refused("change_members", "remove", "n2")
        assert error.code == code
        assert why in error.message


async def test_node_describes_itself() -> None:
    async with serving(Log("n1", "n2")) as (n1, n2):
        await Bank("bank-a").join(n1)
        client = await Caller.of(n1)
        await client.decide(new_txid(), Verdict.COMMIT, "a")
        said = await client.ask("node")
        assert said["node"] == "n1"
        assert said["cluster"] == CLUSTER
        assert said["cluster_name"] == "test"
        assert said["role"] == "leader"
        assert said["leader"] == "n1"
        assert said["participants"] == ["bank-a"]
        assert said["open"] == 1
        assert said["running"] == 0
        assert said["wall_ms"] == NOW_MS
        assert said["peers"] == {"n2": {"up": True, "match": None, "refused": ""}}
        assert {"term", "commit_index", "applied_index", "log_first", "log_last", "decisions_in_memory"} <= said.keys()
        assert {"horizon_ms", "uptime_s", "version", "pid"} <= said.keys()
        assert (await (await Caller.of(n2)).ask("node"))["role"] == "follower"


async def test_txns_lists_the_newest_first_and_goes_on_from_where_it_stopped() -> None:
    async with serving_one() as served:
        client, txids = await Caller.of(served), [new_txid() for _ in range(4)]
        for i, txid in enumerate(txids):
            await client.decide(txid, Verdict(i % 2), *(["a"] if i == 1 else []))
        rows = await client.ask("txns", {"state": None, "limit": 3, "before": None})
        assert [row["txid"] for row in rows] == txids[:0:-1]
        assert [row["txid"] for row in await client.ask("txns", {"before": txids[1]})] == [txids[0]]
        assert [row["txid"] for row in await client.ask("txns", {"state": "aborted"})] == [txids[2], txids[0]]
        (row,) = await client.ask("txns", {"state": "open"})
        assert row["outstanding"] == ["a"]
        assert (row["state"], row["reason"], row["term"]) == (State.COMMITTED, "", 1)


async def test_show_gives_the_record_or_where_it_runs_or_nothing() -> None:
    async with serving_one() as served:
        bank, client, txid = await Bank("a", prepare=SILENCE).join(served), await Caller.of(served), new_txid()
        assert await client.ask("show", txid) is None
        answer = client.submit(txid, "a")
        await bank.hears("prepare", txid)
        shown = await client.ask("show", txid)
        assert (shown["state"], shown["running"]) == (
            State.UNDECIDED,
            {"phase": "preparing", "ballots": {"a": "asked"}},
        )
        bank.speak(YES)
        await answer
        shown = await client.ask("show", txid)
        assert (shown["state"], shown["branches"]) == (State.COMMITTED, ["a"])
        assert "running" not in shown


# -- hello --------------------------------------------------------------------------------------------------------


async def test_a_participant_is_not_admitted_before_the_cluster_is_founded() -> None:
    log = Log("n1", founded=False)
    log.nodes[0].held = True
    async with serving(log) as (served,):
        client = await Caller.of(served)
        assert (await client.ask("node"))["cluster"] == ""
        with pytest.raises(Unavailable, match="not founded yet"):
            await dial(served, End(), "participant", {"name": "a", "instance": "i"})
        log.nodes[0].held = False
        log.nodes[0].release()
        await Bank("a").join(served)
        assert len((await client.ask("node"))["cluster"]) == 16


async def test_a_participant_by_the_name_of_a_resource_is_refused_and_the_others_are_served() -> None:
    async with serving(Log("n1"), resources=("ledger",)) as (served,):
        client, bank = await Caller.of(served), await Bank("bank").join(served)
        with pytest.raises(
            LocalProtocolError, match=r"'ledger' is a resource of this node's cluster.yaml.*another name"
        ):
            await Bank("ledger").join(served)
        assert (await client.ask("node"))["participants"] == ["bank"]
        assert (await client.submit(new_txid(), "bank"))[0] == State.COMMITTED
        assert bank.conns[0].closed is False


async def test_submit_to_a_resource_says_what_to_use_instead_and_attempts_nothing() -> None:
    async with serving(Log("n1"), resources=("ledger",)) as (served,):
        client, bank, txid = await Caller.of(served), await Bank("bank").join(served), new_txid()
        error = await client.refused("submit", txid, {"bank": "pay", "ledger": "pay"}, 5000, "decided")
        assert (error.code, "tx.enlist(connection, 'ledger')" in error.message) == ("bad_request", True)
        assert bank.heard == []
        assert served.decision(txid) is None


@pytest.mark.parametrize(
    ("role", "details"),
    [
        ("participant", {}),
        ("participant", {"name": "Bank A", "instance": "i"}),
        ("participant", {"name": "x" * (limits.NAME_LENGTH_MAX + 1), "instance": "i"}),
        ("participant", {"name": "a"}),
        ("participant", {"name": "a", "instance": ""}),
        ("participant", {"name": "a", "instance": "x" * 65}),
        ("participant", {"name": "a", "instance": 7}),
        ("peer", {}),
    ],
)
async def test_a_hello_that_is_wrong_is_refused_in_words(role: str, details: dict[str, Any]) -> None:
    async with serving_one() as served:
        with pytest.raises(LocalProtocolError):
            await dial(served, End(), role, details)
        assert served.node.sessions.names() == []


async def test_names_and_instances_at_their_bounds_are_admitted() -> None:
    async with serving_one() as served:
        name = "x" * limits.NAME_LENGTH_MAX
        await dial(served, End(), "participant", {"name": name, "instance": "y" * 64})
        assert served.node.sessions.names() == [name]


# -- bad input ----------------------------------------------------------------------------------------------------

LONG = "n" * (limits.NAME_LENGTH_MAX + 1)
MANY = [f"b{i}" for i in range(limits.BRANCHES_MAX + 1)]
TX = TxId.new(NOW_MS, b"0123456789")
FUTURE = TxId.new(NOW_MS + limits.ClockBounds.future_ms_max + 1, bytes(10))
FAR = TxId.new(NOW_MS + limits.DECIDE_FUTURE_MS_MAX + 1, bytes(10))

BAD: dict[str, list[list[Any]]] = {
    "decide": [
        [],
        [TX, COMMIT, [], "", 5000, "more"],
        *([txid, COMMIT, [], "", 5000] for txid in (b"", NOT_V7, TX.hex(), None, 7, TX + b"0")),
        *([TX, verdict, [], "", 5000] for verdict in (2, -1, True, "commit", None, 1.5, 1.0, 0.0)),
        *(
            [TX, COMMIT, names, "", 5000]
            for names in (None, "pg", {"pg": 1}, ["pg", "pg"], ["PG"], [""], [7], [LONG], MANY)
        ),
        *([TX, ABORT, [], reason, 5000] for reason in (None, 7, b"x")),
        *([TX, COMMIT, [], "", timeout] for timeout in (0, -1, limits.TIMEOUT_MS_MAX + 1, 1.5, True, "5000", None)),
        [FAR, COMMIT, [], "", 5000],
    ],
    "submit": [
        [],
        *([txid, {"a": 1}, 5000, "decided"] for txid in (b"", NOT_V7, TX.hex(), None, FUTURE)),
        *([TX, given, 5000, "decided"] for given in (None, {}, ["a"], {"A": 1}, {LONG: 1}, dict.fromkeys(MANY))),
        [TX, {"a": b"x" * (limits.PAYLOAD_BYTES_MAX + 1)}, 5000, "decided"],
        *([TX, {"a": 1}, timeout, "decided"] for timeout in (0, limits.TIMEOUT_MS_MAX + 1, True, None)),
        *([TX, {"a": 1}, 5000, wait] for wait in ("", "done", None, True, ["decided"])),
    ],
    "status": [[], [b"x"], [NOT_V7], [TX, TX]],
    "resolve": [[], [TX], [b"x", 5000], [TX, 0], [FAR, 5000]],
    "complete": [[], [TX], [b"x", None], [TX, "a"], [TX, ["a", "a"]]],
    "node": [[1]],
    "txns": [
        [],
        [None],
        [[]],
        *([{"limit": limit}] for limit in (0, limits.ROWS_MAX + 1, True, "7")),
        *([{"state": state}] for state in ("undecided", 1, ["open"])),
        *([{"before": before}] for before in (b"x", "x", 7)),
        [{"order": "oldest"}],
    ],
    "show": [[], [b"x"], [None]],
    "drop_everything": [[]],
}


@pytest.mark.parametrize("method", BAD)
async def test_bad_input_is_a_bad_request_and_changes_nothing(method: str) -> None:
    async with serving_one() as served:
        bank, client = await Bank("a").join(served), await Caller.of(served)
        before = served.consensus.applied_index
        for params in BAD[method]:
            error = await client.refused(method, *params)
            assert error.code == "bad_request", (params, error)
            assert len(error.message) > 10
        assert served.consensus.applied_index == before
        assert served.consensus.proposed == []
        assert not served.node.transactions.running
        assert bank.heard == []
        assert (await client.submit(new_txid(), "a"))[0] == State.COMMITTED


async def test_input_at_its_bounds_is_accepted() -> None:
    async with serving_one() as served:
        client = await Caller.of(served)
        edge = TxId.new(NOW_MS + limits.ClockBounds.future_ms_max, bytes(10))
        names = ["n" * limits.NAME_LENGTH_MAX, *MANY[: limits.BRANCHES_MAX - 1]]
        answer = await client.ask("decide", edge, COMMIT, names, "x" * limits.REASON_LENGTH_MAX, limits.TIMEOUT_MS_MAX)
        assert answer[0] == State.COMMITTED
        await client.ask("txns", {"limit": limits.ROWS_MAX})
        bank, txid = await Bank("a").join(served), new_txid()
        envelope = len(b"\x81\xa1a\xc6....")
        payload = b"x" * (limits.PAYLOAD_BYTES_MAX - envelope)
        assert (await client.ask("submit", txid, {"a": payload}, 5000, "decided"))[0] == State.COMMITTED
        assert bank.heard[0] == ("prepare", txid)
        error = await client.refused("submit", new_txid(), {"a": payload + b"x"}, 5000, "decided")
        assert f"{limits.PAYLOAD_BYTES_MAX + 1} bytes" in error.message


async def test_a_transaction_older_than_the_horizon_is_not_begun() -> None:
    async with serving_one() as served:
        bank, client = await Bank("a").join(served), await Caller.of(served)
        served.consensus.log.append(Retire(NOW_MS - 5_000))
        error = await client.refused("submit", new_txid(NOW_MS - 5_001), {"a": 1}, 5000, "decided")
        assert error.code == "bad_request"
        assert "older than the horizon" in error.message
        assert bank.heard == []
        assert (await client.submit(new_txid(NOW_MS - 5_000), "a"))[0] == State.COMMITTED


@pytest.mark.parametrize("method", ["status", "resolve", "submit"])
async def test_the_horizon_proves_nothing_where_it_cannot_be_confirmed(method: str) -> None:
    """It may have been lowered, and the transaction be committed since."""
    async with serving_one(bounds=NodeBounds(question_ms=50)) as served:
        bank, client, old = await Bank("a").join(served), await Caller.of(served), new_txid(NOW_MS - 5_001)
        served.consensus.log.append(Retire(NOW_MS - 5_000))
        served.consensus.held = True
        rest = {"status": (), "resolve": (50,), "submit": ({"a": 1}, 50, "decided")}
        assert (await client.refused(method, old, *rest[method])).code == "unavailable"
        assert bank.heard == []
        served.consensus.lose()


async def test_a_bug_in_one_request_answers_internal_and_disturbs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving_one() as served:
        client, other = await Caller.of(served), await Caller.of(served)
        unseen: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
        monkeypatch.setattr(served.consensus, "decisions", lambda *_: 1 // 0)
        assert (await client.refused("txns", {})).code == "internal"
        assert [type(context["exception"]) for context in unseen] == [ZeroDivisionError]
        for caller in (client, other):
            assert (await caller.decide(new_txid()))[0] == State.COMMITTED


async def test_a_bug_in_a_transaction_is_in_doubt_and_disturbs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving_one() as served:
        bank, client, txid = await Bank("a").join(served), await Caller.of(served), new_txid()
        with monkeypatch.context() as broken:
            broken.setattr(Running, "_propose", lambda *_: 1 // 0)
            assert (await client.refused("submit", txid, {"a": 1}, 5000, "decided")).code == "in_doubt"
        assert not served.node.transactions.running
        assert bank.told(txid) == []
        assert (await client.submit(new_txid(), "a"))[0] == State.COMMITTED


async def test_a_broken_invariant_halts_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving_one() as served:
        bank, client = await Bank("a", prepare=SILENCE).join(served), await Caller.of(served)
        answer = client.submit(new_txid(), "a")
        await until(lambda: bank.silent)
        (running,) = served.node.transactions.running.values()
        running.feed(BranchAcknowledged("a"))
        assert "invariant broken" in str(served.halted.pop())
        bank.speak(YES)
        await answer


async def test_a_notification_ends_its_connection_and_no_other() -> None:
    async with serving_one() as served:
        rude, client = await Caller.of(served), await Caller.of(served)
        rude.conn.notify("hurry", [])
        await until(lambda: rude.conn.closed)
        assert (await client.decide(new_txid()))[0] == State.COMMITTED


async def test_the_clock_of_the_node_is_what_the_future_is_measured_by() -> None:
    clock = Clock()
    async with serving_one(clock=clock) as served:
        client = await Caller.of(served)
        bank = await Bank("a").join(served)
        error = await client.refused("submit", FUTURE, {"a": 1}, 5000, "decided")
        assert codes.is_of_clocks(error)
        assert bank.heard == []
        clock.ms += 1
        assert (await client.submit(FUTURE, "a"))[0] == State.COMMITTED


@pytest.mark.parametrize("method", ["decide", "resolve"])
async def test_what_may_be_prepared_is_decided_however_wrong_the_clock_of_the_node(method: str) -> None:
    clock = Clock()
    async with serving_one(clock=clock) as served:
        client = await Caller.of(served)
        rest = (COMMIT, [], "", 5000) if method == "decide" else (5000,)
        assert codes.is_of_clocks(await client.refused(method, FAR, *rest))
        clock.ms += 1
        assert (await client.ask(method, FAR, *rest))[0] == (method == "decide")


@pytest.mark.parametrize("method", ["status", "resolve", "decide"])
async def test_a_node_whose_clock_is_behind_answers_what_is_decided(method: str) -> None:
    clock = Clock()
    async with serving_one(clock=clock) as served:
        client, txid = await Caller.of(served), new_txid()
        await client.decide(txid, Verdict.COMMIT, "a")
        clock.ms = 0
        rest = {"status": (), "resolve": (5000,), "decide": (COMMIT, ["a"], "", 5000)}[method]
        assert (await client.ask(method, txid, *rest))[0] == State.COMMITTED
