"""`kinfold publish` appends NDJSON to the log, all or nothing (contract section 9)."""

import fcntl
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import termios
from codecs import BOM_UTF8
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import pytest
import redis as redis_py

from kinfold_schemas.keys import key
from kinfold_services.server.embedded import EmbeddedServer
from tests.support.command_line import Kinfold
from tests.support.malformed import MALFORMED, Malformed
from tests.support.waiting import wait_until_sync

INTERRUPTED = 130
PATIENCE_S = 10
GOOD = [b'{"type":"VisitorSeen","visitorId":"v-%d"}' % number for number in range(5)]
ON_A_LINE = [bad for bad in MALFORMED if b"\n" not in bad.fields.get(b"event", b"\n") and bad.fields[b"event"].strip()]


def logged(log: redis_py.Redis, workspace: str) -> list[bytes]:
    """The events in the log."""
    return [fields[b"event"] for _, fields in cast("list[Any]", log.xrange(key(workspace, "events")))]


def last_position(log: redis_py.Redis, workspace: str) -> str:
    """The id of the log's last entry."""
    return cast("str", cast("list[Any]", log.xrevrange(key(workspace, "events"), count=1))[0][0].decode())


def test_file_is_appended_line_by_line_and_the_last_position_is_printed(
    kinfold: Kinfold, log: redis_py.Redis, workspace: str, tmp_path: Path
) -> None:
    """The log has the same bytes in the same order, without blank lines."""
    path = tmp_path / "events.ndjson"
    path.write_bytes(b"\n".join([*GOOD[:3], b"", b"   ", *GOOD[3:]]))  # without a line feed at the end

    printed = kinfold.json("publish", path)

    assert logged(log, workspace) == GOOD
    assert printed == {"workspace": workspace, "position": last_position(log, workspace)}


def test_several_files_with_a_compressed_one_and_standard_input(
    kinfold: Kinfold, log: redis_py.Redis, workspace: str, tmp_path: Path
) -> None:
    """`-` is standard input, `.gz` files are decompressed, and the order of the arguments is kept."""
    (tmp_path / "plain").write_bytes(GOOD[0])
    with gzip.open(tmp_path / "compressed.gz", "wb") as file:
        file.write(GOOD[1] + b"\n" + GOOD[2])

    kinfold.json("publish", tmp_path / "plain", "-", tmp_path / "compressed.gz", stdin=GOOD[3])

    assert logged(log, workspace) == [GOOD[0], GOOD[3], GOOD[1], GOOD[2]]


def test_fields_that_an_event_type_does_not_have_are_named(kinfold: Kinfold, log: redis_py.Redis, workspace: str) -> None:
    """The fold ignores them (contract section 2), so a misspelt one would be lost without a word. Each is named once."""
    lines = [
        b'{"type":"VisitorIdentified","externalId":"u-1","mail":"ada@example.org"}',
        b'{"type":"VisitorIdentified","externalId":"u-2","mail":"lin@example.org","token":"t"}',
        b'{"type":"VisitorSeen","visitorId":"v-1","mail":"x"}',
    ]
    said = kinfold.run("publish", stdin=b"\n".join(lines))

    assert said.status == 0
    assert logged(log, workspace) == lines
    assert said.err.splitlines()[:3] == [
        "-:1: ignored: expected a field of VisitorIdentified, got 'mail'; the nearest is 'email'",
        "-:2: ignored: expected a field of VisitorIdentified, got 'token'",
        "-:3: ignored: expected a field of VisitorSeen, got 'mail'",
    ]


def test_rejection_names_the_fields_that_the_event_type_does_not_have(kinfold: Kinfold) -> None:
    """As the gateway does: they are often where the missing value is."""
    said = kinfold.run("publish", stdin=b'{"type":"VisitorIdentified","visitorId":"v-1","userId":"u-1"}')

    assert said.status != 0
    assert said.err.splitlines()[0] == (
        "-:1: no-identifier: externalId, email: expected at least one of them, got neither; "
        "`userId` is not a field of VisitorIdentified (did you mean `externalId`?)"
    )


def test_unknown_fields_are_named_up_to_a_number(kinfold: Kinfold) -> None:
    """A file may have another unknown field on each line."""
    said = kinfold.run("publish", stdin=b"\n".join(b'{"type":"VisitorSeen","visitorId":"v","x%d":1}' % n for n in range(50)))

    assert said.err.count(": ignored: ") == 20
    assert "-: and more ignored fields\n" in said.err


