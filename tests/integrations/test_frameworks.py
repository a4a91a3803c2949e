"""docs/frameworks.md is true: each of its examples is run as it stands, in a program of its own, and says what stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftcoord import Client
from raftcoord.config import Config
from raftcoord.processes.database_servers import DatabaseServer

from .world import TESTS, Banks

DOCS = (TESTS.parent / "docs" / "frameworks.md").read_text()
EXAMPLES = dict(re.findall(r"^```python (\w+)\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL))

DJANGO_MODELS = """
import os
from django.conf import settings
import django
from integrations.django_site import choose_drivers
from shop.settings import DATABASES
settings.configure(DATABASES=DATABASES, ROOT_URLCONF="shop.urls", ALLOWED_HOSTS=["*"], SECRET_KEY="s")
choose_drivers()
django.setup()
from django.db import models

class Account(models.Model):
    name = models.CharField(max_length=20, primary_key=True)
    amount = models.BigIntegerField()
    class Meta:
        app_label, db_table = "shop", "accounts"

class Order(models.Model):
    customer = models.CharField(max_length=20)
    amount = models.BigIntegerField()
    class Meta:
        app_label, db_table = "shop", "orders"
"""
SQLALCHEMY_MODELS = """
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

class Base(DeclarativeBase):
    pass

class Account(Base):
    __tablename__ = "accounts"
    name: Mapped[str] = mapped_column(primary_key=True)
    amount: Mapped[int]

class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]
    amount: Mapped[int]
"""
SQLALCHEMY_SETTINGS = """
LEDGER = "postgresql+psycopg://postgres@127.0.0.1:{pg.server.port}/{pg.database}"
ORDERS = "mysql+pymysql://root@127.0.0.1:{my.server.port}/{my.database}"
"""
SETTINGS = {
    "django": """
DATABASES = {{
    "default": {{"ENGINE": "django.db.backends.postgresql", "NAME": "{pg.database}", "USER": "postgres", "HOST": "127.0.0.1",
                 "PORT": {pg.server.port}}},
    "orders": {{"ENGINE": "django.db.backends.mysql", "NAME": "{my.database}", "USER": "root", "HOST": "127.0.0.1",
                "PORT": {my.server.port}}},
}}
""",
    "fastapi": SQLALCHEMY_SETTINGS,
    "flask": SQLALCHEMY_SETTINGS,
    "zope": """
LEDGER = "{pg.url}"
ORDERS = dict(host="127.0.0.1", port={my.server.port}, user="root", database="{my.database}")
""",
}
ABORTING = """
import os
from raftcoord import Client
decide = Client.decide
def resolved_before(client, txid, *args, **kwargs):
    client.resolve(txid)
    return decide(client, txid, *args, **kwargs)
if os.environ["FATE"] == "ABORT":
    Client.decide = resolved_before
"""
VISITS = {
    "django": """
import shop.models, example
from django.test import Client
from django.urls import path
from shop import urls
urls.urlpatterns = [path("buy", example.buy), path("refund", example.refund)]
browser = Client(raise_request_exception=False)
url = "/refund" if os.environ["FATE"] == "ABORT" else "/buy"
answer = browser.get(url)
print(answer.status_code, answer.content.decode())
example.coordinator().close()
""",
    "fastapi": """
import example
from fastapi.testclient import TestClient
with TestClient(example.app, raise_server_exceptions=False) as browser:
    answer = browser.post("/buy")
    print(answer.status_code, answer.text)
""",
    "flask": """
import example
answer = example.app.test_client().post("/buy")
print(answer.status_code, answer.text)
""",
    "zope": """
from raftcoord import Aborted
try:
    import example
    print(200, "bought")
except Aborted as error:
    print(503, error)
""",
}


@pytest.fixture(scope="module")
def the_banks(postgresql: DatabaseServer, mariadb: DatabaseServer, config: Config) -> Iterator[Banks]:
    made = Banks(postgresql, mariadb, config)
    made.orders.sql(
        "CREATE TABLE orders (id INT AUTO_INCREMENT PRIMARY KEY, customer VARCHAR(20) NOT NULL, amount BIGINT NOT NULL)"
    )
    yield made
    made.close()


@pytest.fixture
def banks(the_banks: Banks) -> Banks:
    the_banks.reset()
    the_banks.orders.sql("DELETE FROM orders")
    return the_banks


def visit(banks: Banks, directory: Path, framework: str, fate: str) -> str:
    """What a visitor of the example is told; its cluster.yaml is the one of the tests."""
    shop = directory / "shop"
    shop.mkdir()
    models = DJANGO_MODELS if framework == "django" else SQLALCHEMY_MODELS
    files = {
        "__init__": "",
        "settings": SETTINGS[framework].format(pg=banks.ledger, my=banks.orders),
        "models": "" if framework == "zope" else models,
        "receipts": "def send_receipt(name): print('receipt for', name)",
        "urls": "urlpatterns = []",
    }
    for name, text in files.items():
        (shop / f"{name}.py").write_text(text)
    (directory / "example.py").write_text(EXAMPLES[framework])
    (directory / "visit.py").write_text(ABORTING + VISITS[framework])
    assert banks.config.path is not None
    (directory / "cluster.yaml").symlink_to(banks.config.path)
    done = subprocess.run(
        [sys.executable, "visit.py"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}", "FATE": fate},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def orders(banks: Banks) -> list[tuple[object, ...]]:
    return banks.orders.sql("SELECT customer, amount FROM orders")


def test_every_block_of_the_docs_is_an_example_that_is_run() -> None:
    assert list(EXAMPLES) == list(VISITS)
    assert DOCS.count("```python") == len(EXAMPLES)


@pytest.mark.parametrize("framework", EXAMPLES)
def test_the_example_of_the_docs_runs_as_written(banks: Banks, client: Client, tmp_path: Path, framework: str) -> None:
    told = visit(banks, tmp_path, framework, "COMMIT")
    receipt = "receipt for alice\n" if framework == "django" else ""
    assert told.replace('"', "") == f"{receipt}200 bought\n"
    assert (banks.ledger.balance(), orders(banks)) == (90, [("alice", 10)])
    assert not banks.prepared(client)


@pytest.mark.parametrize("framework", EXAMPLES)
def test_a_response_tells_what_stands(banks: Banks, client: Client, tmp_path: Path, framework: str) -> None:
    told = visit(banks, tmp_path, framework, "ABORT")
    assert re.search(r"^503 .*transaction [0-9a-f-]+ was aborted", told), told
    assert (banks.ledger.balance(), orders(banks)) == (100, [])
    assert not banks.prepared(client)
