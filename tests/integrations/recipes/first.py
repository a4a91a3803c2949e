import os

from model import Address, User
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

import raftcoord
from raftcoord.integrations.sqlalchemy import Session, attach

ledger = attach(create_engine(os.environ["LEDGER_URL"]), "ledger")
orders = attach(create_engine(os.environ["ORDERS_URL"]), "orders")
client = raftcoord.Client.from_config("cluster.yaml")
sessions = sessionmaker(class_=Session, client=client, timeout=10, binds={User: ledger, Address: orders})

with sessions.begin() as session:
    session.add(User(name="spongebob", addresses=[Address(email_address="s@example.org")]))
print(session.txid, session.outcome)
