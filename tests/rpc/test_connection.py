"""A connection's promises, on real sockets."""

import asyncio
import logging
from typing import Any

import pytest

from raftcoord import limits
from raftcoord.errors import Halt, InDoubt, LocalProtocolError, RemoteProtocolError, Unavailable
from raftcoord.rpc import codes, frames
from raftcoord.rpc.codes import RpcError
from raftcoord.rpc.connection import Connection
from raftcoord.types import TxId

from .ends import RawEnd, Recorder, body, dialed, framed, listening, until


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_request_is_answered_and_a_notification_arrives() -> None:
    async def main() -> None:
        recorder = Recorder()
        async with listening(recorder) as port:
            conn = await dialed(port.port)
            conn.notify("told", ["x"])
            assert await conn.request("echo", [1, b"\x00", {"k": None}]) == [1, b"\x00", {"k": None}]
            assert ("notify", "told", ["x"]) in recorder.events
            assert conn.peername == f"127.0.0.1:{port.port}"
            conn.close("done")

    asyncio.run(main())


def test_calls_are_answered_once_and_out_of_order_answers_find_their_call() -> None:
    async def main() -> None:
        recorder = Recorder()
        async with listening(recorder) as port:
            conn = await dialed(port.port)
            got: list[tuple[str, Any]] = []
            for name in ("first", "second"):
                conn.call("hold", [name], lambda error, result, name=name: got.append((name, result)))
            await until(lambda: len(recorder.held) == 2)
            for (server_conn, request_id), answer in zip(reversed(recorder.held), (2, 1), strict=True):
                server_conn.reply(request_id, answer)
            await until(lambda: len(got) == 2)
            assert got == [("second", 2), ("first", 1)]
            assert conn.open_calls == recorder.held[0][0].open_requests == 0

    asyncio.run(main())


def test_what_is_written_in_one_pass_goes_out_in_one_write() -> None:
    async def main() -> None:
        recorder = Recorder()
        async with listening(recorder) as port:
            conn = await dialed(port.port)
            writes: list[bytes] = []
            transport = conn._transport
            assert transport is not None
            conn._transport = type("T", (), {"write": lambda self, data: writes.append(data), "close": transport.close,
                                             "get_write_buffer_size": lambda self: 0})()  # fmt: skip
            conn.notify("a", [])
            conn.notify("b", [])
            conn.notify("c", [])
            assert not writes
            await until(lambda: writes)
            assert writes == [framed((2, "a", [])) + framed((2, "b", [])) + framed((2, "c", []))]
            conn._transport = transport
            conn.close("done")

    asyncio.run(main())


def test_a_lost_connection_answers_every_open_call_and_later_ones_are_not_sent() -> None:
    async def main() -> None:
        recorder, mine = Recorder(), Recorder()
        async with listening(recorder) as port:
            conn = await dialed(port.port, mine)
            first, second = conn.request("hold", [1]), conn.request("hold", [2])
            await until(lambda: len(recorder.held) == 2)
            recorder.conns[0].close("the node stops")
            for future in (first, second):
                with pytest.raises(RpcError) as caught:
                    await future
                assert caught.value.code == codes.CONNECTION_LOST
            await until(mine.closings)
            answers: list[Any] = []
            assert conn.call("echo", [], lambda error, result: answers.append(error)) == 0
            assert not answers, "call() answered from inside"
            await until(lambda: answers)
            assert answers[0].code == codes.UNAVAILABLE
            conn.notify("told", [])
            conn.reply(1, None)
            assert len(mine.closings()) == 1

    asyncio.run(main())


def test_requests_at_the_bound_are_served_and_one_past_it_is_overloaded() -> None:
    async def main() -> None:
        recorder = Recorder()
        async with listening(recorder, requests_max=3) as port:
            raw = await RawEnd.open(port.port)
            await raw.hello()
            await raw.send(*(framed((0, number, "hold", [number])) for number in range(10, 14)))
            refusal = await raw.message()
            assert refusal[:2] == [1, 13]
            assert refusal[2][0] == codes.OVERLOADED
            assert [event[2] for event in recorder.events if event[0] == "request"] == [[10], [11], [12]]
            conn, request_id = recorder.held[0]
            conn.reply(request_id, "room")
            assert await raw.message() == [1, 10, None, "room"]
            await raw.send(framed((0, 14, "echo", [14])))
            assert await raw.message() == [1, 14, None, [14]]
            await raw.close()

    asyncio.run(main())


