"""Every bound, with its unit and its reason. A test stands at each bound and one past it.

What nobody turns is a constant. What a simulation or a test turns is a field of a value that is handed down from where a process
is made.
"""

from dataclasses import dataclass
from typing import Final

# -- names and payloads -------------------------------------------------------------------------------------------
NAME_LENGTH_MAX: Final = 32
"""Characters in a node, participant or branch name: an XA bqual has 64 bytes and the gid carries two such parts."""

REASON_LENGTH_MAX: Final = 500
"""Characters of an abort's reason; it is replicated and kept, so a stack trace does not belong in it."""

BRANCHES_MAX: Final = 64
"""Branches in one transaction; more is a batch job, and one lock held by the slowest of many."""

PAYLOAD_BYTES_MAX: Final = 1 << 20
"""Bytes of one submit request as a frame (1 MiB). Payloads are not replicated, but every byte passes a node's memory."""

# -- time ---------------------------------------------------------------------------------------------------------
DECIDE_FUTURE_MS_MAX: Final = 366 * 24 * 3600 * 1000
"""How far ahead it may lie when it is decided or resolved (ms). Something may be prepared by then, and locked until it is
decided: only what would be kept for more than a year, and could be sent in any number, is refused."""

TIMEOUT_MS_MIN: Final = 1
TIMEOUT_MS_MAX: Final = 10 * 60 * 1000
"""Bounds of a caller's timeout (ms); ten minutes of held locks are an outage, not a transaction."""


@dataclass(frozen=True, kw_only=True)
class ClockBounds:
    """How far clocks may be apart. All nodes and clients of a cluster have the same."""

    future_ms_max: int = 5 * 60 * 1000
    """How far ahead of a node's clock the txid of a transaction that begins may lie (ms): what lies ahead is kept for longer."""

    spread_ms_max: int = 60 * 1000
    """How far apart a majority's clocks may be (ms) for the leader to move the horizon."""


# -- the wire -----------------------------------------------------------------------------------------------------
CLIENT_FRAME_BYTES_MAX: Final = 2 << 20
"""Bytes of one frame on the client port: a payload and its envelope."""

PEER_FRAME_BYTES_MAX: Final = 8 << 20
"""Bytes of one frame between nodes: APPEND_BYTES_MAX and its envelope, with room."""

HELLO_FRAME_BYTES_MAX: Final = 16 << 10
"""Bytes of one frame before the hello is done (16 KiB): a hello with the names and addresses of seven nodes has about two."""

FRAME_ITEMS_MAX: Final = 65_536
"""Items of all arrays and maps of a frame that comes in at a port: each may cost a hundred times its bytes. About 10 ms."""

ANSWER_ITEMS_MAX: Final = 1 << 18
"""The same for a frame from a node that one has dialed: ROWS_MAX transactions of BRANCHES_MAX branches have 150,000."""

PAYLOAD_ITEMS_MAX: Final = 65_000
"""Items of all payloads of one submit: they travel in one frame, with an envelope."""

LISTINGS_WAITING_MAX: Final = 16
"""Listings of one connection that may wait; the next is refused as overloaded. One page of them is read at a time, in turn."""

LISTING_PAUSE_MS: Final = 1
"""The pause after each page of a listing (ms): decisions come first."""

FRAME_NESTING_MAX: Final = 64
"""How deep arrays and maps in a frame may be nested; deeper, innocent code such as repr() runs out of stack."""

PAYLOAD_NESTING_MAX: Final = 32
"""How deep a payload may be nested; it travels inside other arrays and must fit in FRAME_NESTING_MAX everywhere."""

HALF_FRAME_BYTES_FREE: Final = 32 << 10
"""Bytes of an incomplete frame that do not count for ``half_frames_bytes_max``: ``connections_max`` times as much is held at the
worst."""

LINK_SILENT_MS_MIN: Final = 1_000
"""How long another node's machine may acknowledge nothing (ms), and three election timeouts if that is more, before the link
to it is down: its clock is no vote any more, and what is sent to it only waits."""

PEER_CONNECTIONS_MAX: Final = 64
"""Connections on the port for nodes: each of six others has one, and may have a few half dead."""

SESSIONS_MAX: Final = 1_024
"""Participants' sessions at one node. None is closed to make room: the other half of ``connections_max`` is for clients."""

FOREIGN_LENGTH_MAX: Final = 500
"""Characters of a foreign text in one line of the log: REASON_LENGTH_MAX."""

FOREIGN_LINES_MAX: Final = 10
"""Lines of one kind that strangers may cause in a log at once; after these it is one a second."""

