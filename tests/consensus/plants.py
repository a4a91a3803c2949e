"""Each correction of DESIGN section 3, taken out again: what PySyncObj 0.3.17 does stands in its place.

A plant is a context in which the product lacks exactly one correction. test_hazards.py runs each claim with the product as it
is, and then inside of the plant, where it must fail.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from unittest import mock

from raftcoord.consensus import entries, group
from raftcoord.consensus.copies import Installing
from raftcoord.consensus.identity import Identities
from raftcoord.consensus.proposals import Proposals
from raftcoord.consensus.pysyncobj import library, raft, wire
from raftcoord.consensus.pysyncobj.guard import Guarded
from raftcoord.consensus.pysyncobj.raft import Raft
from raftcoord.core import commands
from raftcoord.core.machine import Ledger
from raftcoord.core.tables.decisions import Complete, Decisions
from raftcoord.core.tables.table import Command, CommandKind
from raftcoord.errors import ConfigError, Unavailable
from raftcoord.rpc import dial
from raftcoord.storage import examine
from raftcoord.storage.node_db import LogRow, NodeDb, Write

Plant = Callable[[], AbstractContextManager[Any]]
SyncObj = library.SyncObj


def replacing(*replaced: tuple[Any, str, Any]) -> Plant:
    """(object, attribute, what stands there instead) ..."""

    @contextmanager
    def planted() -> Iterator[None]:
        with ExitStack() as stack:
            for where, name, instead in replaced:
                assert hasattr(where, name), f"{name} is gone from {where}: this plant removes nothing"
                stack.enter_context(mock.patch.object(where, name, instead))
            yield

    return planted


def handling(kind: str, instead: Any) -> Plant:
    """Guarded handles messages of this kind so."""
    assert kind in Guarded._HANDLERS
    return lambda: mock.patch.dict(Guarded._HANDLERS, {kind: instead})


def both(*plants: Plant) -> Plant:
    """Parts of one correction, all taken out."""

    @contextmanager
    def planted() -> Iterator[None]:
        with ExitStack() as stack:
            for plant in plants:
                stack.enter_context(plant())
            yield

    return planted


def pysyncobj_receives(self: Any, node: Any, message: Any) -> None:
    """The message goes to PySyncObj as it is."""
    self._SyncObj__onMessageReceived(node, message)


# -- H1: AppendEntries deletes everything after prevLogIdx ------------------------------------------------------------


def _clamped_only(self: Any, message: Any) -> Any:
    verified = message["prevLogIdx"] + len(message["entries"])
    return {**message, "commit_index": min(message["commit_index"], verified)}


h1_every_append_truncates = replacing(
    (Guarded, "_verified", _clamped_only),
    (Guarded, "_SyncObj__deleteEntriesFrom", SyncObj._SyncObj__deleteEntriesFrom),
)


# -- H2, H3: acknowledgements -----------------------------------------------------------------------------------------


def _acknowledged_backwards(self: Any, node: Any, message: Any) -> None:
    if message["term"] > self.term:
        self._newer_term(message["term"])
    if message["term"] == self.term and self.is_leader:
        pysyncobj_receives(self, node, message)
        self._send_now = True


h2_an_acknowledgement_moves_next_index_back = handling("next_node_idx", _acknowledged_backwards)


def _acknowledged_of_any_term(self: Any, node: Any, message: Any) -> None:
    if self.is_leader:
        pysyncobj_receives(self, node, message)


h3_acknowledgements_of_any_term_count = handling("next_node_idx", _acknowledged_of_any_term)


# -- H4: the commit index covers what nobody has verified -------------------------------------------------------------

_verified = Guarded._verified


def _verified_unclamped(self: Any, message: Any) -> Any:
    return {**_verified(self, message), "commit_index": message["commit_index"]}


h4_commit_up_to_the_last_index = replacing((Guarded, "_verified", _verified_unclamped))


# -- H5: a snapshot that cannot be loaded is ignored, and the state is empty ------------------------------------------


def _installed_empty(self: Any, stored: Any, error: Any, reply: Callable[[Any], None]) -> None:
    info, _, _ = self._whole
    if error is None:
        _installed(self, stored, error, reply)
        return
    self._end()
    self._group().installed(Ledger(), info.index, info.term)
    reply(True)


_installed = Installing._installed
h5_an_unreadable_copy_is_ignored = replacing((Installing, "_installed", _installed_empty))


# -- H6: no sync ------------------------------------------------------------------------------------------------------

h6_flush_before_sync = replacing((Raft, "_sorted", lambda self, messages: (messages, [])))


# -- H7: the journal --------------------------------------------------------------------------------------------------

_store = NodeDb._store


def _empty_and_add_again(self: Any, w: Write) -> None:
    """PySyncObj's compaction: clear the journal, then add what is to stay."""
    if w.drop_log_before is None:
        _store(self, w)
        return
    keep = self._writer.execute("SELECT idx, term, data FROM log WHERE idx >= ?", (w.drop_log_before,)).fetchall()
    self._writer.execute("DELETE FROM log")
    self._writer.execute("COMMIT")
    self._writer.execute("BEGIN IMMEDIATE")
    self._append([LogRow(*row) for row in keep])
    _store(self, w._replace(drop_log_before=None))


