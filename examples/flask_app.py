"""A Flask application whose visitors become contacts. Needs kinfold and flask.

kinfold up --detach
KINFOLD_REDIS_URL=… python examples/flask_app.py        # `kinfold up` prints the URL; then open http://localhost:8080
"""

import os

from flask import Flask, jsonify, redirect, request
from werkzeug.wrappers import Response

import kinfold
from kinfold.wsgi import VisitorMiddleware, identify, reset, visitor_id

visitors = kinfold.Producer(
    os.environ.get("KINFOLD_REDIS_URL", "redis://localhost:6379/0"),
    workspace=os.environ.get("KINFOLD_WORKSPACE", "default"),
)

app = Flask(__name__)
secret = os.environ.get("APP_SECRET", "only for this example")
app.wsgi_app = VisitorMiddleware(app.wsgi_app, producer=visitors, secret=secret)  # type: ignore[method-assign]


@app.get("/")
def home() -> str:
    """A page, whose view is published."""
    return "<h1>Hello</h1><a href='/log-in/u-1'>log in as u-1</a> <a href='/log-out'>log out</a>"


@app.get("/log-in/<user>")
def log_in(user: str) -> Response:
    """Identify the visitor after a log-in."""
    identify(request, external_id=user, email=f"{user}@example.org", metadata={"plan": "pro"})
    return redirect("/", 303)


@app.get("/log-out")
def log_out() -> Response:
    """Forget the visitor: the next user of this browser is another one."""
    response = redirect("/", 303)
    reset(response)
    return response


@app.get("/me")
def me() -> Response:
    """Data, not a page: no page view."""
    return jsonify({"visitor": visitor_id(request)})


if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "8080")))