LOG_RECORD_LENGTH_MAX: Final = 8_000
"""Characters of one record of a log, a traceback included."""

ERROR_LENGTH_MAX: Final = 2_000
"""Characters of an error's text that are taken from the other end; raftcoord's own have at most a few hundred."""

CLOSE_MS_MAX: Final = 1_000
"""How long a closed connection may take to send what it still holds (ms), such as the error that closes it."""


@dataclass(frozen=True, kw_only=True)
class ConnectionBounds:
    """Those of one end of a connection, and of a port and all its connections."""

    requests_max: int = 4096
    """Requests of one connection that may be open, each way; the next one is refused as overloaded."""

    connections_max: int = 2048
    """Connections that one port serves; the next is told so and closed. File descriptors run out for everybody at once."""

    pass_cost_max: int = 128
    """What is handled of one connection in one pass of the event loop: a message counts 1, and 1 for each KiB of it. About 3 ms;
    then it is the others' turn."""

    write_buffer_pause_bytes: int = 1 << 20
    """Bytes waiting unsent on one connection from which on it counts as paused, so that a polite writer holds back."""

    write_buffer_bytes_max: int = 16 << 20
    """Bytes that may wait unsent on one connection (two of the largest frames); one whose reader does not read is closed."""

    unsent_bytes_max: int = 128 << 20
    """Bytes that may wait unsent on all connections of a port; beyond it the reader is given up who has not read for longest."""

    half_frames_bytes_max: int = 64 << 20
    """Bytes of incomplete frames that one port holds in all; beyond it the one that takes longest is given up."""

    hello_ms_max: int = 5_000
    """How long a new connection may take to say hello (ms) before it is closed."""

    frame_ms_max: int = 60_000
    """How long a frame may take to arrive (ms), and how long a reader may leave unread what waits for it."""

    ping_ms: int = 30_000
    """How often the dialing end of a quiet connection says that it is there (ms)."""

    idle_ms_max: int = 2 * 60_000
    """How long an accepted connection may be silent (ms): four pings. A process that was suspended for longer dials again."""

    silent_ms_max: int = 20_000
    """How long the other end's machine may acknowledge nothing (ms). One that sleeps for a moment comes back."""


# -- the client ---------------------------------------------------------------------------------------------------
GRACE_MS_DEFAULT: Final = 2_000
"""How long past its timeout a transaction that may be decided is asked for, before it is in doubt, and how long past it one
database is waited for (ms): an election takes less, and what is left then the resolver does."""

GRACE_MS_MAX: Final = TIMEOUT_MS_MAX
"""The longest grace that a client may have (ms)."""

CLIENT_PATIENCE_MS: Final = 500
"""How long past the node's own deadline its answer is awaited (ms); a node that is silent for longer hangs."""

CLIENT_OVERLOAD_RETRIES_MAX: Final = 5
"""How often a request that was refused as overloaded is sent again, with growing pauses, before the caller is told."""

# -- consensus ----------------------------------------------------------------------------------------------------
ENTRY_BYTES_MAX: Final = 512 << 10
"""Bytes of one log entry, which carries a batch of commands. Below APPEND_BYTES_MAX, so that an entry is never split."""

ENTRY_COMMANDS_MAX: Final = 2048
"""Commands in one log entry: bounds the time that one apply holds the event loop (about 10 ms)."""

ENTRY_ITEMS_MAX: Final = 4_096
"""Items of one array in a log entry that a peer sends: more than the commands of an entry or the branches of any command."""

TERM_LEAP_MAX: Final = 1 << 26
"""How far ahead of a node's own term a peer's may be: 77 days of one election every 100 ms, none of which this node heard of. A
single wrong number beyond leaves no term to anybody, for good."""

INDEX_LEAP_MAX: Final = 1 << 48
"""How far ahead of what is applied here a copy of the ledger may be: 300 years of 30,000 entries a second."""

HORIZON_LEAP_MS_MAX: Final = 366 * 24 * 3600 * 1000
"""How far ahead of a node's own clock the horizon may be that a peer sends (ms). A wrong clock is off by less; a horizon beyond
every clock would make the cluster forget all that it decides."""

TIME_MS_MAX: Final = (1 << 47) - 1
"""The latest time (ms) that anything may be recorded under: the year 6429. Later ones cannot be shown as a date."""

APPEND_BYTES_MAX: Final = 2 << 20
"""Bytes of log entries in one AppendEntries message."""

COPY_SPARE_BYTES: Final = 256 << 20
"""Bytes of a disk that a copy of the ledger leaves free: hours of log, so that a copy never halts a node that serves."""

