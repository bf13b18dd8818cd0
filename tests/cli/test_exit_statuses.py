"""Exit statuses: 0 done, 1 the answer is no, 2 wrong usage, 3 the server cannot be reached (contract section 9)."""

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
    "count": [],
    "conflicts": [],
    "timeline": ["--visitor", "v-1"],
    "explain": ["--email", "a@example.org"],
    "tail": [],
    "status": [],
}
EVENT = b'{"type":"VisitorSeen","visitorId":"v-1"}'


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
@pytest.mark.parametrize("command", COMMANDS)
def test_unreachable_server_is_status_3(command: str, scheme: str) -> None:
    """Every command that needs a server prints one sentence, without a traceback."""
    kinfold = Kinfold("--redis-url", f"{scheme}://127.0.0.1:{free_port()}")

    said = kinfold.run(command, *COMMANDS[command], stdin=EVENT)

    assert (said.status, said.out) == (3, b"")
    assert "kinfold: " in said.err
    assert "127.0.0.1" in said.err


@pytest.mark.parametrize("command", COMMANDS)
def test_missing_server_is_status_3(tmp_path: Path, command: str) -> None:
    """The message names where it looked, and what helps."""
    said = Kinfold("--data-dir", tmp_path).run(command, *COMMANDS[command], stdin=EVENT)

    assert (said.status, said.out) == (3, b"")
    assert f"no server runs on {tmp_path}" in said.err
    assert "change to the directory where you ran `kinfold up`, or give --data-dir" in said.err
    assert "expected --redis-url, KINFOLD_REDIS_URL, or a running `kinfold up`, got none" in said.err


@pytest.mark.parametrize(
    "url", ["nonsense", "http://localhost", "redis+sentinel://localhost:1", "redis://localhost/0?decode_responses=true"]
)
@pytest.mark.parametrize("command", COMMANDS)
def test_invalid_url_is_status_2(url: str, command: str) -> None:
    """An invalid URL is wrong usage, not an unreachable server."""
    said = Kinfold("--redis-url", url).run(command, *COMMANDS[command], stdin=EVENT)

    assert (said.status, said.out) == (2, b""), said.err
    assert "redis URL: " in said.err
    assert "a Redis URL is redis[s]://host:port/0" in unboxed(said.err)


def unboxed(text: str) -> str:
    """Joins the lines of a sentence that is wrapped in a box."""
    return re.sub(r" *│\n│ *", " ", text)


@pytest.mark.parametrize("command", [*COMMANDS, "gateway", "up"])
def test_option_of_the_redis_library_in_a_url_is_rejected(command: str) -> None:
    """The variable is checked like the option. With `decode_responses` the projector would silently fold nothing."""
    kinfold = Kinfold(KINFOLD_REDIS_URL="redis://localhost/0?decode_responses=true")

    said = kinfold.run(command, *COMMANDS.get(command, []), stdin=EVENT)

    assert (said.status, said.out) == (2, b""), said.err
    assert "expected the options client_name, db, got 'decode_responses'" in unboxed(said.err)


def test_password_of_an_invalid_url_is_not_shown() -> None:
    """Messages go to logs and terminals, which must not contain passwords."""
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
        ("KINFOLD_SERVE", ","),  # would silently serve no workspace
        ("KINFOLD_GATEWAY_ORIGINS", "example.org"),  # browsers send the scheme too
        ("KINFOLD_GATEWAY_ORIGINS", "https://example.org/"),
    ],
)
def test_invalid_setting_is_status_2(name: str, value: str) -> None:
    """The message names the variable and its value."""
    said = Kinfold(**{name: value}).run("status")

    assert (said.status, said.out) == (2, b""), said.err
    assert value in said.err
    assert f"({name})" in said.err
    assert ": expected " in unboxed(said.err)
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["contacts", "--limit", "x"], "'--limit': expected an integer, got 'x'"),
        (["contacts", "--limit", "-1"], "'--limit': expected at least 1, got '-1'"),
        (["tail", "--since", "now"], "expected a log entry's id such as 1732262400000-0, got 'now'"),
        (
            ["keys", "create", "--kind", "no"],
            "'--kind': expected one of 'secret', 'read', 'publishable', 'development', got 'no'",
        ),
    ],
)
def test_invalid_option_is_status_2(arguments: list[str], sentence: str) -> None:
    """The message says what was expected, in no library's words."""
    said = Kinfold("--redis-url", "redis://localhost:1").run(*arguments)

    assert (said.status, said.out) == (2, b""), said.err
    assert sentence in unboxed(said.err)
    assert "Value error" not in said.err
    assert "nput should" not in said.err


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("KINFOLD_WORKSPCE", "did you mean KINFOLD_WORKSPACE?"),
        ("KINFOLD_REDISURL", "did you mean KINFOLD_REDIS_URL?"),
        ("KINFOLD_PORT", "did you mean KINFOLD_GATEWAY_PORT?"),
        ("KINFOLD_COLOUR_OF_THE_SKY", "the settings are KINFOLD_BATCH_ENTRIES, KINFOLD_CACHE_BYTES, "),
    ],
)
def test_unknown_variable_is_named(redis_url: str, name: str, hint: str) -> None:
    """The message suggests a setting, and the command continues."""
    said = Kinfold("--redis-url", redis_url, **{name: "9000"}).run("status")

    assert said.status == 0
    assert said.err.startswith(f"kinfold: {name}: this variable is ignored, because kinfold has no such setting; {hint}")
    assert len(said.err.splitlines()) == 1


