"""A support inbox in one file: threads follow the person, and the agent sees who is writing, live.

The messages are in SQLite under the visitor who wrote them, and stay there. Who a visitor is may change at any time, by a
log-in or a merge. kinfold knows who it is, and its feed reports every change. README.md has the commands that start it.
"""

import asyncio
import os
import re
import secrets
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import uvicorn
from fastapi import Cookie, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse
from fastapi.sse import EventSourceResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field

import kinfold
from kinfold_schemas.changes import Change, ContactErased, ContactGone, ContactsMerged

GATEWAY = os.environ.get("GATEWAY", "http://127.0.0.1:8000")
SECRET_KEY = os.environ["SECRET_KEY"]  # of this server alone
PUBLISHABLE_KEY = os.environ["PUBLISHABLE_KEY"]  # in the source of the page, for everybody to read
IDENTITY_SECRET = os.environ["IDENTITY_SECRET"]
HERE = Path(__file__).parent

Json = dict[str, Any]
T = TypeVar("T")
VisitorId = Annotated[str, Query(pattern=r"^v_[\w-]{22}$")]
"""The id that kinfold.js has made. It is a secret of the browser, and proves that a page is this visitor's."""


# --- Your users and their sessions, in place of your database
class User(BaseModel):
    id: str
    email: str
    name: str
    plan: str = "free"


ADA = User(id="u-1", email="ada@example.org", name="Ada Lovelace")
LIN = User(id="u-2", email="lin@example.org", name="Lin Yutang")
USERS = {"ada": ADA, "lin": LIN}
sessions: dict[str, User] = {}


def signed_in(session: Annotated[str, Cookie()] = "") -> User | None:
    return sessions.get(session)


SignedIn = Annotated[User | None, Depends(signed_in)]


def for_page(user: User | None, visitor: str) -> Json | None:
    """What the page passes to IdentifyVisitor. The token proves that this visitor, and no other, is the user."""
    if user is None:
        return None
    token = kinfold.sign(IDENTITY_SECRET, external_id=user.id, email=user.email, visitor_id=visitor)
    return {"externalId": user.id, "email": user.email, "name": user.name, "token": token}


# --- Messages, and the devices from which they come
database = sqlite3.connect(os.environ.get("DATABASE", HERE / "inbox.db"), isolation_level=None)
database.row_factory = sqlite3.Row
database.executescript("""
    CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY, visitor TEXT, is_agent INTEGER, text TEXT);
    CREATE TABLE IF NOT EXISTS devices (visitor TEXT PRIMARY KEY, device TEXT);
""")


def add_message(visitor: str, text: str, *, is_agent: bool) -> None:
    database.execute("INSERT INTO messages (visitor, is_agent, text) VALUES (?, ?, ?)", (visitor, is_agent, text))
    ring()


def rows(sql: str, visitors: list[str]) -> list[Json]:
    found = database.execute(sql.replace("THESE", ",".join("?" * len(visitors))), visitors)
    return [dict(row) for row in found]


def messages_of(visitors: list[str]) -> list[Json]:
    """What these visitors and the agents have written to each other. It contains no visitor id, since that is a secret."""
    found = "SELECT id, is_agent, text, device FROM messages LEFT JOIN devices USING (visitor) WHERE visitor IN (THESE)"
    return rows(f"{found} ORDER BY id", visitors)


# --- Who is who, from the feed
contacts: dict[str, kinfold.Contact] = {}
contact_ids: dict[str, str] = {}
"""Which contact a visitor is."""


def learn(change: Change) -> None:
    """Take in a change. It has the whole contact as it is then, even after a link, a move or a merge."""
    if isinstance(change, ContactGone | ContactErased):
        contacts.pop(change.contact_id, None)
        return
    if isinstance(change, ContactsMerged):
        contacts.pop(change.merged_contact_id, None)
    contacts[change.contact_id] = change.contact
    contact_ids.update(dict.fromkeys(change.contact.visitor_ids, change.contact_id))


async def follow() -> None:
    """Follow the feed for ever, beginning with all contacts. If yours do not fit into memory, ask `kinfold.AsyncContacts`."""
    async with kinfold.Feed(GATEWAY, key=SECRET_KEY).follow(snapshot=True, on_reset=contacts.clear) as changes:
        async for change in changes:
            learn(change)
            ring()


def person(visitor: str) -> tuple[kinfold.Contact | None, list[str]]:
    """The contact that a visitor is, and all visitors who are this contact: the person's devices."""
    contact = contacts.get(contact_ids.get(visitor, ""))
    return contact, contact.visitor_ids if contact else [visitor]


def is_own(visitor: str, user: User | None) -> bool:
    """Whether a page may read and write as this visitor: a known person's page only while this person is logged in."""
    contact, _ = person(visitor)
    return contact is None or contact.external_id is None or (user is not None and contact.external_id == user.id)


