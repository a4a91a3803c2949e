import os
from collections.abc import Callable
from functools import wraps
from typing import Any

from flask import Flask, Response, abort, g, make_response, request
from model import Address, User
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

import raftcoord
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
def nothing_has_happened(error: Exception) -> tuple[dict[str, str], int, dict[str, str]]:
    return {"error": str(error)}, 503, {"Retry-After": "1"}


@app.errorhandler(raftcoord.InDoubt)
def ask_later(error: raftcoord.InDoubt) -> tuple[dict[str, str], int, dict[str, str]]:
    return {"txid": str(error.txid)}, 202, {"Location": f"/transactions/{error.txid}"}


@app.get("/transactions/<txid>")
def outcome(txid: str) -> dict[str, str]:
    try:
        answer = client.status(txid)
    except raftcoord.LocalProtocolError:
        abort(404)
    return {"txid": txid, "state": str(answer.state)}
