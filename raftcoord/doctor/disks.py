"""A directory that must keep what was promised: is it there, writable, on what, with how much room, and is its fsync true?

Owed: the figure that was measured is told, and what it cannot tell. Never: a file that stays; the probe has no name from
the moment it is open.
"""

from __future__ import annotations

import errno
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from raftcoord.doctor.findings import Row, Severity

FREE_BYTES_ERROR: Final = 128 << 20
"""Room below which a node may halt within minutes: its log alone keeps up to 64 MiB, and a write-ahead log of 15 MiB."""

FREE_BYTES_WARNING: Final = 1 << 30
"""Room below which it is time to look: a busy day of decisions, or a copy of the ledger for a node that is behind."""

HONEST_S: Final = 20e-6
"""No disk takes less for an fdatasync: the quickest NVMe with its own battery needs about this for one write and flush."""

SLOW_S: Final = 0.02
"""Each decision waits for one, on a majority: above this, nobody will be happy."""

PROBES: Final = 50
PROBE_S_MAX: Final = 0.5
_PROBE_BYTES: Final = 512

_IN_MEMORY: Final = {"tmpfs", "ramfs", "devtmpfs"}
_OVERLAY: Final = {"overlay", "aufs"}
_NETWORK: Final = {
    *("9p", "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs", "gfs2"),
    *("glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "smb3", "smbfs", "virtiofs"),
}
_SWALLOWERS: Final = ("libeatmydata", "libnosync")
"""Libraries that, preloaded, answer fsync without doing it."""


class Speed(NamedTuple):
    """What some fdatasyncs of small appends took (s)."""

    median_s: float
    slowest_s: float
    times: int


def look(subject: str, directory: Path, *, measure: bool = True) -> list[Row]:
    """The rows of ``directory``, which may hang with its file system. ``measure``: also its fsync."""
    if not directory.is_dir():
        what = f"{directory} is not there"
        return [
            Row(subject, "directory", Severity.ERROR, what, "mount its volume, or correct data_dir in cluster.yaml")
        ]
    if not os.access(directory, os.W_OK | os.X_OK):
        what = f"{directory} cannot be written by this user; its fsync was not measured"
        return [
            Row(subject, "directory", Severity.WARNING, what, "run this as the user that the node runs as, to be sure"),
            *_place(subject, directory),
        ]
    rows = [Row(subject, "directory", Severity.OK, f"{directory} can be written"), *_place(subject, directory)]
    if measure:
        try:
            rows.append(judge_speed(subject, speed(directory)))
        except OSError as error:
            what = f"a probe cannot be written to {directory}: {error.strerror}"
            mend = (
                "make room on it" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "look at dmesg, and at the mount"
            )
            rows.append(Row(subject, "fsync", Severity.ERROR, what, mend))
    return rows


def _place(subject: str, directory: Path) -> list[Row]:
    return [judge_kind(subject, directory, kind_of(directory)), judge_room(subject, shutil.disk_usage(directory).free)]


def judge_kind(subject: str, directory: Path, kind: str) -> Row:
    """The row for a file system of ``kind``, as mount(8) names it; "" if it is not known."""
    check, mend = "file system", "move the directory to a local disk (docs/operations.md, The data directory)"
    if kind in _IN_MEMORY:
        return Row(subject, check, Severity.ERROR, f"{directory} is in memory ({kind}): lost at reboot", mend)
    if kind in _NETWORK:
        what = f"{directory} is on a network file system ({kind}): whether a sync reaches a disk is up to its server"
        return Row(subject, check, Severity.WARNING, what, mend)
    if kind in _OVERLAY:
        what = f"{directory} is in a container's own layer ({kind}): it goes with the container"
        return Row(subject, check, Severity.WARNING, what, "mount a volume there")
    if not kind:
        return Row(subject, check, Severity.NOTE, "what it is on is not known on this system: see mount")
    return Row(subject, check, Severity.OK, kind)


def judge_room(subject: str, free_bytes: int) -> Row:
    """The row for so much room."""
    what, mend = f"{free_bytes / (1 << 30):.1f} GiB free", "make room; the node halts when a write is refused"
    if free_bytes < FREE_BYTES_ERROR:
        return Row(subject, "room", Severity.ERROR, f"{free_bytes >> 20} MiB free", mend)
    return (
        Row(subject, "room", Severity.WARNING, what, mend)
        if free_bytes < FREE_BYTES_WARNING
        else Row(subject, "room", Severity.OK, what)
    )


def judge_speed(subject: str, found: Speed) -> Row:
    """The row for such fdatasyncs."""
    figure = f"fdatasync of {_PROBE_BYTES} bytes: median {_ms(found.median_s)}, slowest {_ms(found.slowest_s)} of {found.times}"
    if found.median_s < HONEST_S:
        what = (
            f"{figure}: no disk is that quick, so it does not wait for one, and a power cut loses what was acknowledged"
        )
        mend = "no tmpfs, no eatmydata, no barrier=0 or nobarrier mount, no cache=unsafe below a virtual machine"
        return Row(subject, "fsync", Severity.WARNING, what, mend)
    if found.median_s > SLOW_S:
        what = f"{figure}: each decision waits for one on a majority of the nodes"
        return Row(subject, "fsync", Severity.WARNING, what, "use a quicker disk, or one with a protected write cache")
    unknown = "it waits for something; that the disk, its controller or the hypervisor keep it in a power cut cannot be measured"
    return Row(subject, "fsync", Severity.OK, f"{figure}; {unknown}")


def speed(directory: Path, clock: Callable[[], float] = time.perf_counter) -> Speed:
    """Small appends to a nameless file in ``directory``, each with its fdatasync: PROBES, for at most PROBE_S_MAX. OSError."""
    sync = getattr(os, "fdatasync", os.fsync)
    took: list[float] = []
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        until = clock() + PROBE_S_MAX
        while len(took) < PROBES and (not took or clock() < until):
            file.write(bytes(_PROBE_BYTES))
            began = clock()
            sync(file.fileno())
            took.append(clock() - began)
    return Speed(statistics.median(took), max(took), len(took))


def kind_of(directory: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """The type of the file system that ``directory`` is on; "" where the system does not tell (Linux does)."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    real, best, found = str(directory.resolve()), -1, ""
    for line in lines:
        left, _, right = line.partition(" - ")
        point = left.split(" ")[4].encode().decode("unicode_escape")  # a blank in it is written \040
        if (real == point or real.startswith(point.rstrip("/") + "/")) and len(point) >= best:
            best, found = len(point), right.split(" ")[0]
    return found


def judge_process(subject: str, pid: int) -> list[Row]:
    """An error if a library that swallows fsync is loaded into process ``pid``; nothing if not, or if it cannot be seen."""
    if sys.platform != "linux":
        return []
    try:
        maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    for name in _SWALLOWERS:
        if name in maps:
            what = f"{name} is loaded into it (pid {pid}): its fsync does nothing, and a power cut loses what it acknowledged"
            return [Row(subject, "fsync", Severity.ERROR, what, "start the node without LD_PRELOAD")]
    return []


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3f} ms" if seconds < 0.001 else f"{seconds * 1000:.1f} ms"