# -- the ledger ---------------------------------------------------------------------------------------------------
RETENTION_MS_DEFAULT: Final = 24 * 3600 * 1000
"""How long finished decisions are remembered (ms), so that a client that returns the next morning still learns its outcome."""

# -- the coordinator and delivery ---------------------------------------------------------------------------------
CONNECT_WAIT_MS: Final = 1_000
"""How long a transaction waits for a participant that is not connected (ms): workers redial within a second."""

DECIDE_RESERVE_MS: Final = 1_000
"""How long before a transaction's timeout votes are waited for no longer (ms, at most a quarter of it): the ledger needs time
to answer even while a new leader is elected."""

PARTICIPANTS_MAX: Final = 4_096
"""Participants whose state the ledger knows: anybody who reaches a client port can make one up, and each is kept for ever."""

BRANCHES_SETTLED_MAX: Final = 500
"""Branches that an operator closes, or whose damage he acknowledges, in one command: a few milliseconds for every node."""

DAMAGES_MAX: Final = 500
"""Damages in one listing: each may have REASON_LENGTH_MAX characters of four bytes, and all must fit in one frame."""

WHO_LENGTH_MAX: Final = 64
"""Characters of the name under which an operator's act is recorded: a person's name or address, not a comment."""

ROWS_MAX: Final = 1_000
"""Transactions in one listing: a few milliseconds of reading, for which all others wait."""

# -- cluster.yaml -------------------------------------------------------------------------------------------------
CONFIG_BYTES_MAX: Final = 1 << 20
"""Bytes of cluster.yaml; a larger file is another file, given by mistake."""

NODES_ALLOWED: Final = (1, 3, 5, 7)
"""Nodes with which a cluster is founded. An even number survives no more losses than one less; beyond 7 commits are slower."""

MEMBERS_MAX: Final = 7
"""Members of a cluster, a learner included: as NODES_ALLOWED, whose largest number may be reached one by one."""

MEMBERS_PAST_MAX: Final = 16
"""Former sets of members whose names are kept, so that a cluster.yaml of before the latest changes is known for one."""

MEMBERS_NUMBER_MAX: Final = 1 << 31
"""The largest epoch of a set of members, and the largest id: one change a second for 68 years."""

ADDRESS_LENGTH_MAX: Final = 300
"""Characters of an address: a host name (253) and a port."""

RESOURCES_MAX: Final = 64
"""Resources in cluster.yaml: each is a thread and a connection of the resolver."""

HEARTBEAT_MS_MIN: Final = 5
HEARTBEAT_MS_MAX: Final = 5_000
"""Bounds of the leader's heartbeat (ms): below, it costs more than the work; above, nobody waits for a new leader."""

ELECTION_MS_MAX: Final = 60_000
"""The longest election timeout (ms)."""

ELECTION_HEARTBEATS_MIN: Final = 3
"""Heartbeats that fit into the shortest election timeout, so that one late packet does not depose a healthy leader."""

RETENTION_MS_MIN: Final = 15 * 60 * 1000
"""The shortest retention (ms): longer than a transaction may run (TIMEOUT_MS_MAX) on a clock that is off by a minute."""

RETENTION_MS_MAX: Final = 366 * 24 * 3600 * 1000
"""The longest retention (ms): a year of decisions is an archive, not a ledger."""

# -- participants -------------------------------------------------------------------------------------------------
PARTICIPANT_RETENTION_MS: Final = 7 * 24 * 3600 * 1000
"""How long a participant remembers finished txids (ms); far beyond any repeat, and a week of records is small."""

LOCK_WAIT_MS: Final = 1_000
"""How long a prepare waits for a row lock (ms): a round of the protocol takes milliseconds, so a second means trouble."""

LOCK_WAIT_OLDER_MS: Final = 500
"""The same for a prepare that waits for a younger transaction. Every deadlock across participants contains one such wait,
so that of two that wait for each other one gives up first and the other gets through."""

LOCK_WAITERS_MAX: Final = 4_096
"""Prepares that one participant keeps back for locks; the next is refused at once."""

OPERATIONS_MAX: Final = 1_000
"""Operations in one payload of the SQLite participant: about 5 ms of work, for which all others wait."""

ACCOUNT_KEY_LENGTH_MAX: Final = 200
"""Characters of an account's key."""

FORGET_MIN: Final = 64
"""Finished txids past the retention that one batch of a participant deletes, beyond its own size: bounded work."""

