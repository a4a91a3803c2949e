import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from model import Address, User
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

import raftcoord
from raftcoord.integrations.http import answer
from raftcoord.integrations.sqlalchemy import AsyncSession, attach


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    ledger = attach(create_async_engine(os.environ["LEDGER_URL"]), "ledger")
    orders = attach(create_async_engine(os.environ["ORDERS_URL"]), "orders")
    binds = {User: ledger, Address: orders}
    async with raftcoord.AsyncClient.from_config("cluster.yaml") as client:
        app.state.client = client
        app.state.sessions = async_sessionmaker(class_=AsyncSession, client=client, timeout=10, binds=binds)
        yield
    await ledger.dispose()
    await orders.dispose()


app = FastAPI(lifespan=lifespan)


async def transaction(request: Request) -> AsyncIterator[AsyncSession]:
    async with request.app.state.sessions.begin() as session:
        yield session


# scope="function": it is committed when the function below has returned, and before its response is sent
Transaction = Annotated[AsyncSession, Depends(transaction, scope="function")]


@app.post("/users", status_code=201)
async def sign_up(name: str, email: str, session: Transaction) -> dict[str, int]:
    user = User(name=name, addresses=[Address(email_address=email)])
    session.add(user)
    await session.flush()
    return {"id": user.id}


@app.exception_handler(raftcoord.Aborted)
@app.exception_handler(raftcoord.Unavailable)
@app.exception_handler(raftcoord.Overloaded)
@app.exception_handler(raftcoord.InDoubt)
async def not_committed(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse(*answer(error, ask="/transactions/"))


@app.get("/transactions/{txid}")
async def outcome(txid: str, request: Request) -> dict[str, str]:
    try:
        answer = await request.app.state.client.status(txid)
    except raftcoord.LocalProtocolError:
        raise HTTPException(404) from None
    return {"txid": txid, "state": str(answer.state)}
