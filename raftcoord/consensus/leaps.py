"""How far ahead of this node a peer can be. One number that is believed beyond that could not be taken back."""

from __future__ import annotations

from raftcoord import limits
from raftcoord.errors import RemoteProtocolError


def check_term(term: int, ours: int) -> None:
    """RemoteProtocolError if a peer's term lies further ahead of ours than elections could have brought it."""
    if term > ours + limits.TERM_LEAP_MAX:
        raise RemoteProtocolError(
            f"a peer claims to be in term {term}, and this node is in term {ours}: no elections bring it so far ahead, so "
            "nothing of this was taken; look at that node's data directory, and replace the node if it is damaged"
        )


def check_copy(term: int, index: int, index_term: int, our_term: int, applied_index: int) -> None:
    """RemoteProtocolError if a copy of the ledger up to (index, index_term) cannot be that of a leader in ``term``."""
    check_term(term, our_term)
    if index_term > term or index > applied_index + limits.INDEX_LEAP_MAX:
        raise RemoteProtocolError(
            f"a peer in term {term} sent a copy of its ledger up to index {index} of term {index_term}, which no log reaches; "
            "nothing of it was taken: look at that node's data directory, and replace the node if it is damaged"
        )