def test_calls_at_the_bound_are_sent_and_one_past_it_is_overloaded() -> None:
    async def main() -> None:
        recorder = Recorder()
        async with listening(recorder) as port:
            conn = await dialed(port.port, requests_max=2)
            held = [conn.request("hold", [number]) for number in range(2)]
            with pytest.raises(RpcError) as caught:
                await conn.request("hold", [2])
            assert caught.value.code == codes.OVERLOADED
            conn.close("done")
            await asyncio.gather(*held, return_exceptions=True)
            assert len(recorder.held) == 2

    asyncio.run(main())


def test_a_reader_that_does_not_read_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        recorder = Recorder()
        async with listening(recorder, write_buffer_pause_bytes=1 << 16, write_buffer_bytes_max=1 << 18) as port:
            raw = await RawEnd.open(port.port)
            raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await raw.send(framed((0, 1, "hello", [1, "client", {}])))
            await until(lambda: recorder.conns and recorder.conns[0].handler is recorder)
            conn = recorder.conns[0]
            was_paused = False
            while not conn.closed:
                conn.notify("flood", [b"x" * 100_000])
                await asyncio.sleep(0)
                was_paused = was_paused or conn.paused
            assert was_paused
            await until(recorder.closings)
            assert "does not read" in recorder.closings()[0]
            assert len(warnings(caplog)) == 1
            await raw.close()

    asyncio.run(main())


FAULTS: dict[str, tuple[bytes, str]] = {
    "not MessagePack": (body(b"\xc1"), "not MessagePack"),
    "too long": ((limits.CLIENT_FRAME_BYTES_MAX + 1).to_bytes(4, "big"), "a frame of 2097153 bytes"),
    "cut off": (framed((0, 2, "echo", ["x" * 50]))[:-5], "cut off inside a frame"),
    "cut off in its header": (b"\x00\x00", "cut off inside a frame"),
    "wrong shape": (body(b"\x90"), "neither a request, a response nor a notification"),
    "an answer nobody asked for": (framed((1, 99, None, 1)), "which is not open"),
    "a request id used twice": (framed((0, 7, "hold", [])) * 2, "a second request 7"),
}


