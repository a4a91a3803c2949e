"""One request, brought to an answer by whichever node gives one: the rules of trying again.

Theory of operation. What a request has done is known from how it failed:

    unavailable, or never sent    untouched: try another node; if it says what must be done first, not for long
    overloaded                    untouched: try again after a growing pause, a few times
    in the future                 untouched: the clock of that node says so, and may be the wrong one; a majority's is not
    silent, connection lost,
    in doubt, internal            unknown: it may have been carried out
    bad request, txid used        refused: the caller gets the error

After an unknown fate a repeatable request (status, resolve, decide: asking twice gives the same answer) goes on at another
node; a submit must not, and ends as FateUnknown. Once the fate of one try is unknown, no later "untouched" makes the whole
definite again: a request that may have been carried out ends in an answer or as InDoubt, never as Unavailable.

Time. What is untouched is tried until ``deadline``. What may have been carried out is asked about for ``grace`` seconds more.

Owed: an answer, or the error that says truly what is known. Never: a submit that is sent twice.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence
from typing import Any, Final, Generic

from raftcoord import limits
from raftcoord.api.answers import UnreadableAnswer
from raftcoord.api.fields import milliseconds
from raftcoord.api.operations import DECIDE, A, Operation, R
from raftcoord.client.deadlines import SILENT
from raftcoord.client.link import Link
from raftcoord.errors import InDoubt, Overloaded, RaftcoordError, Unavailable
from raftcoord.rpc import codes
from raftcoord.rpc.codes import RpcError
from raftcoord.types import State, TxId

PAUSE_S_MIN: Final = 0.02
PAUSE_S_MAX: Final = 0.25
SHARE_S_MIN: Final = 0.5
"""The least time that a node gets for one try, if the caller's timeout allows it."""

FIRST_S: Final = 2.5
"""How long a request is repeated of which a node says what must be done first: a node that was just started needs a second."""

PATIENCE_S: Final = limits.CLIENT_PATIENCE_MS / 1000


class Call(Generic[A]):
    """A request of an operation, encoded. ``txid``: what is in doubt if its fate is unknown; None for a mere question."""

    __slots__ = ("_params", "_timeout_at", "method", "operation", "txid")

    def __init__(self, operation: Operation[R, A], request: R) -> None:
        self.operation: Operation[Any, A] = operation
        self.method = operation.method
        self.txid: TxId | None = request.txid if operation.settles else None  # type: ignore[attr-defined]  # all have it
        self._params = operation.encode(request)
        self._timeout_at = operation.timeout_at

    def params(self, duration_s: float) -> tuple[Any, ...]:
        """What is sent, giving the node ``duration_s``."""
        at, params = self._timeout_at, self._params
        if at < 0:
            return params
        return (*params[:at], milliseconds(duration_s), *params[at + 1 :])

    def read(self, result: Any) -> A:
        """The answer. What cannot be read of what may have decided its txid leaves it in doubt."""
        try:
            return self.operation.answer.read(result)
        except UnreadableAnswer as error:
            if self.txid is None:
                raise
            raise InDoubt(self.txid, str(error)) from None


def even_share(remaining: float, left: int) -> float:
    """Seconds of ``remaining`` for one try, when ``left`` nodes are still to try."""
    return max(0.0, min(remaining, max(SHARE_S_MIN, remaining / left)))


def share_of(call: Call[Any], remaining: float, left: int) -> float:
    """Seconds that a node gets for ``call``. A submit gets all there are: it has no second try."""
    return even_share(remaining, left) if call.operation.repeatable else max(0.0, remaining)


def said(failure: RpcError) -> str:
    """Why, for a message of our own: what to do about it depends on what comes of the other tries."""
    why = failure.detail.get("why")
    return why if failure.code == codes.IN_DOUBT and isinstance(why, str) and why else failure.message


class FateUnknown(RaftcoordError):
    """The fate of a request that must not be repeated is unknown. ``link``: where it was sent."""

    def __init__(self, link: Link, why: str) -> None:
        super().__init__(why)
        self.link = link


