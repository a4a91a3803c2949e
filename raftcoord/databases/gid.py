"""The name that a prepared branch has in a database, and how it is read back.

    PostgreSQL, SQLite    rc1.<cluster>.<txid>.<branch>
    MariaDB, MySQL        gtrid rc1.<cluster>.<txid>, bqual <branch>

It is [a-z0-9.-] alone, so that it can stand quoted in SQL where a driver takes no parameter. Owed: what ``parse`` accepts is
written back as it was read; anything else is None, "not ours", and nobody touches it. Never: an exception for what somebody
else has prepared.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from raftcoord.errors import LocalProtocolError
from raftcoord.types import Branch, TxId, checked_branch, checked_cluster_id

PREFIX: Final = "rc1."
"""Of this format. A later one gets another number, so that an old resolver leaves alone what it cannot read."""

XA_FORMAT: Final = 1
"""The formatID that XA START gives when none is written."""

XA_PART_BYTES_MAX: Final = 64
"""Bytes of a gtrid, and of a bqual (MAXGTRIDSIZE and MAXBQUALSIZE of the XA specification)."""

POSTGRESQL_BYTES_MAX: Final = 199
"""Bytes of a gid: PREPARE TRANSACTION takes fewer than 200."""


class Gid(NamedTuple):
    """One branch of one transaction of one cluster. Make it with ``make`` or ``parse``, which check it."""

    cluster: str
    txid: TxId
    branch: Branch

    @property
    def gtrid(self) -> str:
        """XA's name of the transaction."""
        return f"{PREFIX}{self.cluster}.{self.txid}"

    @property
    def bqual(self) -> str:
        """XA's name of the branch."""
        return self.branch

    @property
    def xid(self) -> str:
        """As XA statements take it, quoted."""
        return f"'{self.gtrid}','{self.branch}'"

    def __str__(self) -> str:
        return f"{self.gtrid}.{self.branch}"


def make(cluster: object, txid: object, branch: object) -> Gid:
    """A Gid of checked parts. Raises LocalProtocolError."""
    return Gid(checked_cluster_id(cluster), TxId.parse(txid), checked_branch(branch))


def parse(text: object) -> Gid | None:
    """The Gid that ``text`` writes, or None: not ours."""
    if not isinstance(text, str) or not text.startswith(PREFIX):
        return None
    parts = text.removeprefix(PREFIX).split(".")
    if len(parts) != 3:
        return None
    try:
        read = make(*parts)
    except LocalProtocolError:
        return None
    return read if str(read) == text else None  # a txid in capitals is somebody else's


def parse_xa(format_id: object, gtrid_bytes: object, bqual_bytes: object, joined: object) -> Gid | None:
    """The Gid of one row of XA RECOVER (formatID, gtrid_length, bqual_length, data), or None: not ours."""
    if isinstance(joined, (bytes, bytearray)):
        joined = bytes(joined).decode("latin-1")
    if not isinstance(joined, str) or not isinstance(gtrid_bytes, int) or not isinstance(bqual_bytes, int):
        return None
    if format_id != XA_FORMAT or gtrid_bytes + bqual_bytes != len(joined) or not 0 < gtrid_bytes < len(joined):
        return None
    return parse(f"{joined[:gtrid_bytes]}.{joined[gtrid_bytes:]}")
