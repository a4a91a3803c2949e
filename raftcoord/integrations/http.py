"""What a web application answers when a transaction was not committed: one table, for every framework.

The hazard: a program that repeats a request whose transaction was committed orders twice. Programs and proxies repeat what failed
with 5xx. Hence 5xx is for what is known not to have happened, and for nothing else.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from raftcoord.errors import Aborted, InDoubt, Overloaded, Unavailable

RETRY_AFTER_S: Final = 1


class Answered(NamedTuple):
    """A row of the table: how an error is answered, and why so."""

    error: type[Exception]
    status: int
    header: str
    why: str


STATUSES: Final = (
    Answered(Aborted, 503, "Retry-After", "nothing has happened: to repeat it does no harm"),
    Answered(Unavailable, 503, "Retry-After", "nothing was attempted: to repeat it does no harm"),
    Answered(Overloaded, 503, "Retry-After", "nothing was attempted: to repeat it later does no harm"),
    Answered(
        InDoubt,
        202,
        "Location",
        "it may be committed: a client that repeats it may order twice; one that asks learns the outcome",
    ),
)

NOT_COMMITTED: Final = tuple(row.error for row in STATUSES)
"""For ``except`` and for a framework's error handlers. Any other error is treated as it would be without raftcoord."""


def answer(error: Exception, ask: str = "") -> tuple[dict[str, str], int, dict[str, str]]:
    """The body (JSON), the status and the headers for ``error``, which is one of NOT_COMMITTED.

    ``ask``: the path of your application under which the outcome of a transaction is found, such as ``/transactions/``. The
    txid is appended. Without it nobody is sent anywhere; the body carries the txid all the same.
    """
    row = next(row for row in STATUSES if isinstance(error, row.error))
    body = {"error": str(error)}
    if isinstance(error, InDoubt):
        return {**body, "txid": str(error.txid)}, row.status, {row.header: f"{ask}{error.txid}"} if ask else {}
    return body, row.status, {row.header: str(RETRY_AFTER_S)}
