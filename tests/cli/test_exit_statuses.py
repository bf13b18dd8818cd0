"""0 done, 1 the answer is no, 2 wrong usage, 3 the server could not be reached: what scripts build on (contract section 9)."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import typer.main

from kinfold_services.cli.commands import app
from kinfold_services.settings import Settings
from tests.support.command_line import Kinfold
from tests.support.engines import free_port, running
from tests.support.projecting import clean_environment
from tests.support.waiting import wait_until_sync

COMMANDS = {
    "projector": [],
    "publish": [],
    "show": ["--visitor", "v-1"],
    "contacts": [],
    "tail": [],
    "status": [],
}
EVENT = b'{"type":"VisitorSeen","visitorId":"v-1"}'


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_server_that_cannot_be_reached_is_status_3(command: str, scheme: str) -> None:
    """Of every command that needs one; a sentence, and no traceback."""
    kinfold = Kinfold("--redis-url", f"{scheme}://127.0.0.1:{free_port()}")

    said = kinfold.run(command, *COMMANDS[command], stdin=EVENT)

    assert (said.status, said.out) == (3, b"")
    assert "kinfold: " in said.err
    assert "127.0.0.1" in said.err


@pytest.mark.parametrize("command", COMMANDS)
def test_no_server_at_all_is_status_3(tmp_path: Path, command: str) -> None:
    """It says what was looked for and what would help."""
    said = Kinfold("--data-dir", tmp_path).run(command, *COMMANDS[command], stdin=EVENT)

    assert (said.status, said.out) == (3, b"")
    assert f"no server runs on {tmp_path}" in said.err
    assert "expected --redis-url, KINFOLD_REDIS_URL, or a running `kinfold up`, got none" in said.err


@pytest.mark.parametrize(
    "url", ["nonsense", "http://localhost", "redis+sentinel://localhost:1", "redis://localhost/0?decode_responses=true"]
)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_url_that_is_none_is_status_2(url: str, command: str) -> None:
    """Wrong usage, not a server that is away."""
    said = Kinfold("--redis-url", url).run(command, *COMMANDS[command], stdin=EVENT)

    assert (said.status, said.out) == (2, b""), said.err
    assert "redis URL: " in said.err
    assert "a Redis URL is redis[s]://host:port/0" in unboxed(said.err)


def unboxed(text: str) -> str:
    """A sentence that is broken where the box around it ends."""
    return re.sub(r" *│\n│ *", " ", text)


@pytest.mark.parametrize("command", [*COMMANDS, "gateway", "up"])
def test_an_option_of_a_redis_library_is_no_part_of_a_url(command: str) -> None:
    """With `decode_responses` the projector folded nothing and said nothing: the variable is checked like the option."""
    kinfold = Kinfold(KINFOLD_REDIS_URL="redis://localhost/0?decode_responses=true")

    said = kinfold.run(command, *COMMANDS.get(command, []), stdin=EVENT)

    assert (said.status, said.out) == (2, b""), said.err
    assert "expected the options client_name, db, got 'decode_responses'" in unboxed(said.err)


def test_a_password_in_a_wrong_url_is_not_shown() -> None:
    """What goes to logs and terminals must not be what opens the door."""
    said = Kinfold("--redis-url", "redis+sentinel://:s3cret@localhost:1").run("status")

    assert said.status == 2
    assert "s3cret" not in said.err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KINFOLD_WORKSPACE", "No Workspace"),
        ("KINFOLD_BATCH_ENTRIES", "0"),
        ("KINFOLD_LOG_LEVEL", "loud"),
        ("KINFOLD_SERVE", "No Workspace"),
        ("KINFOLD_SERVE", ","),  # nobody would be served, and nothing said
        ("KINFOLD_GATEWAY_ORIGINS", "example.org"),  # no browser names itself so
        ("KINFOLD_GATEWAY_ORIGINS", "https://example.org/"),
    ],
)
def test_a_setting_that_is_not_allowed_is_status_2(name: str, value: str) -> None:
    """The variable is named, and what was found."""
    said = Kinfold(**{name: value}).run("status")

    assert (said.status, said.out) == (2, b""), said.err
    assert value in said.err
    assert f"({name})" in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("KINFOLD_WORKSPCE", "did you mean KINFOLD_WORKSPACE?"),
        ("KINFOLD_REDISURL", "did you mean KINFOLD_REDIS_URL?"),
        ("KINFOLD_PORT", "did you mean KINFOLD_GATEWAY_PORT?"),
        ("KINFOLD_COLOUR_OF_THE_SKY", "the settings are KINFOLD_BATCH_ENTRIES, KINFOLD_CACHED_RECORDS, "),
    ],
)
def test_a_variable_that_is_no_setting_is_named(redis_url: str, name: str, hint: str) -> None:
    """With the setting that may be meant; the command does its work."""
    said = Kinfold("--redis-url", redis_url, **{name: "9000"}).run("status")

    assert said.status == 0
    assert said.err.startswith(f"kinfold: {name}: this variable is ignored, because kinfold has no such setting; {hint}")
    assert len(said.err.splitlines()) == 1


def test_variables_that_kubernetes_sets_are_not_named(redis_url: str) -> None:
    """In every container of a namespace that has a service called `kinfold`."""
    of_kubernetes = {
        "KINFOLD_SERVICE_HOST": "10.0.0.7",
        "KINFOLD_SERVICE_PORT_HTTP": "80",
        "KINFOLD_PORT": "tcp://10.0.0.7:80",
        "KINFOLD_PORT_80_TCP_ADDR": "10.0.0.7",
    }

    assert Kinfold("--redis-url", redis_url, **of_kubernetes).run("status").err == ""


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `${NAME:-}` leaves it in a compose file or a unit; an empty list of workspaces to serve would be nobody's wish."""
    names = ("KINFOLD_REDIS_URL", "KINFOLD_WORKSPACE", "KINFOLD_SERVE", "KINFOLD_BATCH_ENTRIES")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    without = Settings()
    for name in names:
        monkeypatch.setenv(name, "")

    assert Settings() == without


