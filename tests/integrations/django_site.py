"""A Django project of one table on two databases, without files; and, as a program, a payment that stops before a move.

``python django_site.py CLUSTER_YAML PG_URL MY_PORT MY_DATABASE STOP DRIVERS SQLITE``; DRIVERS as ``psycopg2,pymysql``, or ""
for what Django takes by itself; SQLITE is the file that is paid in place of MariaDB, or "".
"""

from __future__ import annotations

import sys
from typing import Any
from urllib.parse import urlsplit

from raftcoord import Client


def choose_drivers(wanted: str = "") -> None:
    """Let Django find those; PyMySQL stands for mysqlclient where that is wanted or not installed."""
    if "psycopg2" in wanted:
        sys.modules["psycopg"] = None  # type: ignore[assignment]
    try:
        if "pymysql" in wanted:
            raise ImportError
        import MySQLdb  # type: ignore[import-untyped, unused-ignore]  # noqa: F401
    except ImportError:
        import pymysql

        pymysql.install_as_MySQLdb()
        import django.db.backends.mysql.base  # noqa: F401

        for name in ("MySQLdb", "_mysql"):  # Django has it; nobody else is to take it for mysqlclient
            sys.modules.pop(name, None)
        for name, module in list(
            sys.modules.items()
        ):  # importing MySQLdb.err has put a second copy into pymysql's place
            if name.startswith("pymysql.") and name.count(".") == 1:
                setattr(pymysql, name.partition(".")[2], module)


def configure(pg_url: str, my_port: str | int, my_database: str, sqlite: str = "", drivers: str = "") -> type[Any]:
    """Set Django up, once per process; the model of the table ``accounts``."""
    import django
    from django.conf import settings

    url = urlsplit(pg_url)
    postgresql = {"NAME": url.path[1:], "USER": url.username, "HOST": url.hostname, "PORT": url.port}
    mysql = {"NAME": my_database, "USER": "root", "HOST": "127.0.0.1", "PORT": my_port}
    databases: dict[str, dict[str, Any]] = {
        "default": {"ENGINE": "django.db.backends.postgresql", **postgresql},
        "orders_db": {"ENGINE": "django.db.backends.mysql", **mysql},
    }
    if sqlite:
        databases["cache_db"] = {"ENGINE": "django.db.backends.sqlite3", "NAME": sqlite}
    settings.configure(DATABASES=databases, ALLOWED_HOSTS=["*"], USE_TZ=True, SECRET_KEY="s", ROOT_URLCONF=__name__)
    choose_drivers(drivers)
    django.setup()
    return model()


def model() -> type[Any]:
    """One table, as the banks have made it."""
    from django.db import models

    class Account(models.Model):
        name = models.CharField(max_length=20, primary_key=True)
        amount = models.BigIntegerField()

        class Meta:
            app_label = "shop"
            db_table = "accounts"
            managed = False

    return Account


urlpatterns: list[Any] = []


def main(config: str, pg_url: str, my_port: str, my_database: str, stop: str, drivers: str, sqlite: str) -> None:
    from integrations.stopping import stop_before

    account = configure(pg_url, my_port, my_database, sqlite, drivers)
    second = {"cache_db": "cache"} if sqlite else {"orders_db": "orders"}
    from django.db.models import F

    from raftcoord.integrations.django import atomic

    stop_before(stop)
    with Client.from_config(config) as client, atomic(client, {"default": "ledger", **second}, timeout=60):
        account.objects.filter(name="alice").update(amount=F("amount") - 10)
        account.objects.using(*second).filter(name="alice").update(amount=F("amount") + 10)


if __name__ == "__main__":
    main(*sys.argv[1:])