WORKER_QUEUE_MAX: Final = 16_384
"""Requests that wait in a worker; the next is refused as overloaded. At 4,000 a second these are four seconds."""

WORKER_BATCH_MAX: Final = 512
"""Requests in one batch of a worker: bounds how long the last waits for the first."""

RESOLVES_MAX: Final = 64
"""Questions about transactions in doubt that a worker has open at the nodes at a time."""

# -- databases ----------------------------------------------------------------------------------------------------
RESOURCE_CONNECT_MS: Final = 5_000
"""How long connecting to a database may take (ms), the greeting included; a wrong password is told in milliseconds."""

RESOURCE_ANSWER_MS: Final = 30_000
"""How long a database may take for one question of the resolver or the doctor (ms). To roll back a great deal takes seconds; a
host that has vanished, and a proxy that forwards nothing, take for ever."""

RESOURCE_SILENT_MS: Final = 5_000
"""How long the host of a database may leave packets unacknowledged (ms) before the kernel calls the connection lost: when it is
back, locks are held until the resolver has connected anew."""

CLOSE_TRIES_MAX: Final = 5
"""How often a connection is closed if Ctrl-C or a cancellation interrupts that, each time once more."""

SQLITE_WORK_BYTES_MAX: Final = 256 * 1024**2
"""The rows that a SQLite branch has changed, as they are stored while it is prepared (bytes): the program and the resolver hold
them in memory, a few times over."""

# -- the resolver -------------------------------------------------------------------------------------------------
RESOLVER_SAFETY_MS: Final = 1_200
"""How long an undecided branch is left to its program (ms). A live one decides within milliseconds of its first prepare. With
``every_ms``, because MariaDB does not tell how old a branch is, locks of a dead one are free within two seconds."""

RESOLVER_OPEN_PAGES: Final = 10
"""Pages of ROWS_MAX open decisions in one look; the next look goes on where this one ended."""

RESOLVER_TRIES_QUIET: Final = 3
"""Tries of a branch before it is reported: the session that prepared it may take a moment to go."""

RESOLVER_DAMAGE_LOOKS: Final = 3
"""How often a committed branch is seen neither prepared nor marked before that is damage, see ResolverBounds."""

RESOLVER_ELSEWHERE_MS: Final = 60_000
"""How long a branch of another resource may be prepared on a server before its resource's URL is doubted (ms)."""

RESOLVER_BACKOFF_MS_MIN: Final = 100
RESOLVER_BACKOFF_MS_MAX: Final = 500
"""Pause before a database, or a node, that cannot be reached is tried again (ms), doubled from the one to the other: locks are
held until it can."""


@dataclass(frozen=True, kw_only=True)
class ResolverBounds:
    """Those of one resolver."""

    settle_ms: int = 250
    """How long a decided branch is left to its program (ms), which is committing it: MariaDB must not be asked just as a session
    ends."""

    every_ms: int = 500
    """How often a resource is listed (ms)."""

    open_ms: int = 5_000
    """How often the open decisions are read (ms). What is found by them alone holds no locks."""

    aborted_ms: int = 10_000
    """How often the marks of aborted transactions are looked for (ms): ROWS_MAX of the newest, and as many of the older ones.
    There are none unless somebody has committed by hand."""

    retry_ms_max: int = 30_000
    """The longest pause before a branch is tried again that could not be finished (ms): a person must look."""

    damage_ms: int = 10_000
    """A committed branch that is neither prepared nor marked is damage when it was seen so RESOLVER_DAMAGE_LOOKS times over this
    time (ms): one whose commit is on its way looks the same, for milliseconds."""

    forget_ms: int = 60_000
    """How often marks that nothing can ask for any more are deleted (ms)."""

    retention_ms_min: int = RETENTION_MS_MIN
    """How far behind the clock the horizon is taken to lie at least (ms), whatever a node says: no retention is shorter."""


# -- observers ----------------------------------------------------------------------------------------------------
OBSERVER_SLOW_MS: Final = 20
"""How long an observer may take over one event (ms): an election timeout is many times that."""

OBSERVER_REST: Final = 100
"""An observer that took longer hears nothing for so many times that time: it costs at most one percent."""

# -- logs ---------------------------------------------------------------------------------------------------------
LOG_BYTES_MAX: Final = 16 << 20
"""Bytes of one log file of a process that was started in the background. A healthy node writes a few lines a day;
this is more than anybody reads, and quickly searched."""

LOG_FILES_KEPT: Final = 4
"""Full log files that are kept beside the current one: the oldest goes. A process then has at most 80 MiB of logs."""


