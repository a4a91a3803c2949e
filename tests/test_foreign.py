"""What strangers say takes one line of bounded length, and their lines are rationed."""

from __future__ import annotations

import io
import logging
from contextlib import suppress

import pytest

from raftcoord import limits
from raftcoord.foreign import OneLine, Rationed, shown

FORGED = "gone\n2026-01-01 CRITICAL raftcoord.node: all is lost\x1b[2J\x1b]0;pwned\x07\r\u202e\x9b1m\x00"


@pytest.mark.parametrize("said", [FORGED, "\x1b[31m" * 10, "\u2028", "\udcff", b"\n\x1b", ValueError("a\nb")])
def test_what_is_not_printable_is_escaped(said: object) -> None:
    line = shown(said)
    assert line.isprintable()
    assert "\n" not in line


def test_what_is_printable_stays_as_it_is() -> None:
    assert shown("zu spät ... 口座 \U0001f4a5") == "zu spät ... 口座 \U0001f4a5"


def test_a_text_may_be_so_long_and_not_one_character_longer() -> None:
    most = limits.FOREIGN_LENGTH_MAX
    assert shown("x" * most) == "x" * most
    assert shown("x" * (most + 1)) == "x" * most + " ..."
    assert len(shown("\x1b" * most)) == most + len(" ...")


def written(record: logging.LogRecord | None = None) -> tuple[logging.Logger, io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(OneLine("%(levelname)s %(message)s"))
    logger = logging.Logger("test")
    logger.addHandler(handler)
    return logger, stream


def test_a_record_of_a_process_s_log_forges_no_line() -> None:
    logger, stream = written()
    logger.warning("it said: %s", FORGED)
    (first, second) = stream.getvalue().splitlines()
    assert first == "WARNING it said: gone"
    assert second.startswith("| 2026-01-01 CRITICAL")
    assert "\x1b" not in stream.getvalue()


def test_a_traceback_with_foreign_words_is_marked_and_bounded() -> None:
    logger, stream = written()
    with suppress(ValueError):
        try:
            raise ValueError(FORGED + "x" * 100_000)
        except ValueError:
            logger.exception("it failed")
            raise
    lines = stream.getvalue().splitlines()
    assert lines[0] == "ERROR it failed"
    assert all(line.startswith("| ") for line in lines[1:])
    assert len(stream.getvalue()) < 2 * limits.LOG_RECORD_LENGTH_MAX


def test_lines_of_one_kind_are_rationed_and_what_was_left_out_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    rationed = Rationed(logging.getLogger("raftcoord.test"), lambda: now)
    for number in range(limits.FOREIGN_LINES_MAX + 90):
        rationed.warning("closed the connection of %s: %s", number, FORGED)
    assert len(caplog.records) == limits.FOREIGN_LINES_MAX
    rationed.warning("another kind: %s", 1)
    assert len(caplog.records) == limits.FOREIGN_LINES_MAX + 1
    now = 1.0
    rationed.warning("closed the connection of %s: %s", 7, "x")
    assert caplog.records[-1].getMessage() == "closed the connection of 7: x (90 more like this were left out)"
    rationed.warning("closed the connection of %s: %s", 8, "x")
    assert len(caplog.records) == limits.FOREIGN_LINES_MAX + 2
