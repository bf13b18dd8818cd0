"""A FastAPI application whose visitors become contacts. Needs kinfold, fastapi and uvicorn.

kinfold up --detach
KINFOLD_REDIS_URL=… python examples/fastapi_app.py      # `kinfold up` prints the URL; then open http://localhost:8080
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

import kinfold
from kinfold.asgi import VisitorMiddleware, identify, reset, visitor_id

visitors = kinfold.Producer(
    os.environ.get("KINFOLD_REDIS_URL", "redis://localhost:6379/0"),
    workspace=os.environ.get("KINFOLD_WORKSPACE", "default"),
)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Send the rest when the server stops."""
    yield
    visitors.close(timeout_s=5)


app = FastAPI(lifespan=lifespan)
app.add_middleware(VisitorMiddleware, producer=visitors, secret=os.environ.get("APP_SECRET", "only for this example"))


@app.get("/")
async def home() -> HTMLResponse:
    """A page, whose view is published."""
    return HTMLResponse("<h1>Hello</h1><a href='/log-in/u-1'>log in as u-1</a> <a href='/log-out'>log out</a>")


@app.get("/log-in/{user}")
async def log_in(request: Request, user: str) -> Response:
    """Identify the visitor after a log-in."""
    identify(request, external_id=user, email=f"{user}@example.org", metadata={"plan": "pro"})
    return RedirectResponse("/", status_code=303)


@app.get("/log-out")
def log_out() -> Response:
    """Forget the visitor: the next user of this browser is another one."""
    response = RedirectResponse("/", status_code=303)
    reset(response)
    return response


@app.get("/me")
async def me(request: Request) -> JSONResponse:
    """Data, not a page: no page view."""
    return JSONResponse({"visitor": visitor_id(request)})


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app, port=int(os.environ.get("PORT", "8080")))