@pytest.mark.parametrize(("sent", "says"), FAULTS.values(), ids=FAULTS.keys())
def test_a_malformed_frame_ends_its_connection_with_one_line_and_disturbs_no_other(
    sent: bytes, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        recorder = Recorder()
        async with listening(recorder) as port:
            other = await dialed(port.port)
            waiting = other.request("hold", [])
            raw = await RawEnd.open(port.port)
            await raw.hello()
            await raw.send(sent)
            raw.end_of_sending()
            assert await raw.rest() == b""
            await until(recorder.closings)
            (line,) = warnings(caplog)
            assert says in line
            assert "\n" not in line
            assert recorder.closings() == [reason for reason in recorder.closings() if says in reason]
            conn, request_id = recorder.held[0]
            conn.reply(request_id, "still here")
            assert await waiting == "still here"
            other.close("done")
            await raw.close()

    asyncio.run(main())


@pytest.mark.parametrize("message", [(0, 2, "frobnicate", []), (2, "frobnicate", [])], ids=["request", "notification"])
def test_an_unknown_method_ends_its_connection_with_one_line(message: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        recorder = Recorder()
        async with listening(recorder) as port:
            other = await dialed(port.port)
            raw = await RawEnd.open(port.port)
            await raw.hello()
            recorder.raises = codes.unknown_method("frobnicate")
            await raw.send(framed(message))
            assert await raw.rest() == b""
            recorder.raises = None
            (line,) = warnings(caplog)
            assert "unknown method 'frobnicate'" in line
            assert await other.request("echo", [1]) == [1]
            other.close("done")
            await raw.close()

    asyncio.run(main())


def test_an_error_that_the_handler_raises_is_the_answer() -> None:
    async def main() -> None:
        recorder = Recorder()
        async with listening(recorder) as port:
            conn = await dialed(port.port)
            txid = TxId.new()
            for raised, code in (
                (LocalProtocolError("no such branch"), codes.BAD_REQUEST),
                (Unavailable("no majority"), codes.UNAVAILABLE),
                (InDoubt(txid, "no answer"), codes.IN_DOUBT),
                (RpcError("not_prepared", "nothing here", {"branch": "b"}), "not_prepared"),
            ):
                recorder.raises = raised
                with pytest.raises(RpcError) as caught:
                    await conn.request("echo", [])
                assert caught.value.code == code
                again = codes.to_error(caught.value)
                assert str(again) == str(raised)
                assert type(again) is type(raised)
            assert caught.value.detail == {"branch": "b"}
            conn.close("done")

    asyncio.run(main())


def test_a_bug_in_the_handler_is_answered_as_internal_and_the_connection_goes_on() -> None:
    async def main() -> None:
        bugs: list[BaseException] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: bugs.append(context["exception"]))
        recorder = Recorder()
        async with listening(recorder) as port:
            conn = await dialed(port.port)
            recorder.raises = ZeroDivisionError("secret detail")
            with pytest.raises(RpcError) as caught:
                await conn.request("echo", [])
            assert caught.value.code == codes.INTERNAL
            assert "secret" not in str(caught.value)
            conn.notify("told", [])
            await until(lambda: len(bugs) == 2)
            recorder.raises = None
            assert await conn.request("echo", [1]) == [1]
            conn.close("done")

    asyncio.run(main())


def test_an_answer_that_cannot_be_sent_is_answered_as_internal() -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        recorder = Recorder()
        async with listening(recorder) as port:
            conn = await dialed(port.port)
            for unsendable in (object(), b"x" * limits.CLIENT_FRAME_BYTES_MAX):
                waiting = conn.request("hold", [])
                await until(lambda: recorder.held)
                server_conn, request_id = recorder.held.pop()
                server_conn.reply(request_id, unsendable)
                with pytest.raises(RpcError) as caught:
                    await waiting
                assert caught.value.code == codes.INTERNAL
            conn.close("done")

    asyncio.run(main())


def test_params_that_cannot_be_sent_raise_at_once_and_leave_nothing_open() -> None:
    async def main() -> None:
        async with listening(Recorder()) as port:
            conn = await dialed(port.port)
            with pytest.raises(LocalProtocolError):
                conn.call("echo", [object()], lambda error, result: None)
            assert conn.open_calls == 0
            assert await conn.request("echo", [1]) == [1]
            conn.close("done")

    asyncio.run(main())


def test_closing_sends_what_is_waiting() -> None:
    async def main() -> None:
        recorder = Recorder()
        async with listening(recorder) as port:
            raw = await RawEnd.open(port.port)
            await raw.hello()
            conn = recorder.conns[0]
            conn.notify("last", ["words"])
            conn.close("done")
            assert await raw.message() == [2, "last", ["words"]]
            assert await raw.rest() == b""
            await raw.close()

    asyncio.run(main())


def test_ids_go_round_and_skip_what_is_open() -> None:
    async def main() -> None:
        recorder = Recorder()
        async with listening(recorder) as port:
            conn = await dialed(port.port)
            conn._last_id = frames.ID_MAX - 1
            ids = [conn.call("hold", [], lambda error, result: None) for _ in range(2)]
            assert ids == [frames.ID_MAX, 1]
            conn._last_id = frames.ID_MAX
            assert conn.call("hold", [], lambda error, result: None) == 2
            conn.close("done")

    asyncio.run(main())


def test_an_error_of_an_unknown_code_stays_what_it_was() -> None:
    error = RpcError("from_the_future", "x")
    assert codes.to_error(error) is error
    assert codes.to_rpc(RuntimeErrorOfOurs("x")).code == codes.INTERNAL
    assert isinstance(codes.to_error(RpcError(codes.IN_DOUBT, "x", {"txid": 5})), RemoteProtocolError)


class RuntimeErrorOfOurs(codes.RaftcoordError):
    pass


def test_a_connection_shows_where_it_leads() -> None:
    async def main() -> None:
        conn = Connection(Recorder(), limits.ConnectionBounds(), max_frame_bytes=10, label="client port")
        assert repr(conn) == "<Connection client port ?>"

    asyncio.run(main())


def test_answering_twice_is_a_bug_that_is_told_and_sends_nothing() -> None:
    async def main() -> None:
        recorder = Recorder()
        async with listening(recorder) as port:
            conn = await dialed(port.port)
            waiting = conn.request("hold", [])
            await until(lambda: recorder.held)
            server_conn, request_id = recorder.held[0]
            server_conn.reply(request_id, "once")
            with pytest.raises(Halt, match="answered twice"):
                server_conn.reply(request_id, "twice")
            assert await waiting == "once"
            assert await conn.request("echo", [1]) == [1]
            conn.close("done")

    asyncio.run(main())


def test_uvloop_serves_as_well() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        recorder, mine = Recorder(), Recorder()
        async with listening(recorder) as port:
            conn = await dialed(port.port, mine)
            waiting = [conn.request("echo", [number]) for number in range(500)]
            assert await asyncio.gather(*waiting) == [[number] for number in range(500)]
            raw = await RawEnd.open(port.port)
            await raw.send(b"GET / HTTP/1.1\r\n\r\n")
            assert await raw.rest() == b""
            recorder.conns[0].close("the node stops")
            await until(mine.closings)
            await raw.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