def test_byte_order_mark_at_the_beginning_of_a_file_is_skipped(
    kinfold: Kinfold, log: redis_py.Redis, workspace: str, tmp_path: Path
) -> None:
    """Windows programs write it. It is skipped in every file, compressed or not; anywhere else it is invalid."""
    (tmp_path / "plain").write_bytes(BOM_UTF8 + GOOD[0] + b"\r\n" + GOOD[1])
    with gzip.open(tmp_path / "compressed.gz", "wb") as file:
        file.write(BOM_UTF8 + b"\n" + GOOD[2])

    kinfold.json("publish", tmp_path / "plain", "-", tmp_path / "compressed.gz", stdin=BOM_UTF8 + GOOD[3])

    assert logged(log, workspace) == [GOOD[0], GOOD[1], GOOD[3], GOOD[2]]
    said = kinfold.run("publish", stdin=GOOD[0] + b"\n" + BOM_UTF8 + GOOD[1])
    assert (said.status, "-:2: not-json" in said.err) == (1, True)


def test_invalid_line_in_the_last_file_stops_all_files(
    kinfold: Kinfold, log: redis_py.Redis, workspace: str, tmp_path: Path
) -> None:
    """So publishing again with a corrected line does not append the first file twice."""
    (tmp_path / "good").write_bytes(GOOD[0])
    (tmp_path / "bad").write_bytes(b"{")

    said = kinfold.run("publish", tmp_path / "good", tmp_path / "bad")

    assert (said.status, said.out) == (1, b"")
    assert logged(log, workspace) == []


def test_publish_warns_about_a_workspace_that_is_not_served(house: Path) -> None:
    """Otherwise the events would silently stay in the log forever."""
    said = Kinfold("--data-dir", house, "--workspace", "cli-not-served").run("publish", stdin=GOOD[0])

    assert said.status == 0
    assert "workspace cli-not-served is not in kinfold:workspaces: SADD it there" in said.err