class Tries:
    """The tries of one call. ``links``: in the order in which they are tried, round after round until ``deadline``."""

    def __init__(
        self, call: Call[Any], links: Sequence[Link], deadline: float, rng: random.Random, grace: float = 0.0
    ) -> None:
        self._call = call
        self._links = links
        self._untouched_until = deadline
        self._grace = grace
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._why: dict[str, str] = {}
        self._overloaded: set[str] = set()
        self._future: set[str] = set()
        self.fate_unknown = False
        """Whether one of the tries may have been carried out."""
        self._overloads = 0
        self._pause_s = PAUSE_S_MIN
        self._tired = False

    @property
    def _deadline(self) -> float:
        return self._untouched_until + (self._grace if self.fate_unknown else 0.0)

    def touched(self, link: Link, why: str) -> None:
        """The transaction was touched at ``link`` before these tries: it cannot end as Unavailable."""
        self.fate_unknown = True
        self._why[str(link)] = why

    async def run(self) -> tuple[Link, Any]:
        """The link that answered, and the result. Raises what is known otherwise, or FateUnknown."""
        for tried in itertools.count():
            position = tried % len(self._links)
            if self._tired or (tried and position == 0):
                await self._rest()
            link = self._links[position]
            if link.closed or self._loop.time() >= self._deadline:
                break
            reply = await self._try(link, len(self._links) - position)
            if type(reply) is not RpcError:
                return link, reply
            self.judge(link, reply)
        raise self._failure()

    def judge(self, link: Link, failure: RpcError) -> None:
        """What a failed try shows. Returns if another try is allowed; raises what is known, or FateUnknown, if not."""
        name = str(link)
        self._why[name] = said(failure)
        (self._overloaded.add if failure.code == codes.OVERLOADED else self._overloaded.discard)(name)
        match failure.code:
            case codes.UNAVAILABLE:
                waited = self._loop.time() - self._began
                if codes.says_what_first(failure) and waited >= FIRST_S and not self.fate_unknown:
                    raise codes.to_error(failure)
            case codes.OVERLOADED:
                self._overloads += 1
                self._tired = True
                if self._overloads > limits.CLIENT_OVERLOAD_RETRIES_MAX and not self.fate_unknown:
                    raise codes.to_error(failure)
            case codes.BAD_REQUEST if codes.is_of_clocks(failure):
                self._future.add(name)
                if len(self._future) * 2 > len(self._links):
                    raise self._failure() if self.fate_unknown else codes.to_error(failure)
            case codes.BAD_REQUEST if self.fate_unknown:
                raise self._failure()
            case codes.BAD_REQUEST | codes.TXID_USED | codes.WRONG_CLUSTER:
                raise codes.to_error(failure)
            case _:  # a code that only a newer release knows is no promise either
                self._unknown(link, failure)

    def check_known(self, result: Any) -> None:
        """FORGOTTEN proves nothing of a proposal that may have been carried out before: InDoubt."""
        if self._call.operation is DECIDE and type(result) is list and result[:1] == [State.FORGOTTEN]:
            assert self._call.txid is not None
            raise InDoubt(self._call.txid, "it may have been decided, and is older than what the cluster remembers")

    async def _try(self, link: Link, left: int) -> Any:
        """One try, with its share of the time for each of the ``left`` links of this round."""
        now = self._loop.time()
        opened_by = now + even_share(self._deadline - now, left)
        try:
            conn = await link.open(opened_by, any_cluster=self._call.operation.any_cluster)
        except Unavailable as error:
            return RpcError(codes.UNAVAILABLE, str(error))
        now = self._loop.time()
        share = share_of(self._call, self._deadline - now, left)
        if share == 0.0:
            return RpcError(codes.UNAVAILABLE, "the connection came too late")
        return await link.ask(conn, self._call.method, self._call.params(share), now + share + PATIENCE_S)

    def _unknown(self, link: Link, failure: RpcError) -> None:
        if failure is SILENT:
            link.suspect(self._loop.time(), failure.message)
        if not self._call.operation.repeatable:
            raise FateUnknown(link, said(failure))
        if self._call.txid is not None:
            self.fate_unknown = True

    async def _rest(self) -> None:
        """A pause that grows, jittered, so that many clients do not come back at once."""
        self._tired = False
        pause = self._pause_s * (0.5 + self._rng.random() / 2)
        self._pause_s = min(self._pause_s * 2, PAUSE_S_MAX)
        await asyncio.sleep(max(0.0, min(pause, self._deadline - self._loop.time())))

    def _failure(self) -> RaftcoordError:
        each = "; ".join(f"{link}: {why}" for link, why in self._why.items()) or "the client is closed"
        if self.fate_unknown and self._call.txid is not None:
            return InDoubt(self._call.txid, f"no node could tell it in time ({each})")
        if self._overloaded:
            return Overloaded(f"the nodes are overloaded, and nothing was changed ({each}); try again more slowly")
        return Unavailable(
            f"no node could do it in time, and nothing was changed ({each}); "
            "try again when a majority of the nodes runs, or with more time"
        )
