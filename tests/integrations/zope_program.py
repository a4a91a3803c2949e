"""A payment under ``transaction.manager`` that stops before a move.

``python zope_program.py CLUSTER_YAML PG_URL MY_PORT MY_DATABASE STOP``.
"""

from __future__ import annotations

import sys

import psycopg
import pymysql
import transaction

from raftcoord import Client
from raftcoord.integrations.zope import join


def main(config: str, pg_url: str, my_port: str, my_database: str, stop: str) -> None:
    from integrations.stopping import stop_before

    stop_before(stop)
    pg = psycopg.connect(pg_url)
    my = pymysql.connect(host="127.0.0.1", port=int(my_port), user="root", database=my_database)
    with Client.from_config(config) as client, transaction.manager:
        branches = join(client, timeout=60)
        branches.enlist(pg, "ledger").execute("UPDATE accounts SET amount = amount - 10 WHERE name = 'alice'")
        branches.enlist(my, "orders").cursor().execute("UPDATE accounts SET amount = amount + 10 WHERE name = 'alice'")


if __name__ == "__main__":
    main(*sys.argv[1:])