def test_a_server_that_wants_a_password_is_status_3(tmp_path: Path) -> None:
    """It is there, and does not let us in."""
    port = free_port()
    with running(tmp_path, "--port", port, "--requirepass", "s3cret"):
        wait_until_sync(lambda: Kinfold("--redis-url", f"redis://:s3cret@127.0.0.1:{port}").run("status").status == 0)
        said = Kinfold("--redis-url", f"redis://127.0.0.1:{port}").run("status")

    assert (said.status, said.out) == (3, b"")
    assert "s3cret" not in said.err


def test_the_statuses_are_those_of_the_process(tmp_path: Path) -> None:
    """As a shell sees them."""
    kinfold = Kinfold("--data-dir", tmp_path)

    assert kinfold.run_apart("show").status == 2
    assert kinfold.run_apart("show", "--visitor", "v-1").status == 3
    assert kinfold.run_apart("down").status == 1
    assert Kinfold().run_apart("schema").status == 0


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_a_stream_that_is_closed_changes_nothing(redis_url: str, workspace: str, closed: str) -> None:
    """As some daemons start their jobs: what was done is told by the status, or the script would publish it again."""
    kinfold = Kinfold("--redis-url", redis_url, "--workspace", workspace)
    command = ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", *kinfold.command("publish", "examples/first-events.ndjson")]

    done = subprocess.run(command, env=kinfold.environment(), capture_output=True, check=False)

    assert (done.returncode, done.stderr.count(b"Traceback")) == (0, 0)
    assert (b"position" in done.stdout) == (closed != ">&-")
    assert kinfold.lines("status")[0]["entries"] == 4


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that takes nothing")
def test_output_that_cannot_be_written_is_status_1(redis_url: str, workspace: str) -> None:
    """A full disk behind `>`: the file lacks the answer, and the status says so."""
    kinfold = Kinfold("--redis-url", redis_url, "--workspace", workspace)

    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            kinfold.command("status"), env=kinfold.environment(), stdout=full, stderr=subprocess.PIPE, check=False
        )

    assert done.returncode == 1
    assert done.stderr.decode().startswith("kinfold: standard output: cannot be written")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("command", [["status"], ["up"], ["up", "--detach"]])
@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_data_dir_that_cannot_be_one_is_status_3(tmp_path: Path, command: list[str], place: str) -> None:
    """A sentence that names it, and no traceback: nothing runs there, and nothing can."""
    (tmp_path / "file").touch()

    said = Kinfold("--data-dir", tmp_path / place).run(*command)

    assert (said.status, said.out) == (3, b"")
    assert f"data dir {tmp_path / place}: cannot be used" in said.err


def test_a_workspace_that_cannot_be_served_is_named_as_it_was_given() -> None:
    """The option, and not a setting that nobody mentioned."""
    said = Kinfold().run("projector", "--workspace", "Bad Name")

    assert said.status == 2
    assert "Invalid value for '--workspace': workspace: expected 1 to 63 of a-z" in said.err
    assert "got 'Bad Name'" in said.err


def test_help_is_for_every_terminal() -> None:
    """Where UTF-8 cannot be printed (a serial console, a bare container), help is printed all the same."""
    commands = cast("Any", typer.main.get_command(app)).commands
    names = [[name, *more] for name, command in commands.items() for more in _below(command)]
    assert ["keys", "create"] in names

    asked = subprocess.run(
        [sys.executable, "-c", _HELP, json.dumps(names)],
        env=clean_environment(PYTHONIOENCODING="ascii"),
        capture_output=True,
        text=True,
        check=False,
    )

    assert (asked.returncode, asked.stderr) == (0, "")
    assert asked.stdout.count("Usage: kinfold ") == len(names)


_HELP = """
import json, sys
from kinfold_services.cli.commands import app
for names in json.loads(sys.argv[1]):
    app([*names, "--help"], standalone_mode=False, prog_name="kinfold")
"""


def _below(command: Any) -> list[list[str]]:
    return [[], *([name] for name in getattr(command, "commands", {}))]
