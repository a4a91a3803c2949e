"""A program to kill: it signs one user up, with an address, over two engines, stops at a point, says so, and waits.

``python signing_up.py CLUSTER_YAML PG_URL MY_PORT MY_DATABASE plain|ours STOP``. ``plain`` is SQLAlchemy's Session(twophase=True)
as it comes, and STOP one of PLAIN_STOPS; ``ours`` is raftcoord's, and STOP one of stopping.STOPS, or "flush" or "end".
"""

from __future__ import annotations

import sys
import time
from typing import Any

from sqlalchemy import create_engine, event
from sqlalchemy import orm as sa_orm
from sqlalchemy.orm import sessionmaker

from integrations.recipes.model import Address, User
from integrations.shop import spongebob
from integrations.stopping import STOPS, stop_before
from raftcoord import Client, TxId
from raftcoord.integrations.sqlalchemy import Session, attach

PLAIN_STOPS = ("flush", "first prepare", "second prepare", "first commit", "second commit", "end")
"""Each is just before that step; "end" is behind the last."""


def there(txid: TxId) -> None:
    print("there", txid.hex(), flush=True)
    time.sleep(600)


def plain(engines: tuple[Any, Any], stop: str) -> None:
    steps = iter(PLAIN_STOPS[1:])

    def reach(*_: object) -> None:
        if next(steps) == stop:
            there(TxId.new())

    for engine in engines:
        event.listen(engine, "prepare_twophase", reach)
        event.listen(engine, "commit_twophase", reach)
    with sa_orm.Session(twophase=True, binds={User: engines[0], Address: engines[1]}) as session:
        session.add(spongebob())
        session.flush()
        if stop == "flush":
            there(TxId.new())
        session.commit()
    reach()


def ours(engines: tuple[Any, Any], client: Client, stop: str) -> None:
    binds = {User: attach(engines[0], "ledger"), Address: attach(engines[1], "orders")}
    make: Any = sessionmaker(class_=Session, client=client, timeout=60, binds=binds)
    if stop in STOPS:
        stop_before(stop)
    with make() as session:
        session.add(spongebob())
        session.flush()
        if stop == "flush":
            there(session.txid)
        session.commit()
        there(session.txid)


def main(config: str, pg_url: str, my_port: str, my_database: str, kind: str, stop: str) -> None:
    engines = (
        create_engine(pg_url.replace("postgresql://", "postgresql+psycopg://")),
        create_engine(f"mysql+pymysql://root@127.0.0.1:{my_port}/{my_database}"),
    )
    if kind == "plain":
        plain(engines, stop)
    else:
        with Client.from_config(config) as client:
            ours(engines, client, stop)


if __name__ == "__main__":
    main(*sys.argv[1:])
