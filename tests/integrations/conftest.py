"""The servers, the node and the client are those of tests/resources."""

from __future__ import annotations

from resources.conftest import client, config, mariadb, postgresql, pytest_pyfunc_call

__all__ = ["client", "config", "mariadb", "postgresql", "pytest_pyfunc_call"]