def test_named_pipe_is_read(kinfold: Kinfold, log: redis_py.Redis, workspace: str, tmp_path: Path) -> None:
    """A named pipe can be read only once. Shells create one for `kinfold publish <(zcat events.gz)`."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["sh", "-c", 'printf %s "$1" > "$2"', "sh", GOOD[0], pipe]):
        kinfold.json("publish", pipe)

    assert logged(log, workspace) == GOOD[:1]


def test_standard_input_is_read_without_a_file_argument(kinfold: Kinfold, log: redis_py.Redis, workspace: str) -> None:
    """A pipe needs no dash."""
    kinfold.json("publish", stdin=b"\n".join(GOOD))

    assert logged(log, workspace) == GOOD


def test_invalid_line_is_reported_with_number_and_reason_and_nothing_is_appended(
    kinfold: Kinfold, log: redis_py.Redis, workspace: str, tmp_path: Path
) -> None:
    """The message names the field and the expected and actual value. The valid lines are not appended either."""
    path = tmp_path / "events.ndjson"
    path.write_bytes(b"\n".join([*GOOD, b'{"type":"VisitorSeen","visitorId":5}', b"not json"]))

    said = kinfold.run("publish", path)

    assert (said.status, said.out) == (1, b"")
    assert f"{path}:6: invalid: visitorId: expected a string of 1 to 255 characters, got 5 (a number)\n" in said.err
    assert f"{path}:7: not-json: event: expected one JSON object, got text that is not JSON" in said.err
    assert f"{path}: nothing was appended; --skip-invalid appends the valid lines" in said.err
    assert logged(log, workspace) == []


def test_skip_invalid_appends_the_valid_lines(kinfold: Kinfold, log: redis_py.Redis, workspace: str) -> None:
    """The invalid lines are still reported."""
    said = kinfold.run("publish", "--skip-invalid", stdin=b"\n".join([GOOD[0], b"{", GOOD[1]]))

    assert said.status == 0
    assert "-:2: not-json" in said.err
    assert logged(log, workspace) == GOOD[:2]


def test_every_kind_of_invalid_line_is_reported(kinfold: Kinfold, log: redis_py.Redis, workspace: str) -> None:
    """Publish gives the same reasons as the projector, except for those that depend on the state."""
    lines = [bad for bad in ON_A_LINE if bad.reason != "unknown-contact"]
    for first in range(0, len(lines), 20):  # publish reports this many one by one
        page: list[Malformed] = lines[first : first + 20]
        said = kinfold.run("publish", stdin=b"\n".join(bad.fields[b"event"] for bad in page))
        assert said.status == 1
        named = [line.split(": ")[:2] for line in said.err.splitlines() if line.startswith("-:")]
        assert named == [[f"-:{number}", bad.reason] for number, bad in enumerate(page, 1)]
    assert logged(log, workspace) == []


def test_many_invalid_lines_are_counted(kinfold: Kinfold) -> None:
    """The first twenty are reported one by one."""
    said = kinfold.run("publish", stdin=b"x\n" * 1000)

    assert said.err.count("not-json") == 20
    assert "-: and 980 more invalid lines" in said.err


def test_wait_returns_when_the_events_are_folded(kinfold: Kinfold, log: redis_py.Redis, workspace: str) -> None:
    """The state contains the events."""
    kinfold.json("publish", "--wait", stdin=b"\n".join(GOOD))

    assert log.hlen(key(workspace, "visitors")) == len(GOOD)


def test_progress_is_plain_lines_on_standard_error_without_a_terminal(kinfold: Kinfold) -> None:
    """Standard output has only JSON."""
    said = kinfold.run("publish", stdin=b"\n".join(GOOD))

    assert "publishing -: 5 of 5\n" in said.err
    assert "\x1b" not in said.err
    json.loads(said.out)


def test_blocked_identifiers_of_the_workspace_apply_to_publish(kinfold: Kinfold, log: redis_py.Redis, workspace: str) -> None:
    """As they apply to the fold."""
    log.sadd(key(workspace, "blocked-identifiers"), "house-account")

    said = kinfold.run("publish", stdin=b'{"type":"VisitorIdentified","externalId":"house-account"}')

    assert said.status == 1
    assert "-:1: blocked-identifier: externalId: expected an identifier of one person, got 'house-account'" in said.err


def test_invalid_blocked_identifier_is_reported(kinfold: Kinfold, log: redis_py.Redis, workspace: str) -> None:
    """The status is 1, without a traceback: an operator must correct the set first."""
    log.sadd(key(workspace, "blocked-identifiers"), "/(/")

    said = kinfold.run("publish", stdin=GOOD[0])

    assert (said.status, said.out) == (1, b"")
    assert "blocked identifiers: expected a regular expression of RE2 between slashes, got '/(/'" in said.err


def test_no_events_is_not_an_error(kinfold: Kinfold) -> None:
    """There is no position to print, and the message gives the reason."""
    said = kinfold.run("publish")

    assert (said.status, said.out) == (0, b"")
    assert "no events" in said.err


@pytest.mark.parametrize("name", ["missing.ndjson", "directory", "not-compressed.gz", "cut-short.gz"])
def test_unreadable_file_is_wrong_usage(
    kinfold: Kinfold, log: redis_py.Redis, workspace: str, tmp_path: Path, name: str
) -> None:
    """The message names the file, without a traceback, and nothing is appended."""
    (tmp_path / "directory").mkdir()
    (tmp_path / "not-compressed.gz").write_bytes(b"\n".join(GOOD))
    (tmp_path / "cut-short.gz").write_bytes(gzip.compress(b"\n".join(GOOD) * 1000)[:-20])

    said = kinfold.run("publish", tmp_path / name)

    assert (said.status, said.out) == (2, b"")
    assert str(tmp_path / name) in said.err.replace("\n", "")
    assert "Traceback" not in said.err
    assert logged(log, workspace) == []


def test_wait_without_a_projector_gives_up(tmp_path: Path) -> None:
    """After the timeout without progress, the message names the possible cause."""
    with EmbeddedServer.start(tmp_path) as server:
        said = Kinfold("--redis-url", server.url).run("publish", "--wait", "--wait-timeout", 0.2, stdin=GOOD[0])

    assert said.status == 1
    assert "was not folded within 0.2 s; is a projector running?" in said.err


def test_wait_does_not_wait_for_a_workspace_that_is_not_served(house: Path, log: redis_py.Redis) -> None:
    """The events are in the log and the position is printed; the status tells that the events are not folded."""
    kinfold = Kinfold("--data-dir", house, "--workspace", "cli-nobodys")

    said = kinfold.run("publish", "--wait", "--wait-timeout", 86_400, stdin=GOOD[0])

    assert (said.status, said.lines) == (1, [{"workspace": "cli-nobodys", "position": last_position(log, "cli-nobodys")}])
    assert "workspace cli-nobodys is not in kinfold:workspaces" in said.err
    assert "--wait does not wait, because no projector serves the workspace" in said.err


@pytest.mark.slow
@pytest.mark.parametrize("compressed", [False, True])
def test_ctrl_c_tells_what_is_in_the_log_and_how_to_continue(
    kinfold: Kinfold, log: redis_py.Redis, workspace: str, tmp_path: Path, *, compressed: bool
) -> None:
    """The suggested command appends the rest: every line is in the log once, and in order."""
    lines = [b'{"type":"VisitorSeen","visitorId":"v-%d"}' % number for number in range(100_000)]
    path = tmp_path / ("all of it.ndjson.gz" if compressed else "all of it.ndjson")
    path.write_bytes(gzip.compress(b"\n".join(lines), 1) if compressed else b"\n".join(lines))
    (tmp_path / "more").write_bytes(GOOD[0])
    command = kinfold.command("publish", path, tmp_path / "more")
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=kinfold.environment()) as process:
        try:
            wait_until_sync(lambda: log.xlen(key(workspace, "events")))
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=200)
        finally:
            process.kill()
    said = err.decode()
    appended = log.xlen(key(workspace, "events"))
    assert process.returncode == INTERRUPTED, said
    assert f"interrupted; {appended} of {len(lines) + 1} events are in the log, up to line {appended} of {path}; " in said

    rest = said.partition("to continue: ")[2]
    environment = kinfold.environment() | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", rest], env=environment, check=True, capture_output=True)

    assert logged(log, workspace) == [*lines, GOOD[0]]


@pytest.mark.slow
def test_lost_server_tells_what_is_in_the_log(tmp_path: Path) -> None:
    """Acknowledged events are counted; events without a reply may or may not be in the log."""
    path = tmp_path / "events.ndjson"
    path.write_bytes(b'{"type":"VisitorSeen","visitorId":"v-1"}\n' * 200_000)
    with EmbeddedServer.start(tmp_path / "data") as server, redis_py.Redis.from_url(server.url) as client:
        kinfold = Kinfold("--redis-url", server.url)
        with subprocess.Popen(kinfold.command("publish", path), stderr=subprocess.PIPE, env=kinfold.environment()) as process:
            try:
                wait_until_sync(lambda: client.xlen(key("default", "events")))
                os.kill(int(client.info("server")["process_id"]), signal.SIGKILL)
                _, err = process.communicate(timeout=200)
            finally:
                process.kill()

    assert process.returncode == 3
    assert b" of 200000 events are in the log, up to line " in err
    assert b"none, some or all of the " in err
    assert b"Traceback" not in err


def test_full_disk_is_reported(kinfold: Kinfold, tmp_path: Path) -> None:
    """The disk for the copy of standard input, which is kept until all of it is validated."""
    if os.geteuid() or shutil.which("unshare") is None:
        pytest.skip("needs a file system of its own")
    script = 'mount -t tmpfs -o size=64k none "$0" && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", script, str(tmp_path), *kinfold.command("publish")]
    done = subprocess.run(
        command,
        input=GOOD[0] + b" " * 100_000,
        env=kinfold.environment() | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        check=False,
    )

    assert done.returncode == 2, done.stderr
    assert b"the disk of " in done.stderr
    assert b"is full (set TMPDIR to use another directory); nothing was appended" in done.stderr


@pytest.mark.slow
def test_ctrl_c_ends_publish_that_waits_for_standard_input(kinfold: Kinfold, log: redis_py.Redis, workspace: str) -> None:
    """One Ctrl-C is enough, and nothing is appended."""
    command, environment = kinfold.command("publish"), kinfold.environment()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None
        os.write(process.stdin.fileno(), GOOD[0])
        wait_until_sync(partial(is_drained, process.stdin))

        process.send_signal(signal.SIGINT)

        try:
            _, err = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == INTERRUPTED
    assert b"kinfold: interrupted; nothing was appended" in err
    assert logged(log, workspace) == []


def is_drained(pipe: IO[bytes]) -> bool:
    """Whether the reader has read all that was written."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder) == 0
