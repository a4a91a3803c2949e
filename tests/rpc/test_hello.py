"""Nothing before the hello, at either end; a wrong version is told so in words."""

import asyncio
import logging
import random
import re
import socket
from typing import Any

import pytest

from raftcoord.errors import ConfigError, LocalProtocolError, RaftcoordError, RemoteProtocolError, Unavailable
from raftcoord.rpc import codes, dial, server
from raftcoord.rpc.connection import Connection
from raftcoord.rpc.dial import Dialer

from .ends import FRAME_BYTES_MAX, RawEnd, Recorder, body, dialed, framed, listening, until


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_the_handler_gets_the_role_and_the_details_and_its_answer_goes_back() -> None:
    async def main() -> None:
        recorder = Recorder()
        async with listening(recorder) as port:
            raw = await RawEnd.open(port.port)
            await raw.send(framed((0, 9, "hello", [1, "participant", {"name": "bank-a"}])))
            assert await raw.message() == [1, 9, None, [1, {"node": "n1"}]]
            assert recorder.events == [("open",), ("hello", "participant", {"name": "bank-a"})]
            await raw.close()

    asyncio.run(main())


EARLY: dict[str, tuple[bytes, str]] = {
    "a request": (framed((0, 1, "echo", [])), "the request 'echo' before the hello"),
    "a notification": (framed((2, "told", [])), "the notification 'told' before the hello"),
    "an answer": (framed((1, 1, None, None)), "not open"),
    "garbage": (body(b"\xc1"), "not MessagePack"),
    "HTTP": (b"GET / HTTP/1.1\r\n\r\n", "a frame of 1195725856 bytes"),
    "a hello without a version": (framed((0, 1, "hello", [])), "a malformed hello"),
    "a hello of another shape": (framed((0, 1, "hello", [1, "client"])), "a malformed hello"),
    "a second hello as a notification": (framed((2, "hello", [1, "client", {}])), "before the hello"),
}


