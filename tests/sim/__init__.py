"""Tests of the simulator. Its plants are those of the consensus tests and more: that directory is on the path from here on."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "consensus"))
