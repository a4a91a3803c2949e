"""What all connections of a port may take together, and for how long: places, bytes, time, and turns of the loop."""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import Any

import pytest

from raftcoord import limits
from raftcoord.rpc import codes, server
from raftcoord.rpc.codes import RpcError
from raftcoord.rpc.connection import Connection

from .ends import FRAME_BYTES_MAX, RawEnd, Recorder, dialed, framed, listening, until


class Polite(Recorder):
    """Whose clients may be closed while they are quiet."""

    def on_hello(self, conn: Connection, role: str, details: dict[str, Any]) -> dict[str, Any]:
        conn.expendable = role == "client"
        return super().on_hello(conn, role, details)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]


async def participant(port: int) -> RawEnd:
    raw = await RawEnd.open(port)
    await raw.send(framed((0, 1, "hello", [1, "participant", {}])))
    assert (await raw.message())[1] == 1
    return raw


async def served(port: int) -> None:
    """Somebody comes in, is answered, and leaves."""
    conn = await dialed(port)
    assert await conn.request("echo", [1]) == [1]
    conn.close("done")


# -- places -----------------------------------------------------------------------------------------------------------


def test_who_does_not_say_hello_gives_way() -> None:
    async def main() -> None:
        async with listening(Polite(), connections_max=20) as port:
            first = await participant(port.port)
            idle = [await RawEnd.open(port.port) for _ in range(60)]
            await until(lambda: len(port.connections) >= 20)
            await served(port.port)
            await first.send(framed((0, 2, "echo", ["still"])))
            assert await first.message() == [1, 2, None, ["still"]]
            for raw in (first, *idle):
                await raw.close()

    asyncio.run(main())


def test_the_quietest_client_gives_way_and_participants_and_who_waits_do_not() -> None:
    async def main() -> None:
        recorder = Polite()
        async with listening(recorder, connections_max=4) as port:
            bank = await participant(port.port)
            waiting = await dialed(port.port)
            answer = waiting.request("hold", [1])
            quiet = await dialed(port.port)
            busy = await dialed(port.port)
            await asyncio.sleep(0.01)
            await busy.request("echo", [1])
            newcomer = await dialed(port.port)
            assert await newcomer.request("echo", [2]) == [2]
            await until(lambda: quiet.closed)
            assert not busy.closed
            (conn, number) = recorder.held[0]
            conn.reply(number, "held")
            assert await answer == "held"
            await bank.send(framed((0, 2, "echo", [])))
            await bank.message()
            for each in (waiting, busy, newcomer):
                each.close("done")
            await bank.close()

    asyncio.run(main())


def test_one_past_the_bound_is_turned_away_when_nobody_can_be_spared() -> None:
    async def main() -> None:
        async with listening(Polite(), connections_max=2) as port:
            banks = [await participant(port.port) for _ in range(2)]
            extra = await RawEnd.open(port.port)
            assert await extra.rest() == b""
            for raw in (*banks, extra):
                await raw.close()

    asyncio.run(main())


# -- bytes ------------------------------------------------------------------------------------------------------------


def half_a_frame(length: int) -> bytes:
    return length.to_bytes(4, "big") + b"\x00" * (length - 1)


def test_half_frames_hold_so_much_in_all_and_the_slowest_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with listening(Recorder(), half_frames_bytes_max=1 << 20) as port:
            raws = []
            for _ in range(30):
                raw = await RawEnd.open(port.port)
                await raw.hello()
                await raw.send(half_a_frame(200_000))
                raws.append(raw)
            await until(lambda: len(port.connections) <= 5)
            assert sum(conn.intake.half_bytes for conn in port.connections) <= 1 << 20
            await served(port.port)
            assert await raws[0].rest() == b""
            for raw in raws:
                await raw.close()

    asyncio.run(main())
    assert len([line for line in lines(caplog) if "all incomplete frames together" in line]) == limits.FOREIGN_LINES_MAX


