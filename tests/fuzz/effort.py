"""How hard a claim is tried: two hypothesis profiles, chosen by the environment variable RAFTCOORD_FUZZ.

suite     few examples, the same ones every time, so that a change is what makes a test fail
nightly   many, from a fresh seed; a failure prints the line that brings it back (@reproduce_failure)
"""

from __future__ import annotations

import os
from typing import Final

from hypothesis import HealthCheck, settings

_SLOW: Final = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
_COMMON: Final = settings(deadline=None, database=None, suppress_health_check=_SLOW)

settings.register_profile("suite", _COMMON, derandomize=True)
settings.register_profile("nightly", _COMMON, print_blob=True)

PROFILE: Final = os.environ.get("RAFTCOORD_FUZZ") or "suite"
_TIMES: Final = {"suite": 1, "nightly": 40}[PROFILE]


def examples(count: int) -> settings:
    """The chosen profile with ``count`` examples in the suite, and forty times as many at night."""
    return settings(settings.get_profile(PROFILE), max_examples=count * _TIMES)
