"""Passwords are in no process list and no log. Keys are shown on terminals only."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import redis as redis_py

from kinfold_services.server.embedded import EmbeddedServer
from kinfold_services.settings import Settings
from tests.support.command_line import PATIENCE_S, Kinfold
from tests.support.projecting import clean_environment
from tests.support.terminals import run_on_a_terminal
from tests.support.waiting import wait_until_sync

PASSWORD: Final = "xyzzy-plugh-2718"  # noqa: S105  invented here
POSTGRES: Final = f"postgresql://ada:{PASSWORD}@127.0.0.1:1/kinfold"


@pytest.fixture
def guarded_url(tmp_path: Path) -> Iterator[str]:
    """Give the URL of a server that asks for a password."""
    with EmbeddedServer.start(tmp_path / "server") as server:
        with redis_py.Redis.from_url(server.url) as client:
            client.config_set("requirepass", PASSWORD)
        yield server.url.replace("unix://", f"unix://:{PASSWORD}@")


def command_lines() -> str:
    """The arguments of all processes, as every user of the machine sees them."""
    listed = subprocess.run(["ps", "-ww", "-eo", "args="], capture_output=True, text=True, check=True)
    return listed.stdout


@pytest.mark.slow
@pytest.mark.parametrize("given", ["option with =", "variable"])
def test_password_of_a_url_is_in_no_process_list_and_no_log(data_dir: Path, guarded_url: str, given: str) -> None:
    """Neither of `up` itself nor of the projector, gateway and directory that it runs."""
    variables = {"KINFOLD_DIRECTORY_URL": POSTGRES, "KINFOLD_LOG_LEVEL": "debug"}
    options = [] if given == "variable" else [f"--redis-url={guarded_url}"]
    if not options:
        variables["KINFOLD_REDIS_URL"] = guarded_url
    kinfold = Kinfold("--data-dir", data_dir, **variables)
    said = data_dir.parent / "said"
    with (
        said.open("wb") as output,
        subprocess.Popen([*kinfold.command("up"), *options], stdout=output, stderr=output, env=kinfold.environment()) as up,
    ):
        wait_until_sync(lambda: "kinfold is up" in said.read_text(), PATIENCE_S)
        wait_until_sync(lambda: "cannot be reached" in said.read_text() or POSTGRES[-20:] in said.read_text(), PATIENCE_S)
        seen = command_lines()
        up.terminate()
        status = up.wait(PATIENCE_S)

    assert status == 0
    assert f"kinfold_services gateway --until-stdin-ends --data-dir {data_dir}" in seen
    assert PASSWORD not in seen
    assert PASSWORD not in said.read_text()


def test_error_about_a_url_shows_no_password(redis_url: str) -> None:
    """Nor does the text of the settings, or of an error that pydantic raises."""
    for url in (f"redis://:{PASSWORD}@h:x", f"redis://:{PASSWORD}@127.0.0.1:1/0", f"unix://:{PASSWORD}@/none"):
        said = Kinfold(KINFOLD_REDIS_URL=url).run("status")
        assert said.status in {2, 3}, said
        assert PASSWORD not in said.err
    wrong = Kinfold("--redis-url", redis_url, KINFOLD_DIRECTORY_URL=f"mysql://u:{PASSWORD}@h/d").run(
        "contacts", "--search", "a"
    )
    assert (wrong.status, PASSWORD in wrong.err) == (2, False)
    settings = Settings(redis_url=f"redis://:{PASSWORD}@127.0.0.1:1/0", directory_url=POSTGRES)
    assert PASSWORD not in f"{settings!r} {settings}"
    with pytest.raises(ValueError, match="directory_url") as refused:
        Settings(directory_url=f"mysql://u:{PASSWORD}@h/d")
    assert PASSWORD not in str(refused.value)


LOGS_AN_ERROR: Final = f"""
import structlog
from kinfold_services.runtime.logs import configure_logs

URL = "redis://:{PASSWORD}@h"

def connect(url):
    raise ValueError("no \\x1b[2J \\x9b2J answer")

configure_logs()
structlog.get_logger().info("request \\x1b[2J", path="/\\x9b2J", address=None)
try:
    connect(URL)
except ValueError as error:
    structlog.get_logger().error("failed", exc_info=error)
"""


def test_traceback_on_a_terminal_shows_no_variables_and_no_control_characters() -> None:
    shown = run_on_a_terminal([sys.executable, "-c", LOGS_AN_ERROR], clean_environment(NO_COLOR="1", TERM="xterm"))

    assert shown.status == 0
    assert b"Traceback" in shown.data
    assert PASSWORD.encode() not in shown.data
    assert b"\x1b" not in shown.data
    assert b"\xc2\x9b" not in shown.data
    assert b"path=/\\x9b2J" in shown.data


SECRETS: Final = {
    "create": ("key", "kf_sk_"),
    "create --kind publishable": ("key", "kf_pk_"),
    "identity-secret": ("identitySecret", "kf_is_"),
    "rotate-identity": ("identitySecret", "kf_is_"),
}


@pytest.mark.parametrize("command", SECRETS)
def test_key_goes_into_a_file_unless_there_is_a_terminal(redis_url: str, workspace: str, data_dir: Path, command: str) -> None:
    """A pipe may lead into a log. The file is for its owner alone, and the message names it."""
    field, prefix = SECRETS[command]
    kinfold = Kinfold("--redis-url", redis_url, "--workspace", workspace, "--data-dir", data_dir)
    said = kinfold.run("keys", *command.split())

    (answer,) = said.lines
    path = Path(answer[f"{field}File"])
    assert prefix not in said.out.decode() + said.err
    assert f"the secret is in {path}, which only you can read" in said.err
    assert path.read_text().startswith(prefix)
    assert [each.stat().st_mode & 0o077 for each in (data_dir, path.parent, path)] == [0, 0, 0]


@pytest.mark.slow
def test_key_is_shown_on_a_terminal(redis_url: str, workspace: str, data_dir: Path) -> None:
    kinfold = Kinfold("--redis-url", redis_url, "--workspace", workspace, "--data-dir", data_dir)

    shown = run_on_a_terminal(kinfold.command("keys", "create"), kinfold.environment())

    assert shown.status == 0
    assert json.loads(shown.data.splitlines()[0])["key"].startswith("kf_sk_")
    assert not data_dir.exists()