def test_before_the_hello_a_frame_is_small(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with listening(Recorder()) as port:
            for length, welcome in ((limits.HELLO_FRAME_BYTES_MAX, True), (limits.HELLO_FRAME_BYTES_MAX + 1, False)):
                hello = framed((0, 1, "hello", [1, "client", {"name": ""}]))
                padding = length - (len(hello) - 4) - 2  # a text of that length has a header of three bytes
                raw = await RawEnd.open(port.port)
                await raw.send(framed((0, 1, "hello", [1, "client", {"name": "x" * padding}])))
                if welcome:
                    assert (await raw.message())[2] is None
                    await raw.send(framed((0, 2, "echo", ["x" * length])))
                    assert (await raw.message())[3] == ["x" * length]
                else:
                    assert await raw.rest() == b""
                await raw.close()

    asyncio.run(main())
    assert "a frame of 16385 bytes: at most 16384 are allowed here" in lines(caplog)[-1]


def test_who_does_not_read_is_not_heard_and_goes_on_afterwards() -> None:
    async def main() -> None:
        recorder = Recorder()
        async with listening(recorder, write_buffer_pause_bytes=1 << 16) as port:
            raw = await RawEnd.open(port.port)
            await raw.hello()
            raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
            large = "x" * 100_000
            asked = asyncio.create_task(raw.send(*(framed((0, n, "echo", [large])) for n in range(2, 202))))
            await until(lambda: recorder.conns[0].paused)
            await served(port.port)
            assert len([event for event in recorder.events if event[0] == "request"]) < 200
            assert recorder.conns[0].unsent_bytes < 1 << 20
            raw.writer.transport.resume_reading()  # type: ignore[attr-defined]
            for number in range(2, 202):
                assert (await raw.message())[1] == number
            await asked
            await raw.close()

    asyncio.run(main())


def test_unread_answers_hold_so_much_in_all(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with listening(Recorder(), write_buffer_pause_bytes=1 << 16, unsent_bytes_max=1 << 20) as port:
            raws = []
            for _ in range(8):
                raw = await RawEnd.open(port.port)
                await raw.hello()
                raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
                for number in range(2, 22):
                    raw.writer.write(framed((0, number, "echo", ["x" * 1_000_000])))
                raws.append(raw)
            await until(lambda: any("all unread answers together" in line for line in lines(caplog)))
            await served(port.port)
            for raw in raws:
                raw.writer.transport.abort()  # type: ignore[attr-defined]

    asyncio.run(main())


# -- time -------------------------------------------------------------------------------------------------------------


def test_half_a_frame_and_a_silent_end_have_their_time_and_a_ping_is_enough(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "_SWEEP_S", 0.05)
    caplog.set_level(logging.INFO)

    async def main() -> None:
        async with listening(Recorder(), frame_ms_max=200, idle_ms_max=400) as port:
            quiet = await dialed(port.port, ping_ms=50)  # which pings
            half, silent = await RawEnd.open(port.port), await RawEnd.open(port.port)
            for raw in (half, silent):
                await raw.hello()
            await half.send(half_a_frame(100))
            assert await half.rest() == b""
            assert await silent.rest() == b""
            assert await quiet.request("echo", [1]) == [1]
            quiet.close("done")
            for raw in (half, silent):
                await raw.close()

    asyncio.run(main())
    assert any("a frame has been incomplete for 200 ms, after 103 bytes of it" in line for line in lines(caplog))
    assert any("silent for 400 ms" in line for line in lines(caplog))


# -- turns ------------------------------------------------------------------------------------------------------------


class Ordered(Recorder):
    """Writes down who asked, and what."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[tuple[str, int]] = []

    def on_request(self, conn: Connection, request_id: int, method: str, params: list[Any]) -> None:
        self.order.append((conn.context, params[0]))
        conn.reply(request_id, None)

    def on_hello(self, conn: Connection, role: str, details: dict[str, Any]) -> dict[str, Any]:
        conn.context = details["name"]
        return {}


def test_of_what_has_arrived_each_connection_has_its_turn() -> None:
    """Two whole streams wait when the loop comes to them: neither is served to its end first."""

    async def main() -> None:
        recorder = Ordered()
        port = await server.listen(
            "127.0.0.1",
            0,
            lambda: recorder,
            max_frame_bytes=FRAME_BYTES_MAX,
            label="port",
            bounds=limits.ConnectionBounds(pass_cost_max=10),
        )
        raws = []
        for name in ("a", "b"):
            raw = await RawEnd.open(port.port)
            await raw.send(framed((0, 1, "hello", [1, "client", {"name": name}])))
            await raw.message()
            raws.append(raw)
        for raw in raws:
            raw.writer.write(b"".join(framed((0, number, "do", [number])) for number in range(2, 502)))
        await until(lambda: len(recorder.order) == 1000)
        names = [name for name, _ in recorder.order]
        both = names[names.index("b") : len(names) - names[::-1].index("a")]
        assert len(both) > 500
        assert max(len(list(run)) for _, run in itertools.groupby(both)) <= 10
        for name in ("a", "b"):
            assert [number for who, number in recorder.order if who == name] == list(range(2, 502))
        for raw in raws:
            await raw.close()
        port.close()
        await port.wait_closed()

    asyncio.run(main())


def test_an_error_s_text_is_cut_where_it_comes_in() -> None:
    async def main() -> None:
        recorder = Recorder()
        async with listening(recorder) as port:
            conn = await dialed(port.port)
            for length in (limits.ERROR_LENGTH_MAX, limits.ERROR_LENGTH_MAX + 1):
                recorder.held.clear()
                asked = conn.request("hold", [])
                await until(lambda: recorder.held)
                (there, number) = recorder.held[0]
                there.reply_error(number, codes.INTERNAL, "x" * length)
                with pytest.raises(RpcError) as caught:
                    await asked
                assert len(caught.value.message) == limits.ERROR_LENGTH_MAX
            conn.close("done")

    asyncio.run(main())