@pytest.mark.parametrize(("sent", "says"), EARLY.values(), ids=EARLY.keys())
def test_anything_before_the_hello_ends_the_connection_with_one_line(
    sent: bytes, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        recorder = Recorder()
        async with listening(recorder) as port:
            other = await dialed(port.port)
            recorder.events.clear()
            raw = await RawEnd.open(port.port)
            await raw.send(sent)
            assert await raw.rest() == b""
            (line,) = warnings(caplog)
            assert says in line
            assert [event[0] for event in recorder.events] == ["open", "closed"]
            assert await other.request("echo", [1]) == [1]
            other.close("done")
            await raw.close()

    asyncio.run(main())


def test_another_version_is_told_so_and_closed(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        recorder = Recorder()
        async with listening(recorder) as port:
            raw = await RawEnd.open(port.port)
            await raw.send(framed((0, 1, "hello", [7, "client", {}, "a field of version 7"])))
            code, message, detail = (await raw.message())[2]
            assert code == codes.WRONG_VERSION
            assert "this node speaks version 1 of the protocol, the other end speaks 7" in message
            assert "same raftcoord release on both" in message
            assert detail == {}
            assert await raw.rest() == b""
            assert len(warnings(caplog)) == 1
            await raw.close()

    asyncio.run(main())


def test_a_refused_hello_is_the_dialers_error() -> None:
    async def main() -> None:
        recorder = Recorder()
        async with listening(recorder) as port:
            for refusal in (Unavailable("the cluster is not founded"), LocalProtocolError("role 'x' is unknown")):
                recorder.refuses = refusal
                with pytest.raises(type(refusal), match=str(refusal)):
                    await dialed(port.port)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("refusal", "loud"),
    [(Unavailable("the cluster is not founded yet"), False), (ConfigError("another cluster"), True)],
)
def test_who_may_come_again_in_a_moment_is_no_warning(
    refusal: RaftcoordError, loud: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        recorder = Recorder()
        recorder.refuses = refusal
        async with listening(recorder) as port:
            with pytest.raises(type(refusal)):
                await dialed(port.port)

    with caplog.at_level(logging.INFO):
        asyncio.run(main())
    assert any(str(refusal) in record.getMessage() for record in caplog.records)
    assert bool(warnings(caplog)) is loud


def test_what_on_hello_sends_follows_the_answer() -> None:
    async def main() -> None:
        recorder, mine = Recorder(), Recorder()
        recorder.in_hello = lambda conn: conn.notify("welcome", [])
        async with listening(recorder) as port:
            conn = await dialed(port.port, mine)
            await until(lambda: ("notify", "welcome", []) in mine.events)
            conn.close("done")

    asyncio.run(main())


def test_who_says_nothing_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with listening(Recorder(), hello_ms_max=20) as port:
            raw = await RawEnd.open(port.port)
            assert await raw.rest() == b""
            (line,) = warnings(caplog)
            assert "no hello for 20 ms" in line
            await raw.close()

    asyncio.run(main())


async def answering(*frames_sent: bytes) -> tuple[asyncio.Server, int]:
    """A server that answers the first bytes of every connection with these."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"".join(frames_sent))
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    return listener, listener.sockets[0].getsockname()[1]


ANSWERS: dict[str, tuple[bytes, type[Exception], str]] = {
    "another version": (framed((1, 1, None, [7, {}])), RemoteProtocolError, "the other end speaks 7"),
    "no details": (framed((1, 1, None, [1])), RemoteProtocolError, "a malformed answer to the hello"),
    "not a list": (framed((1, 1, None, None)), RemoteProtocolError, "a malformed answer to the hello"),
    "wrong_version": (framed((1, 1, ["wrong_version", "use another", {}], None)), RemoteProtocolError, "use another"),
    "wrong_cluster": (framed((1, 1, ["wrong_cluster", "of demo", {}], None)), ConfigError, "of demo"),
    "garbage": (body(b"\xc1"), Unavailable, "not MessagePack"),
    "a request first": (framed((0, 1, "prepare", [])), Unavailable, "before the answer to the hello"),
    "a notification first": (framed((2, "told", [])), Unavailable, "before the answer to the hello"),
    "nothing": (b"", Unavailable, "hung up.*is that a raftcoord node, and the right one of its two ports"),
}


@pytest.mark.parametrize(("answer", "kind", "says"), ANSWERS.values(), ids=ANSWERS.keys())
def test_a_dialer_takes_only_a_proper_answer_to_its_hello(answer: bytes, kind: type[Exception], says: str) -> None:
    async def main() -> None:
        listener, port = await answering(answer)
        mine = Recorder()
        with pytest.raises(kind, match=says):
            await dialed(port, mine)
        await until(mine.closings)
        assert [event[0] for event in mine.events] == ["open", "closed"]
        listener.close()

    asyncio.run(main())


def test_nobody_there_is_unavailable() -> None:
    async def main() -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
            says = f"cannot reach 127.0.0.1:{port}: Connection refused; is that node running?"
            with pytest.raises(Unavailable, match=re.escape(says)):
                await dialed(port)

    asyncio.run(main())


def test_a_port_in_use_is_a_config_error_with_the_next_step() -> None:
    async def main() -> None:
        async with listening(Recorder()) as port:
            with pytest.raises(ConfigError, match=f"port 127.0.0.1:{port.port} is in use.*ss -ltnp.*cluster.yaml"):
                await server.listen("127.0.0.1", port.port, Recorder, max_frame_bytes=10, label="second")
        with pytest.raises(ConfigError, match="not an address of this machine"):
            await server.listen("192.0.2.1", 0, Recorder, max_frame_bytes=10, label="elsewhere")

    asyncio.run(main())


def test_connections_at_the_bound_are_served_and_one_past_it_is_turned_away(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        recorder = Recorder()
        async with listening(recorder, connections_max=2) as port:
            first, second = await dialed(port.port), await dialed(port.port)
            raw = await RawEnd.open(port.port)
            assert await raw.rest() == b""
            assert len(warnings(caplog)) == 1
            assert len(recorder.conns) == 2
            first.close("done")
            await until(lambda: len(port.connections) == 1)
            third = await dialed(port.port)
            assert await third.request("echo", [3]) == [3]
            second.close("done")
            third.close("done")
            await raw.close()

    asyncio.run(main())


def test_a_closed_server_leaves_no_connection() -> None:
    async def main() -> None:
        recorder = Recorder()
        async with listening(recorder) as port:
            conn = await dialed(port.port)
            waiting = conn.request("hold", [])
            await until(lambda: recorder.held)
            port.close()
            await port.wait_closed()
            assert not port.connections
            with pytest.raises(codes.RpcError):
                await waiting

    asyncio.run(main())


class Ups:
    """What a dialer reports."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def up(self, conn: Connection, hello: dict[str, Any]) -> None:
        self.events.append(f"up {hello['node']}")

    def down(self, reason: str) -> None:
        self.events.append("down")

    def dialer(self, port: int) -> Dialer:
        return Dialer(
            "127.0.0.1",
            port,
            Recorder(),
            role="client",
            details=lambda: {"name": "t"},
            rng=random.Random(1),
            on_up=self.up,
            on_down=self.down,
            max_frame_bytes=FRAME_BYTES_MAX,
            label="test link",
        )


def test_a_dialer_comes_up_and_comes_back_and_stops() -> None:
    async def main() -> None:
        recorder, ups = Recorder(), Ups()
        before = asyncio.all_tasks()
        async with listening(recorder) as port:
            dialer = ups.dialer(port.port)
            dialer.start()
            await until(lambda: dialer.conn)
            recorder.conns[0].close("the node hangs up")
            await until(lambda: ups.events == ["up n1", "down", "up n1"])
            assert dialer.last_error == ""
            assert await dialer.conn.request("echo", [1]) == [1]  # type: ignore[union-attr]
            await dialer.stop()
            await until(lambda: not port.connections)
        assert ups.events == ["up n1", "down", "up n1"]
        assert asyncio.all_tasks() == before

    asyncio.run(main())


def test_a_dialer_tries_until_the_node_is_there_and_says_why_not_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        recorder, ups = Recorder(), Ups()
        recorder.refuses = Unavailable("the cluster is not founded")
        async with listening(recorder) as port:
            dialer = ups.dialer(port.port)
            dialer.start()
            await until(lambda: len(recorder.closings()) >= 2)
            assert dialer.last_error == "the cluster is not founded"
            recorder.refuses = None
            await until(lambda: dialer.conn)
            await dialer.stop()
        told = [record for record in caplog.records if record.getMessage() == "test link: the cluster is not founded"]
        assert len(told) == 1
        assert ups.events == ["up n1"]

    caplog.set_level(logging.INFO, "raftcoord.rpc")
    asyncio.run(main())


def test_a_dialer_that_is_stopped_while_it_dials_leaves_nothing() -> None:
    async def main() -> None:
        before = asyncio.all_tasks()
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            dialer = Ups().dialer(silent.getsockname()[1])
            dialer.start()
            await asyncio.sleep(0.01)
            await dialer.stop()
        assert asyncio.all_tasks() == before

    asyncio.run(main())


def test_a_dialer_survives_a_bug_and_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """One that ended in silence would cut its node off for ever."""
    real, calls = dial.connect, []

    async def buggy_at_first(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) <= 2:
            raise ZeroDivisionError("a bug")
        return await real(*args, **kwargs)

    async def main() -> None:
        ups = Ups()
        async with listening(Recorder()) as port:
            dialer = ups.dialer(port.port)
            dialer.start()
            await until(lambda: dialer.conn)
            await dialer.stop()

    monkeypatch.setattr(dial, "connect", buggy_at_first)
    asyncio.run(main())
    said = [record for record in caplog.records if "by a bug in raftcoord" in record.getMessage()]
    assert len(said) == 1, "once per reason"
