import os
from collections.abc import Callable
from functools import wraps
from typing import Any

from flask import Flask, Response, abort, g, make_response, request
from model import Address, User
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

import raftcoord
from raftcoord.integrations.http import answer
from raftcoord.integrations.sqlalchemy import Session, attach

ledger = attach(create_engine(os.environ["LEDGER_URL"]), "ledger")
orders = attach(create_engine(os.environ["ORDERS_URL"]), "orders")
client = raftcoord.Client.from_config("cluster.yaml")
sessions = sessionmaker(class_=Session, client=client, timeout=10, binds={User: ledger, Address: orders})

app = Flask(__name__)


def transactional(view: Callable[..., Any]) -> Callable[..., Response]:
    """Commits when the view has returned, where an error still becomes the response. In a teardown it would be too late."""

    @wraps(view)
    def run(*args: Any, **kwargs: Any) -> Response:
        with sessions.begin() as g.session:
            return make_response(view(*args, **kwargs))

    return run


@app.post("/users")
@transactional
def sign_up() -> tuple[dict[str, int], int]:
    user = User(name=request.form["name"], addresses=[Address(email_address=request.form["email"])])
    g.session.add(user)
    g.session.flush()
    return {"id": user.id}, 201


@app.errorhandler(raftcoord.Aborted)
@app.errorhandler(raftcoord.Unavailable)
@app.errorhandler(raftcoord.Overloaded)
@app.errorhandler(raftcoord.InDoubt)
def not_committed(error: Exception) -> tuple[dict[str, str], int, dict[str, str]]:
    return answer(error, ask="/transactions/")


@app.get("/transactions/<txid>")
def outcome(txid: str) -> dict[str, str]:
    try:
        answer = client.status(txid)
    except raftcoord.LocalProtocolError:
        abort(404)
    return {"txid": txid, "state": str(answer.state)}
