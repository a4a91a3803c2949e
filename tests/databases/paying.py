"""A program without any help: raw psycopg and PyMySQL, and ``decide``. It stops where it is told and waits to be killed.

``python paying.py CLUSTER_YAML PG_URL MY_PORT MY_DATABASE TXID STOP``, and STOP is one of STOPS.
"""

from __future__ import annotations

import sys
import time

import psycopg
import pymysql

from raftcoord import COMMIT, Client, TxId
from raftcoord.databases import gid as gids

STOPS = ("between prepares", "before decision", "after decision", "between commits", "before complete")
BRANCHES = ("ledger", "orders")


def main(config: str, pg_url: str, my_port: str, my_database: str, txid_hex: str, stop: str) -> None:
    def reach(point: str) -> None:
        if point == stop:
            print("there", flush=True)
            time.sleep(60)

    with Client.from_config(config) as client:
        txid = TxId.parse(txid_hex)
        ledger, orders = (gids.make(client.node_info()["cluster"], txid, branch) for branch in BRANCHES)
        pg = psycopg.connect(pg_url, autocommit=True)
        my = pymysql.connect(host="127.0.0.1", port=int(my_port), user="root", database=my_database)
        cursor = my.cursor()
        pg.execute("BEGIN")
        pg.execute("UPDATE accounts SET amount = amount - 10 WHERE name = 'alice'")
        pg.execute(f"INSERT INTO raftcoord.marks (gid) VALUES ('{ledger}')")  # type: ignore[arg-type]
        pg.execute(f"PREPARE TRANSACTION '{ledger}'")  # type: ignore[arg-type]
        reach("between prepares")
        cursor.execute(f"XA START {orders.xid}")
        cursor.execute("UPDATE accounts SET amount = amount + 10 WHERE name = 'alice'")
        cursor.execute(f"INSERT INTO raftcoord_marks (gid) VALUES ('{orders}')")
        cursor.execute(f"XA END {orders.xid}")
        cursor.execute(f"XA PREPARE {orders.xid}")
        reach("before decision")
        assert client.decide(txid, COMMIT, BRANCHES).committed
        reach("after decision")
        pg.execute(f"COMMIT PREPARED '{ledger}'")  # type: ignore[arg-type]
        reach("between commits")
        cursor.execute(f"XA COMMIT {orders.xid}")
        reach("before complete")
        client.complete(txid, BRANCHES)


if __name__ == "__main__":
    main(*sys.argv[1:])
