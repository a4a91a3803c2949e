"""The event loop's one rule: tick, then sync, then flush. It is the same for one group and for many.

    tick    deliver what arrived, hand over the proposals that gathered, step every group;
    sync    store everything that the steps staged, of all groups, in a worker thread: one commit, one fsync;
    flush   only then let votes and acknowledgements go. Entries to followers may go before.

While a sync runs, messages and proposals gather: that is the group commit, and it needs no timer. A small sync on a quick disk
is done in the event loop itself, because a thread and back would cost as much again.

What cannot be handled halts the host: its owner is told once, and this object does nothing more. A failed sync is never
retried, because what the disk kept of it is not known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, Protocol

from raftcoord.consensus.engine import Message
from raftcoord.consensus.group import Group, Ready, Store
from raftcoord.consensus.sync_thread import Runner, SyncThread
from raftcoord.events import Applied, Applying, Observers, Sending, Synced, Turned, Turning

Stores = Sequence[tuple[Group, Store]]


class Errand(NamedTuple):
    """Work on the disk that comes before the next turn.

    ``done(result, error)`` is called in the event loop if the host still runs. What it raises halts the host.
    """

    work: Callable[[], Any]
    done: Callable[[Any, BaseException | None], None]


class Disk(Protocol):
    """Where the groups are stored."""

    def write(self, stores: Stores) -> None:
        """Store all of it in one commit, with one sync if any of it needs one. Not called in two threads at a time."""


class Transport(Protocol):
    """How messages leave."""

    @property
    def congested(self) -> Collection[int]:
        """Peers for whom so much waits unsent that they should get no more entries now."""

    def send(self, messages: list[tuple[int, Message]]) -> None:
        """Send, in order; a message to a peer whose link is down is lost."""


class HostOwner(Protocol):
    """Whose groups they are. What raises halts the host."""

    @property
    def has_work(self) -> bool:
        """Whether a turn would do something for the owner."""

    def errand(self) -> Errand | None:
        """What must be on the disk before anything else is done."""

    def before_step(self, now: float) -> None:
        """The messages have been judged, and the groups are about to step."""

    def after_step(self) -> None:
        """They have stepped, and nothing has been sent."""

    def applied(self, group: Group) -> None:
        """``group`` has applied what is committed."""

    def expire(self, now: float) -> None:
        """A sync runs, and time passes: answer those whose deadline has come."""

    def halted(self, error: BaseException) -> None:
        """There is no next turn."""


class Host:
    """Ticks ``groups``. ``beat_s``: seconds between two turns in which nothing comes in."""

    def __init__(
        self,
        groups: list[Group],
        disk: Disk,
        transport: Transport,
        owner: HostOwner,
        runner: Runner,
        beat_s: float,
        events: Observers,
    ) -> None:
        self.groups = groups
        self.running = False
        self.busy = False
        """Whether something is being stored: no group may be stepped."""
        self._disk = disk
        self._transport = transport
        self._owner = owner
        self._runner = runner
        self._own_thread = runner if isinstance(runner, SyncThread) else None
        self._beat_s = beat_s
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._inbox: list[Callable[[float], None]] = []
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()

    def start(self) -> None:
        """Take turns from now on."""
        self.running = True
        self.beat()

    def stop(self) -> None:
        """Take no more turns. A sync that runs is waited for with ``settled``."""
        self.running = False
        if self._timer is not None:
            self._timer.cancel()

    async def settled(self) -> None:
        """Wait until nothing is being stored; then end the thread in which it was."""
        while self.busy:
            self._idle.clear()
            await self._idle.wait()
        if self._own_thread is not None:
            self._own_thread.close()

    def hear(self, event: Callable[[float], None]) -> None:
        """``event(now)`` is called in the next turn, in order with the others."""
        self._inbox.append(event)
        self.wake()

    def wake(self) -> None:
        """There is something to do: take a turn soon."""
        if not self._scheduled and not self.busy and self.running:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def beat(self) -> None:
        """Take a turn now and then, although nothing comes in."""
        self._timer = self._loop.call_later(self._beat_s, self.beat)
        if self.busy:  # a step would have to wait for the disk; those whose time is up need not
            try:
                now = self._loop.time()
                for group in self.groups:
                    group.expire(now)
                self._owner.expire(now)
            except Exception as error:
                self.halt(error)
        self.wake()

    def halt(self, error: BaseException) -> None:
        """Do nothing more."""
        if self.running:
            self.stop()
            self._owner.halted(error)

    # -- tick -----------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._scheduled = False
        if self.busy or not self.running:
            return
        if self._events.wanted:
            self._events.tell(Turning())
        try:
            if (errand := self._owner.errand()) is not None:
                self._run(errand)
            else:
                self._tick(self._loop.time())
        except Exception as error:
            self.halt(error)
        if self._events.wanted and self.running:
            self._events.tell(Turned())

    def _tick(self, now: float) -> None:
        for group in self.groups:
            if group.ledger_is_overdue(now):
                self._store_ledgers(now)
                return
        inbox, self._inbox = self._inbox, []
        for event in inbox:
            event(now)
        self._owner.before_step(now)
        congested = self._transport.congested
        steps, stores = [], []
        for group in self.groups:
            ready = group.step(now, congested)
            steps.append((group, ready))
            if ready.store is not None:
                stores.append((group, ready.store))
        self._owner.after_step()
        for _, ready in steps:
            self._send(ready.at_once)
        if stores:
            self._sync(steps, stores, now)
        else:
            self._flush(steps, stores, self.groups, now)
            self._store_ledgers(now)

    def _apply(self, group: Group, now: float) -> None:
        if self._events.wanted:
            self._events.tell(Applying())
        group.apply(now)
        self._owner.applied(group)
        if self._events.wanted and self.running:
            self._events.tell(Applied(group.applied_index))

    def _send(self, messages: list[tuple[int, Message]]) -> None:
        if messages:
            if self._events.wanted:
                self._events.tell(Sending(messages))
            self._transport.send(messages)

    # -- sync, flush ----------------------------------------------------------------------------------------------

    def _sync(self, steps: list[tuple[Group, Ready]], stores: Stores, now: float) -> None:
        """At a leader clients wait for what is committed; at a follower the leader waits for the sync. They come first."""
        later: list[Group] = []
        for group in self.groups:
            if group.raft.is_leader:
                self._apply(group, now)
            else:
                later.append(group)
        thread = self._own_thread
        here = thread is not None and thread.is_quick
        for _, store in stores:
            here = here and store.is_small
        if thread is None or not here:
            self._sync_elsewhere(steps, stores, later)
            return
        thread.run_here(lambda: self._disk.write(stores))
        self._flush(steps, stores, later, self._loop.time())
        self._store_ledgers(now)
        if self._has_work:
            self.wake()

    @property
    def _has_work(self) -> bool:
        """Whether a step would do something now, other than by a message or by the passing of time."""
        return any(group.has_work for group in self.groups)

    def _sync_elsewhere(self, steps: list[tuple[Group, Ready]], stores: Stores, later: list[Group]) -> None:
        self.busy = True
        self._runner.run(lambda: self._disk.write(stores), lambda _, error: self._synced(steps, stores, later, error))

    def _synced(
        self, steps: list[tuple[Group, Ready]], stores: Stores, later: list[Group], error: BaseException | None
    ) -> None:
        self._free()
        if not self.running:
            return
        try:
            if error is not None:
                raise error
            self._flush(steps, stores, later, self._loop.time())
            if self._inbox or self._owner.has_work or self._has_work:
                self._turn()
            else:
                self._store_ledgers(self._loop.time())
        except Exception as caught:
            self.halt(caught)

    def _flush(self, steps: list[tuple[Group, Ready]], stores: Stores, later: list[Group], now: float) -> None:
        for group, store in stores:
            group.stored(store, now)
            if self._events.wanted and store.staged.append:
                self._events.tell(Synced(len(store.staged.append), store.last_index))
        for _, ready in steps:
            self._send(ready.after_sync)
        for group in later:
            self._apply(group, now)

    def _store_ledgers(self, now: float) -> None:
        """What of the ledgers is due goes to the disk when nobody waits for the disk."""
        stores = []
        for group in self.groups:
            if (store := group.ledger_store(now)) is not None:
                stores.append((group, store))
        if stores:
            self._sync_elsewhere([], stores, [])

    # -- errands --------------------------------------------------------------------------------------------------

    def _run(self, errand: Errand) -> None:
        self.busy = True
        self._runner.run(errand.work, lambda result, error: self._returned(errand, result, error))

    def _returned(self, errand: Errand, result: Any, error: BaseException | None) -> None:
        self._free()
        if not self.running:
            return
        try:
            errand.done(result, error)
        except Exception as caught:
            self.halt(caught)
        self._turn()

    def _free(self) -> None:
        self.busy = False
        self._idle.set()