h7_compaction_empties_and_adds_again = replacing((NodeDb, "_store", _empty_and_add_again))


class _AnyChecksum(int):
    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


def _no_checksum(*_: Any) -> int:
    return _AnyChecksum()


h7_no_checksum = replacing((examine, "log_crc", _no_checksum))


# -- H8: pickle -------------------------------------------------------------------------------------------------------

h8_pickle_in_the_engine = replacing((library._module, "pickle", pickle))
h8_whatever_comes_over_the_wire = replacing(
    (wire, "_checked", lambda name, field, value: value), (wire, "_check_sequence", lambda message: None)
)


# -- H9: commands that raise ------------------------------------------------------------------------------------------


def _complete_or_raise(self: Any, command: Complete, term: int, index: int) -> Any:
    for txid, _ in command.acks:
        self._open[txid]
    return _complete(self, command, term, index)


_complete = Decisions._complete


def h9_a_bad_command_raises() -> AbstractContextManager[Any]:
    """What a replicated method of one's own does on bad input."""
    return mock.patch.dict(Decisions.commands, {2: CommandKind(Complete, _complete_or_raise)})


def _known_commands(self: commands.Sealed) -> tuple[Command, ...]:
    return tuple(commands._decode_command(row) for row in self.rows if row[0] in commands.KINDS)


h9_an_unknown_command_is_skipped = replacing((commands.Sealed, "commands", _known_commands))
h9_whatever_a_peer_proposes = replacing((group, "acceptable", lambda *_: ()))
h9_whatever_a_leader_sends = replacing((entries, "opened", lambda *_: None))


# -- H10, H11, H12: elections -----------------------------------------------------------------------------------------


def _every_vote_counts(self: Any, node: Any, message: Any) -> None:
    if message["term"] == self.term:
        pysyncobj_receives(self, node, message)


h10_every_vote_counts = handling("response_vote", _every_vote_counts)


def _quorum_of_30_s(self: Any, now: float) -> None:
    heard = self._SyncObj__lastResponseTime.values()
    if 1 + sum(at > now - library.SyncObjConf().leaderFallbackTimeout for at in heard) < self.majority:
        self._follow(None)


h11_leader_for_30_s = replacing((Raft, "_check_quorum", _quorum_of_30_s))
h11_reconnecting_waits_5_s = replacing((dial, "BACKOFF_S_MAX", library.SyncObjConf().connectionRetryTime))

h12_no_pre_vote = both(replacing((Guarded, "_elect", Raft._elect)), handling("request_vote", pysyncobj_receives))
h12_a_vote_for_all_who_ask = replacing((Guarded, "_hears_leader", lambda self: False))


# -- H13, H14, H15 ----------------------------------------------------------------------------------------------------


h13_the_commit_index_waits_for_the_heartbeat = replacing((Raft, "_tell_askers", lambda self: None))

h14_a_proposal_may_wait_for_ever = replacing((Proposals, "expire", lambda self, now: None))

h15_admin_commands_are_wired = replacing(
    (raft._Outbox, "setOnUtilityMessageCallback", library.Transport.setOnUtilityMessageCallback)
)
h15_admin_messages_pass = replacing((wire, "decode", lambda row: {"type": row[0], "term": 0}))


# -- H16: a wiped node votes again ------------------------------------------------------------------------------------


def _believing(self: Any, said: Any) -> None:
    """What is new is noted, as a cluster needs it to be founded; nobody is refused."""
    with contextlib.suppress(ConfigError, Unavailable):
        _judge(self, said)


h16_a_name_alone_is_believed = replacing(
    (Identities, "judge", _believing),
    (Identities, "acquainted", lambda self, said, told: True),
    (Identities, "id_of", lambda self, name, identity: int(name[1:])),
)
h16_every_node_takes_part = replacing((Guarded, "admitted", property(lambda self: True, lambda self, value: None)))
h16_a_wiped_node_is_taken_for_the_old_one = both(h16_a_name_alone_is_believed, h16_every_node_takes_part)


def _used_at_once(self: Any, said: Any) -> None:
    _judge(self, said)
    self.saved(self.unsaved)


_judge = Identities.judge
h16_an_identity_is_used_before_it_is_on_disk = replacing((Identities, "judge", _used_at_once))
