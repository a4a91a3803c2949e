"""Which state may go by the name of a participant.

Theory of operation. A participant's durable state carries an identity, random and never changed, and its worker gives it in the
hello. The ledger binds the name to the first one (``Bind``). From then on every node admits that state alone, however many
instances serve it, because two states under one name would each get some of its branches: money is split, and a COMMIT is
delivered to the state that never prepared it.

    bound to this identity     admitted
    bound to another one       refused, until an operator replaces it
    not bound, as far as       refused for a moment: the binding is proposed, and one that dials again when it is applied here
    this node has applied      finds what the ledger says. So two nodes never admit two: both ask the ledger first.
    no identity is given       admitted while the name is not bound (a worker of an older release), refused afterwards

Owed: a session whose state is replaced ends when this node applies that. Never: an identity that is guessed, or replaced
without an operator.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any, Final

from raftcoord import limits
from raftcoord.api.answers import ParticipantRow
from raftcoord.api.fields import checked_identity
from raftcoord.core.asking import Propose, Question
from raftcoord.core.tables.decisions import Result
from raftcoord.core.tables.participants import Bind, Binding
from raftcoord.env import Env
from raftcoord.errors import LocalProtocolError, NotKnown, Overloaded, RaftcoordError, Unavailable
from raftcoord.limits import NodeBounds
from raftcoord.node.agreement import Agreement
from raftcoord.node.alarms import Alarms
from raftcoord.node.sessions import Sessions

log: Final = logging.getLogger("raftcoord.node")


class Admission:
    """Who is admitted as a participant at one node, and the operator's way to change it."""

    def __init__(self, agreement: Agreement, sessions: Sessions, alarms: Alarms, env: Env, bounds: NodeBounds) -> None:
        self._bounds: Final = bounds
        self._agreement = agreement
        self._sessions = sessions
        self._alarms = alarms
        self._env = env
        self._proposed: set[str] = set()
        self._refused: dict[str, dict[str, int]] = {}
        """Name -> identity -> when it was refused here last (ms), newest last."""
        self._unproven: set[str] = set()
        agreement.on_bound.append(self._rebound)

    def check(self, name: str, value: object) -> str:
        """The identity ``value`` of a participant that says it is ``name``, which may be admitted now.

        Raises LocalProtocolError if it may not, and Unavailable while its name is being bound: it dials again in a moment.
        """
        if value is None or value == "":
            self._check_unproven(name)
            return ""
        identity = checked_identity(value)
        known = self._agreement.ledger.participants.get(name)
        if known is None:
            self._propose(name, identity)
            raise Unavailable(f"the state of participant {name!r} is being bound to its name; dial again in a moment")
        if known.identity != identity:
            self._note_refused(name, identity)
            raise LocalProtocolError(
                f"participant {name!r} is {_shown(known)}, and this is {identity[:8]}: another state. Both at once would split "
                "its branches between them. Start it on its own state (file, directory); or, if that is lost for good, run "
                f"`raftcoord participant replace {name} --as YOU`"
            )
        return identity

    def _check_unproven(self, name: str) -> None:
        known = self._agreement.ledger.participants.get(name)
        if known is not None:
            raise LocalProtocolError(
                f"participant {name!r} is {_shown(known)}, and this one gives no identity, so that nobody can tell whether it is "
                "the same state: use this release of raftcoord, and give its Participant the method identity()"
            )
        if name not in self._unproven and len(self._unproven) < limits.PARTICIPANTS_MAX:
            self._unproven.add(name)
            log.warning(
                "participant %s gives no identity: that two states serve under this name would not be noticed; use this release "
                "of raftcoord, and give its Participant the method identity()",
                name,
            )

    def _propose(self, name: str, identity: str) -> None:
        ledger = self._agreement.ledger
        if len(ledger.participants) >= limits.PARTICIPANTS_MAX:
            raise LocalProtocolError(
                f"{limits.PARTICIPANTS_MAX} participants are known already, and {name!r} is not among them: forget one that does "
                "not exist any more with `raftcoord participant forget NAME --as YOU`"
            )
        if name in self._proposed:
            return

        def done(result: Result | RaftcoordError) -> None:
            self._proposed.discard(name)
            known = self._agreement.ledger.participants.get(name)
            if not isinstance(result, RaftcoordError) and known is not None:
                log.info("participant %s is known from now on as %s", name, known.identity[:8])

        deadline = self._alarms.time() + self._bounds.ask_ms / 1000
        try:
            self._agreement.propose(Bind(name, identity, "", "", self._env.wall_ms()), deadline, done)
        except (Overloaded, Unavailable):
            return
        self._proposed.add(name)

    def _note_refused(self, name: str, identity: str) -> None:
        refused = self._refused.setdefault(name, {})
        refused.pop(identity, None)
        refused[identity] = self._env.wall_ms()
        if len(refused) > self._bounds.participants_refused_max:
            del refused[next(iter(refused))]

    def _rebound(self) -> None:
        """End the sessions of states that do not go by their name any more."""
        known = self._agreement.ledger.participants
        for name in self._sessions.names():
            binding = known.get(name)
            if binding is None:
                continue
            for session in self._sessions.of(name):
                if session.identity != binding.identity:
                    session.endpoint.close(f"participant {name!r} is {_shown(binding)} from now on")
        self._refused = {name: refused for name, refused in self._refused.items() if name in known}

    # -- operating ------------------------------------------------------------------------------------------------

    def listed(self) -> list[ParticipantRow]:
        """Each participant whose state is known here, or that is connected here."""
        return [self._row(name) for name in sorted({*self._agreement.ledger.participants, *self._sessions.names()})]

    def _row(self, name: str) -> ParticipantRow:
        binding = self._agreement.ledger.participants.get(name) or Binding(name, "", "", 0, "")
        refused = [identity for identity in self._refused.get(name, ()) if identity != binding.identity]
        return ParticipantRow(*binding, len(self._sessions.of(name)), refused)

    def replace(self, name: str, given: str | None, who: str) -> Question[dict[str, Any]]:
        """Bind a name to another state: the one ``given``, or the one that was refused here. What is recorded.

        Raises LocalProtocolError for what cannot be replaced, and Unavailable if nothing was refused here.
        """
        known = self._must_be_known(name)
        identity = self._one_refused(name, known) if given is None else given
        if identity == known.identity:
            return known._asdict()
        self._must_be_away(known)
        return (yield from self._rebind(Bind(name, identity, known.identity, who, self._env.wall_ms())))

    def forget(self, name: str, who: str) -> Question[dict[str, Any]]:
        """Forget which state goes by a name: the next one that comes is bound. Raises as ``replace``."""
        known = self._must_be_known(name)
        self._must_be_away(known)
        return (yield from self._rebind(Bind(name, "", known.identity, who, self._env.wall_ms())))

    def _must_be_known(self, name: str) -> Binding:
        known = self._agreement.ledger.participants.get(name)
        if known is None:
            raise LocalProtocolError(
                f"no state is bound to the name {name!r} here: the first that comes under it will be. raftcoord participant ls "
                "shows those that are known"
            )
        return known

    def _must_be_away(self, known: Binding) -> None:
        if any(session.identity == known.identity for session in self._sessions.of(known.name)):
            raise LocalProtocolError(
                f"participant {known.name!r} is connected with the state that is known of it ({known.identity[:8]}), so it is "
                "not lost; if it is to be given up, stop it first"
            )

    def _one_refused(self, name: str, known: Binding) -> str:
        refused = [identity for identity in self._refused.get(name, ()) if identity != known.identity]
        if not refused:
            raise Unavailable(
                f"no other state was refused here under the name {name!r}; start the participant on its new state first, or give "
                "--identity"
            )
        if len(refused) > 1:
            raise LocalProtocolError(
                f"{len(refused)} states were refused under the name {name!r}: {', '.join(refused)}. Stop those that are "
                "not wanted, and say which one it is with --identity"
            )
        return refused[0]

    def _rebind(self, command: Bind) -> Question[dict[str, Any]]:
        name = command.name
        try:
            yield Propose(command)
        except NotKnown:
            raise Unavailable(
                f"no majority has confirmed the change of participant {name!r} in time; repeat it, that is safe"
            ) from None
        known = self._agreement.ledger.participants.get(name)
        now = known or Binding(name, "", command.who, command.at_ms, command.before)
        if now.identity != command.identity:
            raise LocalProtocolError(f"nothing was changed: participant {name!r} is {_shown(now)} meanwhile")
        log.warning("participant %s: %s replaced the state %s", name, command.who, command.before[:8])
        return now._asdict()


def _shown(known: Binding) -> str:
    if not known.identity:
        return "not known"
    at = datetime.fromtimestamp(known.at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    by = f", bound by {known.who}" if known.who else ""
    return f"known here by the state {known.identity[:8]} (since {at}{by})"
