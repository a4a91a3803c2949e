"""The recipes of docs/sqlalchemy.md, run as they stand there."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from raftcoord.config import Config

from .shop import Shop, url

RECIPES = Path(__file__).parent / "recipes"
DOCS = Path(__file__).parents[2] / "docs" / "sqlalchemy.md"


def shown(name: str) -> None:
    """The docs show recipes/``name``.py word for word."""
    blocks = re.findall(r"^```python\n(.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    assert (RECIPES / f"{name}.py").read_text() in blocks


def run(name: str, patch: pytest.MonkeyPatch, config: Config, shop: Shop, drivers: tuple[str, str]) -> Any:
    """The recipe as a module, with its environment, where cluster.yaml lies."""
    assert config.path is not None
    patch.chdir(config.path.parent)
    patch.syspath_prepend(str(RECIPES))
    for variable, bank, driver in zip(("LEDGER_URL", "ORDERS_URL"), shop.all(), drivers, strict=False):
        patch.setenv(variable, url(bank, driver))
    for module in (name, "model"):
        patch.delitem(sys.modules, module, raising=False)
    return importlib.import_module(name)