def test_variables_of_kubernetes_are_ignored(redis_url: str) -> None:
    """Kubernetes sets them in every container of a namespace with a service called `kinfold`."""
    of_kubernetes = {
        "KINFOLD_SERVICE_HOST": "10.0.0.7",
        "KINFOLD_SERVICE_PORT_HTTP": "80",
        "KINFOLD_PORT": "tcp://10.0.0.7:80",
        "KINFOLD_PORT_80_TCP_ADDR": "10.0.0.7",
    }

    assert Kinfold("--redis-url", redis_url, **of_kubernetes).run("status").err == ""


def test_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """`${NAME:-}` in a compose file sets an empty variable; it must not mean that no workspace is served."""
    names = ("KINFOLD_REDIS_URL", "KINFOLD_WORKSPACE", "KINFOLD_SERVE", "KINFOLD_BATCH_ENTRIES")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    without = Settings()
    for name in names:
        monkeypatch.setenv(name, "")

    assert Settings() == without


def test_server_that_requires_a_password_is_status_3(tmp_path: Path) -> None:
    """The server answers, but refuses the connection. The message says where the password belongs."""
    port = free_port()
    with running(tmp_path, "--port", port, "--requirepass", "s3cret"):
        wait_until_sync(lambda: Kinfold("--redis-url", f"redis://:s3cret@127.0.0.1:{port}").run("status").status == 0)
        without = Kinfold("--redis-url", f"redis://127.0.0.1:{port}").run("status")
        wrong = Kinfold("--redis-url", f"redis://:wr0ng@127.0.0.1:{port}").run("publish", "/dev/null")

    for said in (without, wrong):
        assert (said.status, said.out) == (3, b"")
        assert "redis: the login was refused (" in said.err
        assert "KINFOLD_REDIS_URL" in said.err
        assert "s3cret" not in said.err
        assert "wr0ng" not in said.err


def test_statuses_are_those_of_the_process(tmp_path: Path) -> None:
    """A shell gets the same statuses."""
    kinfold = Kinfold("--data-dir", tmp_path)

    assert kinfold.run_apart("show").status == 2
    assert kinfold.run_apart("show", "--visitor", "v-1").status == 3
    assert kinfold.run_apart("down").status == 1
    assert Kinfold().run_apart("schema").status == 0


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_closed_standard_stream_changes_nothing(redis_url: str, workspace: str, closed: str) -> None:
    """Some daemons start their jobs this way. A wrong status would make a script publish the events again."""
    kinfold = Kinfold("--redis-url", redis_url, "--workspace", workspace)
    command = ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", *kinfold.command("publish", "examples/first-events.ndjson")]

    done = subprocess.run(command, env=kinfold.environment(), capture_output=True, check=False)

    assert (done.returncode, done.stderr.count(b"Traceback")) == (0, 0)
    assert (b"position" in done.stdout) == (closed != ">&-")
    assert kinfold.lines("status")[0]["entries"] == 4


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_unwritable_output_is_status_1(redis_url: str, workspace: str) -> None:
    """With `>` to a full disk the file lacks the result, and the status tells so."""
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
def test_invalid_data_dir_is_status_3(tmp_path: Path, command: list[str], place: str) -> None:
    """The message names the path, without a traceback."""
    (tmp_path / "file").touch()

    said = Kinfold("--data-dir", tmp_path / place).run(*command)

    assert (said.status, said.out) == (3, b"")
    assert f"data dir {tmp_path / place}: cannot be used" in said.err


def test_invalid_workspace_is_reported_with_its_option() -> None:
    """The message names the option, not the setting behind it."""
    said = Kinfold().run("projector", "--workspace", "Bad Name")

    assert said.status == 2
    assert "Invalid value for '--workspace': workspace: expected 1 to 63 of a-z" in said.err
    assert "got 'Bad Name'" in said.err


def test_help_works_on_every_terminal() -> None:
    """Help is printed even without UTF-8, as on a serial console or in a bare container."""
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
