"""Orders between a PostgreSQL and a MariaDB, paid by several programs while programs, nodes and the resolver are killed.

Half of the commits are left to the resolver. Owed: in the end every order is paid exactly once, on both sides, to the cent, and
nothing is prepared; the verdict rests on the audit (crashes_audit.py) alone. Which victim when is the seed's; what the machine
makes of it is not.

MariaDB may answer OK to a commit from another session and keep the branch, unlisted and locked, until it is restarted. The
resolver records that as damage and says so; this drill then does what the record says, and counts it.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from raftcoord.client.synchronous import Client
from raftcoord.config import Config
from raftcoord.drills import orders as order_files
from raftcoord.drills.audit import SHOWN_MAX, Violation
from raftcoord.drills.crashes_audit import Evidence, Payment, audit, by_bank, opening_of
from raftcoord.drills.crashes_drivers import MARIADB, POSTGRESQL
from raftcoord.drills.crashes_payer import NAMES, Word, read_journal
from raftcoord.drills.crashes_stage import FOUNDED_S, ended_by_signals, kept_if, running, with_resources
from raftcoord.drills.crashes_worker import Worker
from raftcoord.drills.database_banks import raise_banks
from raftcoord.drills.orders import ORDERS_MAX, Generated, Order
from raftcoord.drills.report import Event, Kind, OnEvent, rounded
from raftcoord.drills.servers import Server
from raftcoord.errors import ConfigError, RaftcoordError, Unavailable
from raftcoord.processes.local_cluster import LocalCluster, write_local_config
from raftcoord.types import Branch, State, TxId

NAME: Final = "databases-transfers"
SETTLE_S: Final = 90.0
"""How long after the last order everything may take to be finished (s); what is not is found by the audit."""

STALLED_S: Final = 120.0
"""Without an order paid for so long (s) it is broken."""

WORKERS_MAX: Final = 32
_ORDERS_PER_KILL: Final = (4, 40)
"""A kill comes when so many more orders are paid, so that a slow machine gets on as well."""

_DOWN_S: Final = (0.3, 1.5)
_LOOK_EVERY_S: Final = 0.1
_TELL_EVERY_S: Final = 1.0
_VICTIMS: Final = ("program", "program", "node", "resolver")
_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True)
class TransferOptions:
    """``transfers``: how many orders, 1 to ORDERS_MAX; ``workers``: programs at a time, 1 to WORKERS_MAX; ``orders``: a file of
    orders, used again and again until there are enough; None: generated from ``seed``. ConfigError for anything else."""

    transfers: int = 2_000
    workers: int = 8
    orders: Path | None = None
    seed: int = 1
    nodes: int = 3
    keep: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.transfers <= ORDERS_MAX:
            raise ConfigError(f"{self.transfers} transfers is out of range; give 1 to {ORDERS_MAX}")
        if not 1 <= self.workers <= WORKERS_MAX:
            raise ConfigError(f"{self.workers} workers is out of range; give 1 to {WORKERS_MAX}")
        if self.nodes not in (3, 5):
            raise ConfigError(f"transfers cannot run on {self.nodes} nodes; give 3 or 5, so that one may be killed")


@dataclass(frozen=True, slots=True)
class TransferReport:
    """``killed``: how often what was. ``directory``: where the files are, if they were kept."""

    violations: list[Violation]
    figures: dict[str, int | float]
    killed: dict[str, int]
    seed: int
    directory: Path | None

    @property
    def held(self) -> bool:
        """Whether every promise was kept."""
        return not self.violations

    @property
    def verdict(self) -> str:
        """In one line."""
        if self.held:
            return (
                f"HELD: {NAME}: {self.figures['orders']:,} orders, each paid once on both sides, to the cent; 0 lost, 0 left "
                f"over, 0 created; {sum(self.killed.values())} kills"
            )
        first = self.violations[0]
        more = f" (and {len(self.violations) - 1} more)" if len(self.violations) > 1 else ""
        return f"BROKEN: {NAME}: {first.kind}: {first.what}{more}"

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "drill": NAME,
            "held": self.held,
            "verdict": self.verdict,
            "seed": self.seed,
            "figures": {name: rounded(value) for name, value in self.figures.items()},
            "killed": self.killed,
            "violation_count": len(self.violations),
            "violations": [each.to_json() for each in self.violations[:SHOWN_MAX]],
            "directory": str(self.directory) if self.directory else None,
        }


def run(options: TransferOptions, on_event: OnEvent = lambda event: None) -> TransferReport:
    """Run it; blocks, in the main thread. ConfigError if a server is not installed. Ctrl-C and SIGTERM leave nothing behind."""
    orders = _orders(options)
    worth: list[bool] = []
    with (
        ended_by_signals(),
        kept_if(worth) as directory,
        running((POSTGRESQL, MARIADB)) as (servers, missing),
        contextlib.ExitStack() as stack,
    ):
        if missing:
            raise ConfigError("; ".join(missing.values()))
        transfers = _Transfers(directory, servers, orders, options, on_event)
        report = transfers.play(stack)
        if report.violations or options.keep:
            worth.append(True)
            report = replace(report, directory=directory)
    return report


def _orders(options: TransferOptions) -> dict[int, Order]:
    """By their number from 1, whatever the file calls them: one that is used twice is two orders."""
    given = Generated(options.seed).orders() if options.orders is None else iter(order_files.load(options.orders))
    if options.orders is not None:
        given = itertools.cycle(given)
    return {n: replace(order, order_id=n) for n, order in enumerate(itertools.islice(given, options.transfers), 1)}


class _Transfers:
    """The run."""

    def __init__(
        self,
        directory: Path,
        servers: dict[str, Server],
        orders: dict[int, Order],
        options: TransferOptions,
        on_event: OnEvent,
    ) -> None:
        self._directory = directory
        self._servers = servers
        self._orders = orders
        self._options = options
        self._on_event = on_event
        self._rng = random.Random(options.seed)
        self._began_s = time.monotonic()
        self._killed: Counter[str] = Counter()
        self._down: list[tuple[float, str, Callable[[], object]]] = []
        self._damages = 0
        self._violations: list[Violation] = []
        self._workers: list[Worker] = []

    def play(self, stack: contextlib.ExitStack) -> TransferReport:
        """From the opening to the audit. ``stack`` ends what is started."""
        opening = opening_of(self._orders)
        self._banks = tuple(
            raise_banks(self._servers[kind], name) for kind, name in zip((POSTGRESQL, MARIADB), NAMES, strict=True)
        )
        for side, bank in enumerate(self._banks):
            bank.open(by_bank(opening, side))
        path = with_resources(
            write_local_config(self._directory, nodes=self._options.nodes),
            {Branch(bank.name): bank.url for bank in self._banks},
        )
        self._cluster = LocalCluster(Config.load(path), throwaway=True)
        stack.callback(self._cluster.stop_all)
        self._cluster.start_all()
        self._cluster.start_resolver()
        self._client = stack.enter_context(Client.from_config(path))
        self._client.cluster_id(timeout=FOUNDED_S)
        self._workers = [self._worker(number, path) for number in range(self._options.workers)]
        for worker in self._workers:
            stack.callback(worker.kill)
            worker.start()
        self._tell(
            "start",
            f"{len(self._orders)} orders, {len(self._workers)} programs, {self._options.nodes} nodes, a resolver",
        )
        figures = self._load()
        figures["left_over_s"] = self._settled()
        self._judge(opening, figures)
        return TransferReport(self._violations, figures, dict(self._killed), self._options.seed, None)

    def _worker(self, number: int, config: Path) -> Worker:
        orders = [order for order in self._orders.values() if order.order_id // 2 % self._options.workers == number]
        seed = f"{self._options.seed}-{number}"

        def command(journal: Path, orders: Path) -> list[str]:
            module = [sys.executable, "-m", "raftcoord.drills.crashes_payer"]
            return [*module, str(config), str(journal), str(orders), seed, *(bank.url for bank in self._banks)]

        return Worker(number, self._directory, orders, command)

    # -- load and kills ---------------------------------------------------------------------------------------------

    def _load(self) -> dict[str, int | float]:
        """Until every order is paid, or nothing moves."""
        began = time.monotonic()
        moved_at, paid_before, told_at, strike_at = began, 0, began, 1
        while self._is_paying():
            now, paid = time.monotonic(), sum(worker.paid() for worker in self._workers)
            if paid >= strike_at:
                self._strike()
                strike_at = paid + self._rng.randint(*_ORDERS_PER_KILL)
            self._mend(now)
            if now - told_at >= _TELL_EVERY_S:
                told_at = now
                self._tell("progress", f"{paid} paid, {sum(self._killed.values())} kills")
                if paid > paid_before:
                    moved_at, paid_before = now, paid
                if now - moved_at > STALLED_S:
                    self._violations.append(Violation("stalled", None, f"no order was paid for {STALLED_S:g} s"))
                    break
                self._look_for_damage()
            time.sleep(_LOOK_EVERY_S)
        seconds = time.monotonic() - began
        for worker in self._workers:
            worker.kill()
        return {"orders": len(self._orders), "load_s": seconds, "orders_per_s": len(self._orders) / seconds}

    def _is_paying(self) -> bool:
        """Whether an order is left; a program that gives up is a broken promise, and the audit follows all the same."""
        try:
            return bool([worker for worker in self._workers if not worker.ended()])
        except RaftcoordError as error:
            self._violations.append(Violation("given up", None, str(error)))
            return False

    def _strike(self) -> None:
        victim = self._rng.choice(_VICTIMS)
        back_at = time.monotonic() + self._rng.uniform(*_DOWN_S)
        if victim == "program":
            worker = self._rng.choice(self._workers)
            if not worker.is_running():
                return
            worker.kill()
            worker.start()
        elif any(what == victim for _, what, _ in self._down):
            return  # one of a kind at a time
        elif victim == "node":
            node = self._rng.choice(self._cluster.config.nodes).name
            self._cluster.kill(node)
            self._down.append((back_at, victim, lambda: self._cluster.start(node)))
        else:
            self._cluster.resolver.kill()
            self._down.append((back_at, victim, self._cluster.start_resolver))
        self._killed[victim] += 1

    def _mend(self, now: float) -> None:
        """Start what is down for long enough."""
        due = [each for each in self._down if each[0] <= now]
        self._down = [each for each in self._down if each[0] > now]
        for _, _, start in due:
            start()

    def _look_for_damage(self) -> None:
        """What MariaDB hides is found there again when it is started anew."""
        with contextlib.suppress(Unavailable):
            found = self._client.damages()
            if found.total > self._damages:
                self._damages = found.total
                self._tell("fault", f"damage is recorded: {found.shown[0].what}; MariaDB is started anew")
                self._servers[MARIADB].kill()
                self._servers[MARIADB].start()
                self._killed["mariadb"] += 1

    # -- the end ----------------------------------------------------------------------------------------------------

    def _settled(self) -> float:
        """Wait until nothing is left to do; how long it took (s)."""
        began = time.monotonic()
        self._mend(float("inf"))
        self._tell("settle", "no more orders; everything runs; the resolver finishes")
        looked_at = began
        while left := self._left_over():
            now = time.monotonic()
            if now - began > SETTLE_S:
                self._violations += [Violation("left over", None, each) for each in left]
                break
            if now - looked_at > _TELL_EVERY_S:
                looked_at = now
                self._look_for_damage()
            time.sleep(_LOOK_EVERY_S)
        return time.monotonic() - began

    def _left_over(self) -> list[str]:
        prepared = [f"{txid} is prepared in {bank.name}" for bank in self._banks for txid in bank.prepared()]
        if prepared:
            return prepared
        try:
            rows = self._client.transactions("open", limit=_PAGE)
        except Unavailable as error:
            return [str(error)]
        return [f"the ledger waits for {', '.join(row['outstanding'])} of {row['txid']}" for row in rows]

    def _judge(self, opening: dict[tuple[int, str, str], int], figures: dict[str, int | float]) -> None:
        """Compare everything with everything."""
        self._tell("audit", "each order: its journal, the ledger, both databases")
        journal = [entry for worker in self._workers for entry in read_journal(worker.journal)]
        states = self._states()
        evidence = Evidence(self._orders, journal, states, self._payments(), opening, self._closing())
        self._violations += audit(evidence)
        words = Counter(entry.word for entry in journal)
        outcomes = Counter(states.get(entry.txid) for entry in journal if entry.word is Word.BEGUN)
        figures |= {
            "attempts": words[Word.BEGUN],
            "committed": outcomes[State.COMMITTED],
            "aborted": outcomes[State.ABORTED],
            "never_decided": outcomes[None],
            "commits_left_to_the_resolver": words[Word.LEFT],
            "told_aborted": words[Word.ABORTED] + words[Word.FOUND_ABORTED],
            "asked_for": words[Word.FOUND_PAID] + words[Word.FOUND_ABORTED],
            "payments": len(evidence.payments),
            "cents_before": sum(opening.values()),
            "cents_after": sum(evidence.closing.values()),
            "hidden_by_mariadb": self._damages,
        }

    def _states(self) -> dict[TxId, State]:
        states: dict[TxId, State] = {}
        before: TxId | None = None
        while page := self._client.transactions(limit=_PAGE, before=before):
            states |= {row["txid"]: row["state"] for row in page}
            before = page[-1]["txid"]
        return states

    def _payments(self) -> list[Payment]:
        sql = "SELECT order_id, txid, bank, account, cents FROM payments"
        return [
            Payment(side, int(order_id), TxId.parse(txid), bank, account, int(cents))
            for side, banks in enumerate(self._banks)
            for order_id, txid, bank, account, cents in banks.rows(sql)
        ]

    def _closing(self) -> dict[tuple[int, str, str], int]:
        sql = "SELECT bank, account, cents FROM accounts"
        return {
            (side, bank, account): int(cents)
            for side, banks in enumerate(self._banks)
            for bank, account, cents in banks.rows(sql)
        }

    def _tell(self, kind: Kind, text: str) -> None:
        self._on_event(Event(time.monotonic() - self._began_s, kind, text))