# -- one node -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class NodeBounds:
    """Those of one node."""

    # consensus
    proposals_max: int = 65_536
    """Commands that a node holds open; the next is refused as overloaded. At 30,000/s these are two seconds."""

    append_entries_max: int = 1_000
    """Log entries in one AppendEntries message."""

    appends_per_pass_max: int = 4
    """AppendEntries messages to one node in one tick; the rest follow when these are acknowledged."""

    ask_members_ms: int = 3_000
    """How long a node whose cluster.yaml contradicts its stored members waits for a member that says they have changed (ms)."""

    # the log, the ledger and its copies
    log_tail_entries: int = 5_000
    """Log entries kept behind the applied index for slow followers; one further behind gets a copy of the ledger."""

    log_tail_bytes: int = 64 << 20
    """Bytes of log kept in memory behind the applied index."""

    log_compact_slack: int = 1_000
    """How many entries beyond the tail gather before the log is cut, so that cutting is rare."""

    copy_chunk_bytes: int = 512 << 10
    """Bytes of the ledger's copy in one message."""

    copy_retry_ms_min: int = 500
    copy_retry_ms_max: int = 60_000
    """Pause before a copy of the ledger is begun again after it broke off (ms); it doubles from the one to the other. A copy of a
    large ledger takes minutes of reading and writing on both sides."""

    memory_decisions_max: int = 200_000
    """Decisions held in memory (about 100 MB); older ones are read from node.db. Half of them stay when there are more."""

    wal_pages: int = 4_000
    """Pages (16 MiB) in node.db-wal before they are moved into node.db: seldom, and still in a few milliseconds."""

    # what it is asked
    question_ms: int = 3_000
    """How long a node tries to answer a question (ms): to confirm that it has applied all there is. An election takes less."""

    ask_ms: int = 3_000
    """The same for a new leader's first barrier, the binding of a participant's state and a change of the members (ms)."""

    listing_page_rows: int = 100
    """Rows of a listing that are read in one pass of the event loop (0.6 ms)."""

    listing_bytes_max: int = 1 << 20
    """Bytes of the rows in one answer to a listing; who wants more asks again. A row has 7 KB at most, and
    CLIENT_FRAME_BYTES_MAX is the double: room for the envelope."""

    participants_refused_max: int = 8
    """States that a node remembers as refused under one name, for the operator who replaces one; the oldest is dropped."""

    # the transactions that it coordinates
    transactions_running_max: int = 16_384
    """Transactions that one node coordinates at a time; the next is refused as overloaded. At 2,000/s these are eight seconds."""

    prepares_open_max: int = ConnectionBounds.requests_max // 2
    """Requests open at one participant from which on a new transaction is refused: the other half is for deliveries."""

    # the delivery of outcomes
    deliveries_in_flight_max: int = 256
    """Outcomes on their way to one participant at a time."""

    deliveries_pending_max: int = 10_000
    """Outcomes that a node holds for one participant; the oldest is dropped, because the leader drives what is in the ledger."""

    delivery_answer_ms: int = 5_000
    """How long one instance of a participant may take to acknowledge (ms) before another instance is tried."""

    delivery_retry_ms_min: int = 100
    delivery_retry_ms_max: int = 5_000
    """Pause before an outcome is delivered again after a failure (ms); it doubles from the one to the other, with jitter."""

    damage_retry_ms: int = 30_000
    """Pause before an outcome is delivered again that the participant says it cannot carry out (ms): a person must look."""

    damages_unseen_max: int = 10_000
    """Damaged branches that nobody has acknowledged; the next is refused. Every node keeps each in memory."""

    acks_gather_ms: int = 200
    acks_gathered_max: int = 500
    """Acknowledgements are replicated when this many have gathered or this time (ms) has passed: nobody waits for them."""

    acks_held_max: int = 100_000
    """Acknowledgements held while there is no leader; the oldest are dropped, and those outcomes are delivered once more."""

    # what the leader does by itself
    redrive_every_ms: int = 1_000
    """How often the leader looks for decisions that nobody completes (ms). One that is older than that is driven again."""

    redrive_step: int = 500
    redrive_step_ms: int = 2
    """Open decisions looked at in one step, and the pause between two steps (ms): 100,000 must not hold the event loop."""

    retire_every_ms: int = 60_000
    """How often the leader proposes to move the horizon (ms)."""

    retire_step_ms_max: int = 10 * 60 * 1000
    """How far the horizon moves at a time (ms): ten times as fast as time passes, so that it catches up after an outage, and so
    that a majority of wrong clocks that is noticed within minutes has cost minutes."""
