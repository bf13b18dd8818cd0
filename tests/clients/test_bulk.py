"""`examples/load_users.py` loads a CSV of many users; loading it twice creates each user once."""

import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from redis import Redis

import kinfold
from kinfold_schemas.keys import key
from kinfold_services.server.embedded import EmbeddedServer
from tests.support.engines import free_port
from tests.support.projecting import ProjectorProcess
from tests.support.waiting import wait_until_sync

SCRIPT: Final = Path(__file__).parents[2] / "examples" / "load_users.py"
USERS: Final = int(os.environ.get("KINFOLD_TEST_USERS", "12000"))
"""More than fit into the buffer."""


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """Give the URL of a new server with a projector."""
    with EmbeddedServer.start(tmp_path / "data") as server, ProjectorProcess(server.url, None, tmp_path / "log") as projector:
        yield server.url
        projector.terminate()


def load(path: Path, url: str) -> "subprocess.CompletedProcess[str]":
    """Run the script."""
    command = [sys.executable, str(SCRIPT), str(path), url]
    return subprocess.run(command, check=False, timeout=200, capture_output=True, text=True)


def test_loading_twice_creates_each_user_once(url: str, tmp_path: Path):
    """With the e-mail address, the name and the plan from the file, which starts with a BOM as spreadsheets write it."""
    path = tmp_path / "users.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "email", "name", "plan"])
        rows.writerows((f"u-{n}", f"user{n}@example.org" if n % 10 else "", f"User {n}", "pro") for n in range(USERS))
    for _ in range(2):
        done = load(path, url)
        assert (done.returncode, done.stderr) == (0, "")

    with Redis.from_url(url) as client:
        last = client.xinfo_stream(key("default", "events"))["last-generated-id"]
        wait_until_sync(lambda: client.hget(key("default", "position"), "stream_id") == last, 120)
        assert client.xlen(key("default", "events")) == 2 * USERS
        assert (client.hlen(key("default", "contacts")), client.hlen(key("default", "external-ids"))) == (USERS, USERS)
    with kinfold.Contacts(url) as contacts:
        for number in (0, 1, USERS - 1):
            user = contacts.by_external_id(f"u-{number}")
            assert user is not None
            assert (user.name, user.metadata) == (f"User {number}", {"plan": "pro"})
            assert user.email == (f"user{number}@example.org" if number % 10 else None)


def test_docs_show_the_script_in_eleven_lines():
    """Not counting blank lines."""
    code = SCRIPT.read_text().partition('"""\n\n')[2]
    assert f"```python\n{code}```" in (SCRIPT.parents[1] / "docs/how-to/load.md").read_text("utf-8")
    assert len([line for line in code.splitlines() if line]) <= 11


def test_script_without_a_server_reports_the_loss(tmp_path: Path):
    """It exits with 1, so that a cron job notices."""
    path = tmp_path / "users.csv"
    path.write_text("id,email,name,plan\n" + "".join(f"u-{number},,User,pro\n" for number in range(100)))
    done = load(path, f"redis://127.0.0.1:{free_port()}/0")  # takes ten seconds: the limit for a silent server
    assert done.returncode == 1
    assert "100 of 100 events were lost" in done.stderr
    assert done.stderr.endswith("100 users were lost\n")