def only_own(visitor: VisitorId, user: SignedIn) -> None:
    if not is_own(visitor, user):
        raise HTTPException(409, "the visitor is another user: call reset()")


OwnOnly = [Depends(only_own)]


def inbox() -> list[Json]:
    """One thread for each person, the latest first."""
    threads: dict[str, Json] = {}
    for (visitor,) in database.execute("SELECT visitor FROM messages GROUP BY visitor ORDER BY max(id) DESC"):
        contact, visitors = person(visitor)
        if (name := contact.id if contact else visitor) not in threads:
            who = contact and {"name": contact.name, "email": contact.email, "plan": contact.metadata.get("plan")}
            devices = rows("SELECT DISTINCT device FROM devices WHERE visitor IN (THESE) ORDER BY device", visitors)
            threads[name] = {"person": who, "devices": devices, "messages": messages_of(visitors)}
    return list(threads.values())


# --- Live pages: each is told everything again when anything has changed for it
bells = set[asyncio.Event]()


def ring() -> None:
    for bell in bells:
        bell.set()


async def live(read: Callable[[], T]) -> AsyncIterator[T]:
    bell, told = asyncio.Event(), object()
    bells.add(bell)
    try:
        while True:
            bell.clear()
            if (now := read()) != told:
                told = now
                yield now
            await bell.wait()
    finally:
        bells.discard(bell)


# --- The customer's page
@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    following = asyncio.create_task(follow())
    yield
    following.cancel()
    backend.close(timeout_s=5)


app = FastAPI(lifespan=lifespan)
app.mount("/dist", StaticFiles(directory=HERE / "dist"))
backend = kinfold.Producer(GATEWAY, key=SECRET_KEY)


class Message(BaseModel):
    text: str = Field(min_length=1, max_length=2000)


def page(name: str) -> HTMLResponse:
    return HTMLResponse((HERE / "page.html").read_text().format(name=name, gateway=GATEWAY, key=PUBLISHABLE_KEY))


@app.get("/")
async def customer() -> HTMLResponse:
    return page("customer")


@app.get("/me", dependencies=OwnOnly)
async def me(visitor: VisitorId, user: SignedIn) -> Json | None:
    return for_page(user, visitor)


@app.post("/log-in/{name}")
async def log_in(name: str, visitor: VisitorId, response: Response) -> Json | None:
    """Log in, without a password in this example. The plan comes from here, because a page could claim any."""
    user, session = USERS[name], secrets.token_urlsafe()
    sessions[session] = user
    response.set_cookie("session", session, httponly=True, samesite="lax")
    backend.identify(external_id=user.id, email=user.email, name=user.name, metadata={"plan": user.plan})
    return for_page(user, visitor)


@app.post("/log-out")
async def log_out(response: Response, session: Annotated[str, Cookie()] = "") -> None:
    sessions.pop(session, None)
    response.delete_cookie("session")
    ring()  # for the other tabs


@app.post("/upgrade")
async def upgrade(user: SignedIn) -> None:
    if user is None:
        raise HTTPException(401)
    user.plan = "pro"
    backend.set_metadata(external_id=user.id, metadata={"plan": user.plan})


@app.post("/messages", dependencies=OwnOnly)
async def write(visitor: VisitorId, message: Message) -> None:
    add_message(visitor, message.text, is_agent=False)


@app.get("/thread", response_class=EventSourceResponse)
async def thread(
    visitor: VisitorId, request: Request, session: Annotated[str, Cookie()] = ""
) -> AsyncIterable[list[Json] | None]:
    """Send the messages. Null: they are not this user's, for example after a log-out in another tab."""
    agent = request.headers.get("User-Agent", "")
    device = next(iter(re.findall("iPhone|iPad|Android|Windows|Mac|Linux", agent)), "a device")
    database.execute("REPLACE INTO devices VALUES (?, ?)", (visitor, device))

    def read() -> list[Json] | None:
        return messages_of(person(visitor)[1]) if is_own(visitor, signed_in(session)) else None

    async for messages in live(read):
        yield messages


# --- The agent's page. Put your own log-in before it: everybody who can open it is an agent.
@app.get("/agent")
async def agent() -> HTMLResponse:
    return page("agent")


@app.get("/agent/inbox", response_class=EventSourceResponse)
async def agent_inbox() -> AsyncIterable[list[Json]]:
    async for threads in live(inbox):
        yield threads


@app.post("/agent/reply/{message_id}")
async def reply(message_id: int, message: Message) -> None:
    """Answer a message. The agent's page needs no visitor id for that."""
    (visitor,) = database.execute("SELECT visitor FROM messages WHERE id = ?", (message_id,)).fetchone()
    add_message(visitor, message.text, is_agent=True)


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8080")), timeout_graceful_shutdown=1)
