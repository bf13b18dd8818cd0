"""The example applications, run as their first lines say, with the real frameworks, over HTTP."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from redis import Redis

import kinfold
from tests.support.engines import free_port
from tests.support.logs import Log
from tests.support.waiting import wait_until_sync

EXAMPLES: Final = Path(__file__).parents[2] / "examples"
BROWSER: Final = {"User-Agent": "Mozilla/5.0", "Accept-Language": "de-AT,de;q=0.9", "Sec-Fetch-Dest": "document"}


class Browser:
    """A browser that keeps cookies."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.cookies: dict[str, str] = {}
        self.set_cookie = ""

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        """Request a page."""
        connection = http.client.HTTPConnection("localhost", self.port, timeout=200)
        cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        sent = {**BROWSER, **({"Cookie": cookie} if cookie else {}), **headers}
        connection.request("GET", path, headers=sent)
        response = connection.getresponse()
        body = response.read()
        self.set_cookie = response.getheader("Set-Cookie", "")
        if match := re.match(r"(kinfold_visitor)=([^;]*)", self.set_cookie):
            if match[2].strip('"'):
                self.cookies[match[1]] = match[2]
            else:
                self.cookies.pop(match[1], None)
        connection.close()
        return response.status, body

    @property
    def visitor(self) -> str | None:
        """The visitor id in the browser's cookie."""
        cookie = self.cookies.get("kinfold_visitor")
        return None if cookie is None else cookie.strip('"').partition(".")[0]


@pytest.fixture(params=["fastapi", "flask", "django"])
def port(request: pytest.FixtureRequest, folding_url: str, workspace: str, tmp_path: Path) -> Iterator[int]:
    """Give the port of the running example."""
    port = free_port()
    environment = {
        **os.environ,
        "KINFOLD_REDIS_URL": folding_url,
        "KINFOLD_WORKSPACE": workspace,
        "PORT": str(port),
    }
    log = tmp_path / "app.log"
    with log.open("wb") as output:
        app = subprocess.Popen(
            [sys.executable, str(EXAMPLES / f"{request.param}_app.py")], env=environment, stdout=output, stderr=output
        )

    def listens() -> bool:
        assert app.poll() is None, log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until_sync(listens)
    yield port
    app.send_signal(signal.SIGINT)
    app.wait(60)


@pytest.mark.slow
def test_visitor_becomes_a_contact_and_the_next_user_is_another_visitor(
    port: int, folding_url: str, client: Redis, workspace: str
):
    """The visitor views a page, logs in, views another and logs out. The next user of the browser is unknown."""
    browser = Browser(port)
    assert browser.get("/")[0] == 200
    for attribute in ("HttpOnly", "Secure", "SameSite=Lax", "Path=/", "Max-Age=34560000"):
        assert attribute.lower() in browser.set_cookie.lower()
    ada = browser.visitor
    assert ada
    assert browser.get("/log-in/u-1")[0] in {302, 303}
    logged_in = browser.visitor
    assert logged_in
    assert logged_in != ada
    browser.get("/")
    assert browser.visitor == logged_in
    assert not browser.set_cookie
    assert logged_in.encode() in browser.get("/me")[1]

    browser.get("/log-out")
    assert "httponly" in browser.set_cookie.lower()
    stranger = browser.visitor
    assert stranger
    assert stranger not in {ada, logged_in}
    browser.get("/?token=secret")
    assert browser.visitor == stranger

    wait_until_sync(lambda: len(Log(client, workspace).events) >= 5)
    log = Log(client, workspace)
    assert [(event["type"], event["visitorId"]) for event in log.events] == [
        ("VisitorSeen", ada),
        ("VisitorIdentified", ada),
        ("VisitorIdentified", logged_in),
        ("VisitorSeen", logged_in),
        ("VisitorSeen", stranger),
    ]
    assert log.events[0]["context"] == {"url": f"http://localhost:{port}/", "userAgent": "Mozilla/5.0", "locale": "de-AT"}
    assert "secret" not in str(log.events)
    with kinfold.Contacts(folding_url, workspace=workspace) as contacts:
        contact = contacts.by_visitor(ada, after=log.positions[-1])
        assert contact is not None
        assert (contact.external_id, contact.metadata) == ("u-1", {"plan": "pro"})
        assert sorted(contact.visitor_ids) == sorted([logged_in, ada])
        assert contacts.by_visitor(stranger) is None


@pytest.mark.slow
def test_visitor_who_opts_out_is_not_followed(port: int, client: Redis, workspace: str):
    """No cookie and no event, not even for a log-in; an existing cookie is removed."""
    no = Browser(port)
    for header in ("DNT", "Sec-GPC"):
        for path in ("/", "/log-in/u-1", "/log-out"):
            no.get(path, **{header: "1"})
            assert (no.set_cookie, no.visitor) == ("", None)
    asset = Browser(port)
    asset.get("/me")
    bot = Browser(port)
    bot.get("/", **{"Sec-Fetch-Dest": "iframe"})
    assert bot.visitor is None
    bot.get("/missing")
    assert bot.visitor is None

    changed_mind = Browser(port)
    changed_mind.get("/")
    first = changed_mind.visitor
    assert first
    changed_mind.get("/", DNT="1")
    assert "Max-Age=0" in changed_mind.set_cookie
    assert not changed_mind.cookies
    wait_until_sync(lambda: len(Log(client, workspace).events) >= 1)
    assert [event["visitorId"] for event in Log(client, workspace).events] == [first]


def test_posthog_events_reads_properties_as_an_object_and_as_text(tmp_path: Path) -> None:
    """Exports differ. docs/how-to/migrate.md runs the same program."""
    properties = {
        "$anon_distinct_id": "d-1",
        "$set": {"email": "kim@example.org", "plan": "free", "$os": "Linux", "tags": ["a"]},
    }
    row = {"uuid": "p-1", "event": "$identify", "distinct_id": "u-1", "timestamp": "2024-03-01T08:05:00Z"}
    rows = [
        {**row, "properties": properties},
        {**row, "properties": json.dumps(properties)},
        {**row, "event": "x", "properties": None},
    ]
    (tmp_path / "events.jsonl").write_text("\n".join(map(json.dumps, rows)))

    command = [sys.executable, str(EXAMPLES / "posthog_events.py"), str(tmp_path / "events.jsonl")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=200)
    events = printed.stdout.splitlines()

    assert printed.stderr == "left out 2 values of $set that are objects or arrays (tags: 2)\n"
    assert len(events) == 2
    assert json.loads(events[0]) == json.loads(events[1])
    assert json.loads(events[0])["email"] == "kim@example.org"
