"""`kinfold import-contacts` makes one event of each row of a CSV or Parquet file, all or nothing."""

import gzip
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, cast
from unittest.mock import patch

import pytest
import redis as redis_py

from kinfold_schemas.keys import key
from kinfold_schemas.times import to_text
from kinfold_services.contact_files.arrow import load_arrow
from kinfold_services.server.embedded import EmbeddedServer
from tests.support.command_line import Kinfold, Said
from tests.support.waiting import wait_until_sync

pa: Final = load_arrow()
INTERRUPTED = 130
WRITTEN_MS: Final = 1_750_000_000_123
USERS: Final = "id,email,name,plan,mrr,trial\nu-1,ada@example.org,Ada,pro,99.5,true\nu-2,,Lin,free,0,\n"
ADA: Final = {
    "externalId": "u-1",
    "email": "ada@example.org",
    "name": "Ada",
    "metadata": {"plan": "pro", "mrr": 99.5, "trial": True},
}
LIN: Final = {"externalId": "u-2", "name": "Lin", "metadata": {"plan": "free", "mrr": 0}}

ADDRESS: Final = (
    "3 to 320 characters with one @, a local part and a domain, and without white space, control or zero-width characters"
)
QUOTED: Final = """\
"id","email","name","plan","mrr","trial"
"u-1","ada@example.org","Ada","pro","99.5","true"
"u-2","","Lin","free","0",""
"""


@pytest.fixture
def users(tmp_path: Path) -> Path:
    """Give a CSV file, last written at WRITTEN_MS."""
    return written(tmp_path / "users.csv", USERS)


def written(path: Path, content: str | bytes, ms: int = WRITTEN_MS) -> Path:
    """Write a file as if it had been written at a time."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    os.utime(path, ns=(ms * 1_000_000, ms * 1_000_000))
    return path


def logged(log: redis_py.Redis, workspace: str) -> list[dict[str, Any]]:
    """The events in the log."""
    return [json.loads(fields[b"event"]) for _, fields in cast("list[Any]", log.xrange(key(workspace, "events")))]


def said_of(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What events say, without what all events of a file have in common."""
    return [{name: value for name, value in event.items() if name not in {"type", "id", "at"}} for event in events]


def contacts(kinfold: Kinfold) -> dict[str, dict[str, Any]]:
    """The contacts by their external id."""
    return {each["externalId"]: each for each in kinfold.lines("contacts")}


def rejected(said: Said) -> list[str]:
    """The lines that name a wrong row, without the name of the file."""
    return [line.partition("users.csv")[2] for line in said.err.splitlines() if "expected" in line]


def test_each_row_is_one_event_and_the_position_of_the_last_one_is_printed(
    kinfold: Kinfold, log: redis_py.Redis, workspace: str, users: Path
) -> None:
    """The values were true when the file was last written."""
    printed = kinfold.json("import-contacts", users)

    events = logged(log, workspace)
    assert said_of(events) == [ADA, LIN]
    assert {(event["type"], event["at"]) for event in events} == {("VisitorIdentified", to_text(WRITTEN_MS))}
    last = cast("list[Any]", log.xrevrange(key(workspace, "events"), count=1))[0][0].decode()
    assert printed == {"workspace": workspace, "position": last, "at": to_text(WRITTEN_MS), "imported": 2, "refused": 0}


def test_importing_the_same_file_again_changes_nothing(kinfold: Kinfold, users: Path) -> None:
    """Its events are duplicates: the id of an event is a hash of what it says."""
    kinfold.json("import-contacts", users, "--wait")
    before = kinfold.lines("contacts")

    kinfold.json("import-contacts", users, "--wait")

    assert kinfold.lines("contacts") == before
    assert kinfold.json("status")["duplicate"] == 2


def test_importing_again_does_not_overwrite_what_happened_since(kinfold: Kinfold, users: Path) -> None:
    """Also with other rows in the file, and when the first import is too long ago for the window of duplicates."""
    kinfold.json("import-contacts", users, "--wait")
    kinfold.json("publish", stdin=b'{"type":"MetadataSet","externalId":"u-1","metadata":{"plan":"team"}}')

    written(users, USERS.replace("Lin", "Lin Li").replace("true", "false"))
    kinfold.json("import-contacts", users, "--wait")

    found = contacts(kinfold)
    assert (found["u-1"]["metadata"]["plan"], found["u-1"]["metadata"]["trial"]) == ("team", False)
    assert found["u-2"]["name"] == "Lin Li"


def test_value_that_comes_back_in_a_newer_file_is_imported(kinfold: Kinfold, users: Path) -> None:
    """The row is the same as in the first file, but it is true of a later time."""
    for number, plan in enumerate(("pro", "free", "pro")):
        written(users, USERS.replace("pro", plan), WRITTEN_MS + number)
        kinfold.json("import-contacts", users, "--wait")

        assert contacts(kinfold)["u-1"]["metadata"]["plan"] == plan


def test_at_says_when_the_values_were_true(kinfold: Kinfold, log: redis_py.Redis, workspace: str, users: Path) -> None:
    """For all rows, or by a column for each."""
    kinfold.json("import-contacts", users, "--at", "2026-01-02T03:04:05+01:00")
    written(users, "id,changed\nu-1,2026-02-03\nu-2,2026-02-03T04:05:06Z\nu-3,\n")
    kinfold.json("import-contacts", users, "--map", "at=changed")

    assert [event["at"] for event in logged(log, workspace)] == [
        *["2026-01-02T02:04:05.000Z"] * 2,
        "2026-02-03T00:00:00Z",
        "2026-02-03T04:05:06Z",
        to_text(WRITTEN_MS),
    ]
    before = datetime.now(UTC)
    kinfold.json("import-contacts", users, "--at", "now")
    assert datetime.fromisoformat(logged(log, workspace)[-1]["at"]) >= before.replace(microsecond=0)


def test_unknown_time_fills_only_what_is_not_set(kinfold: Kinfold, users: Path) -> None:
    """Contract section 3: an effective time of exactly 2000-01-01."""
    kinfold.json("publish", stdin=b'{"type":"VisitorIdentified","externalId":"u-1","name":"Countess"}')

    kinfold.json("import-contacts", users, "--at", "2000-01-01T00:00:00Z", "--wait")

    ada = contacts(kinfold)["u-1"]
    assert (ada["name"], ada["email"]) == ("Countess", "ada@example.org")


def test_columns_are_mapped_by_options(kinfold: Kinfold, log: redis_py.Redis, workspace: str, tmp_path: Path) -> None:
    path = written(tmp_path / "crm.csv", "Key,Work mail,Full name,Plan,Notes\nu-1,ada@example.org,Ada,pro,VIP\n")
    maps = ["external-id=Key", "email=Work mail", "name=Full name", "metadata.plan=Plan"]

    said = kinfold.run("import-contacts", path, "--only-mapped", *[part for each in maps for part in ("--map", each)])

    assert said.status == 0
    assert f"{path}: externalId from 'Key', email from 'Work mail', " in said.err
    assert "left out: 'Notes'" in said.err
    assert said_of(logged(log, workspace)) == [
        {"externalId": "u-1", "email": "ada@example.org", "name": "Ada", "metadata": {"plan": "pro"}}
    ]


def test_wrong_row_is_named_by_its_line_and_nothing_is_imported(
    kinfold: Kinfold, log: redis_py.Redis, workspace: str, tmp_path: Path
) -> None:
    """A row begins on the line that is named, also below cells with several lines."""
    rows = [
        'u-1,ada@example.org,"two\nlines"',
        "",
        ",,Nobody",
        "u-2,bad,",
        "undefined,,",
        "u-3",
        "u-4,,,,",
        "u-5,lin@example.org,Lin",
    ]
    path = written(tmp_path / "users.csv", "\r\n".join(["id,email,name", *rows]))

    said = kinfold.run("import-contacts", path)

    assert (said.status, said.out) == (1, b"")
    assert rejected(said) == [
        ":5: no-identifier: externalId, email: expected at least one of them, got neither",
        f":6: invalid: email: expected {ADDRESS}, got 'bad' (3 characters)",
        ":7: blocked-identifier: externalId: expected an identifier of one person, got 'undefined', which is blocked",
        ":8: invalid: row: expected 3 cells, one for each heading, got 1 cells",
        ":9: invalid: row: expected 3 cells, one for each heading, got 5 cells",
    ]
    assert f"{path}: nothing was imported; --dry-run names every wrong row, --skip-invalid imports the others" in said.err
    assert logged(log, workspace) == []

    printed = kinfold.json("import-contacts", path, "--skip-invalid")

    assert (printed["imported"], printed["refused"]) == (2, 5)
    assert [event["externalId"] for event in logged(log, workspace)] == ["u-1", "u-5"]


def test_dry_run_prints_the_first_events_and_every_wrong_row(
    kinfold: Kinfold, log: redis_py.Redis, workspace: str, tmp_path: Path
) -> None:
    """An import names twenty wrong rows, a dry run all of them."""
    path = written(tmp_path / "users.csv", "id,email\n" + "".join(f"u-{n},\n" for n in range(8)) + ",x\n" * 30)

    said = kinfold.run("import-contacts", path, "--dry-run")

    assert said.status == 1
    assert said_of(said.lines) == [{"externalId": f"u-{number}"} for number in range(5)]
    assert [line.split(":")[1] for line in rejected(said)] == [str(line) for line in range(10, 40)]
    assert "good rows: 8, refused rows: 30, events to append: 0; nothing was imported" in said.err
    imported = kinfold.run("import-contacts", path)
    assert (len(rejected(imported)), "and 10 more wrong rows" in imported.err) == (20, True)
    skipping = kinfold.run("import-contacts", path, "--dry-run", "--skip-invalid")
    assert (skipping.status, "events to append: 8; nothing" in skipping.err) == (0, True)
    assert logged(log, workspace) == []


def test_column_with_a_number_that_would_not_come_back_stays_text(
    kinfold: Kinfold, log: redis_py.Redis, workspace: str, tmp_path: Path
) -> None:
    """Else a column of postal codes would become numbers and text at random. --as decides otherwise."""
    path = written(tmp_path / "users.csv", "id,zip,price,seats,day\nu-1,12345,9.95,5,2026-01-01\nu-2,01234,9.90,unlimited,\n")

    said = kinfold.run("import-contacts", path)

    assert [event["metadata"] for event in said_of(logged(log, workspace))] == [
        {"zip": "12345", "price": "9.95", "seats": 5, "day": "2026-01-01"},
        {"zip": "01234", "price": "9.90", "seats": "unlimited"},
    ]
    assert "metadata.zip stays text, because a number would not come back as '01234' (line 3); --as zip=number" in said.err
    assert "metadata.seats gets numbers and text, such as 'unlimited' (line 3); --as seats=string" in said.err
    assert "metadata.day" not in said.err.partition("\n")[2]

    chosen = ["--as", "price=number", "--as", "metadata.zip=string", "--as", "seats=string"]
    quiet = kinfold.run("import-contacts", path, *chosen)

    assert [event["metadata"] for event in said_of(logged(log, workspace)[2:])] == [
        {"zip": "12345", "price": 9.95, "seats": "5", "day": "2026-01-01"},
        {"zip": "01234", "price": 9.9, "seats": "unlimited"},
    ]
    assert "metadata." not in quiet.err.partition("\n")[2]


def test_cell_that_is_not_of_the_chosen_kind_is_refused(kinfold: Kinfold, tmp_path: Path) -> None:
    path = written(tmp_path / "users.csv", "id,mrr\nu-1,much\n")

    said = kinfold.run("import-contacts", path, "--as", "mrr=number")

    assert said.status == 1
    assert rejected(said) == [":2: invalid: metadata.mrr: expected a number, got 'much'"]


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (b"\xef\xbb\xbf" + USERS.encode(), []),
        (USERS.replace(",", ";").encode(), []),
        (USERS.replace(",", "\t").encode(), []),
        (("sep=|\r\n" + USERS.replace(",", "|")).encode(), []),
        (USERS.replace("\n", "\r\n").encode(), []),
        (USERS.replace("\n", "\r").encode(), []),
        (USERS.encode("utf-16"), []),
        (USERS.replace(",", ":").encode(), ["--delimiter", ":"]),
        (QUOTED.encode(), []),
        (f"{USERS},,,,,\n\n".encode(), []),
    ],
    ids=["bom", "semicolons", "tabs", "sep", "crlf", "cr", "utf-16", "delimiter", "quoted", "empty-rows"],
)
def test_every_form_of_csv_is_read(kinfold: Kinfold, tmp_path: Path, content: bytes, options: list[str]) -> None:
    """As spreadsheets on several systems write them."""
    said = kinfold.run("import-contacts", written(tmp_path / "users.csv", content), "--dry-run", *options)

    assert said.status == 0
    assert said_of(said.lines) == [ADA, LIN]


def test_latin_1_needs_an_option(kinfold: Kinfold, log: redis_py.Redis, workspace: str, tmp_path: Path) -> None:
    """The message names the line, the byte and the option."""
    path = written(tmp_path / "users.csv", "id,name\nu-1,Ada\nu-2,René\n".encode("latin-1"))

    said = kinfold.run("import-contacts", path)

    assert (said.status, said.out) == (2, b"")
    assert "line 3: expected text in UTF-8, got the byte 0xE9; --encoding latin-1 or windows-1252 reads the files" in said.err
    kinfold.json("import-contacts", path, "--encoding", "latin-1")
    assert logged(log, workspace)[1]["name"] == "René"


def test_compressed_file_and_standard_input(kinfold: Kinfold, log: redis_py.Redis, workspace: str, tmp_path: Path) -> None:
    kinfold.json("import-contacts", written(tmp_path / "users.csv.gz", gzip.compress(USERS.encode())))
    kinfold.json("import-contacts", "-", stdin=USERS.encode())

    assert said_of(logged(log, workspace)) == [ADA, LIN, ADA, LIN]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"", [], "expected a row of headings, got no row"),
        (b"name\nAda\n", [], "expected a column for email or externalId, got 'name'"),
        (b'id,name\nu-1,Ada\nu-2,"Lin\nu-3,Bo\n', [], "line 3: expected CSV, got a malformed row (unexpected end of data)"),
        (b'id,name\nu-1,"A"da\n', [], "line 2: expected CSV, got a malformed row"),
        (b"id;a,b\nu-1;1,2\n", [], "expected one delimiter, got ',' and ';' equally often; --delimiter tells which"),
        (b"PK\x03\x04rest", [], "expected CSV, got a workbook or another archive; save it as CSV (UTF-8)"),
        (b"id\nu-1\n", ["--map", "email=Mail"], "--map email=Mail: expected one of the headings 'id'"),
        (b"id\nu-1\n", ["--as", "plan=number"], "--as: expected a metadata key that a column fills, got 'plan'"),
    ],
)
def test_unreadable_file_is_wrong_usage(
    kinfold: Kinfold, tmp_path: Path, content: bytes, options: list[str], message: str
) -> None:
    """Nothing is imported, and a quotation mark that is missing does not swallow the rest of the file."""
    path = written(tmp_path / "users.csv", content)

    said = kinfold.run("import-contacts", path, "--skip-invalid", *options)

    assert (said.status, said.out) == (2, b""), said.err
    assert f"kinfold: {path}: {message}" in said.err
    assert said.err.endswith("; nothing was imported\n")
    assert kinfold.json("status")["entries"] == 0


@pytest.mark.parametrize(
    "options",
    [
        ["--map", "nonsense"],
        ["--as", "plan=text"],
        ["--as", "=number"],
        ["--delimiter", "ab"],
        ["--encoding", "latin-99"],
        ["--encoding", "base64"],
        ["--at", "yesterday"],
        ["--at", "2026-02-30"],
        ["--at", "1999-12-31T00:00:00Z"],
        ["--at", "2026-01-01T00:00:00"],
    ],
)
def test_wrong_option_is_wrong_usage(kinfold: Kinfold, users: Path, options: list[str]) -> None:
    said = kinfold.run("import-contacts", users, *options)

    assert (said.status, said.out) == (2, b"")
    assert f"{options[0]}: expected " in said.err


@pytest.mark.parametrize("name", ["missing.csv", "directory", "missing.parquet"])
def test_missing_file_is_wrong_usage(kinfold: Kinfold, tmp_path: Path, name: str) -> None:
    (tmp_path / "directory").mkdir()

    said = kinfold.run("import-contacts", tmp_path / name)

    assert (said.status, said.out) == (2, b"")
    assert str(tmp_path / name) in said.err.replace("\n", "")
    assert "Traceback" not in said.err


def test_blocked_identifiers_of_the_workspace_apply(kinfold: Kinfold, log: redis_py.Redis, workspace: str, users: Path) -> None:
    log.sadd(key(workspace, "blocked-identifiers"), "u-2")

    said = kinfold.run("import-contacts", users)

    assert said.status == 1
    assert rejected(said) == [
        ":3: blocked-identifier: externalId: expected an identifier of one person, got 'u-2', which is blocked"
    ]


def test_file_without_rows_is_not_an_error(kinfold: Kinfold, tmp_path: Path) -> None:
    said = kinfold.run("import-contacts", written(tmp_path / "users.csv", "id,email\n"))

    assert (said.status, said.out) == (0, b"")
    assert "no contacts" in said.err


def test_wait_without_a_projector_gives_up(users: Path, tmp_path: Path) -> None:
    with EmbeddedServer.start(tmp_path) as server:
        said = Kinfold("--redis-url", server.url).run("import-contacts", users, "--wait", "--wait-timeout", 0.2)

    assert said.status == 1
    assert "was not folded within 0.2 s; is a projector running?" in said.err


def test_unreachable_server_is_status_3(users: Path, tmp_path: Path) -> None:
    said = Kinfold("--data-dir", tmp_path / "none").run("import-contacts", users)

    assert (said.status, said.out) == (3, b"")
    assert "no server runs on" in said.err


# --- Parquet ------------------------------------------------------------------------------------------------------------


def test_parquet_keeps_its_types(kinfold: Kinfold, log: redis_py.Redis, workspace: str, tmp_path: Path) -> None:
    """Numbers, booleans, times and decimals as they are; NaN and null are empty cells; an id may be a number."""
    moment = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
    table = pa.table(
        {
            "id": pa.array([1, 2], pa.int64()),
            "email": ["ada@example.org", None],
            "plan": pa.array(["pro", "007"]).dictionary_encode(),
            "mrr": [99.5, float("nan")],
            "seats": [5.0, 6.5],
            "trial": [True, None],
            "price": pa.array([Decimal("9.90"), None], pa.decimal128(10, 2)),
            "since": pa.array([moment, None], pa.timestamp("ns", "Europe/Berlin")),
            "naive": pa.array([moment.replace(tzinfo=None), None], pa.timestamp("us")),
            "born": pa.array([moment.date(), None], pa.date32()),
        }
    )
    path = tmp_path / "users.parquet"
    pa.parquet.write_table(table, path)

    kinfold.json("import-contacts", path)

    assert said_of(logged(log, workspace)) == [
        {
            "externalId": "1",
            "email": "ada@example.org",
            "metadata": {
                "plan": "pro",
                "mrr": 99.5,
                "seats": 5,
                "trial": True,
                "price": 9.9,
                "since": "2026-01-02T03:04:05.678Z",
                "naive": "2026-01-02T03:04:05.678Z",
                "born": "2026-01-02",
            },
        },
        {"externalId": "2", "metadata": {"plan": "007", "seats": 6.5}},
    ]


def test_wrong_parquet_row_is_named_by_its_number(kinfold: Kinfold, tmp_path: Path) -> None:
    path = tmp_path / "users.parquet"
    pa.parquet.write_table(pa.table({"id": ["u-1", "u-2"], "size": [1, 2**60]}), path)

    said = kinfold.run("import-contacts", path)

    assert said.status == 1
    assert f"{path}: row 2: invalid: metadata.size: expected an integer within ±(2^53-1), got '1152921504606846976'" in said.err
    assert kinfold.json("import-contacts", path, "--as", "size=string")["imported"] == 2


def test_parquet_column_that_cannot_be_metadata_is_named(kinfold: Kinfold, tmp_path: Path) -> None:
    path = tmp_path / "users.parquet"
    pa.parquet.write_table(pa.table({"id": ["u-1"], "tags": [["a", "b"]]}), path)

    said = kinfold.run("import-contacts", path)

    assert said.status == 2
    assert "column 'tags': expected strings, numbers, booleans or times, got list<" in said.err
    assert kinfold.json("import-contacts", path, "--only-mapped")["imported"] == 1


@pytest.mark.parametrize("damage", ["no Parquet", "cut short"])
def test_damaged_parquet_is_wrong_usage(kinfold: Kinfold, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "users.parquet"
    pa.parquet.write_table(pa.table({"id": ["u-1"]}), path)
    path.write_bytes(b"id,email\n" if damage == "no Parquet" else path.read_bytes()[:-20])

    said = kinfold.run("import-contacts", path)

    assert (said.status, said.out) == (2, b"")
    assert "expected Parquet, got another file or a damaged one" in said.err


def test_parquet_without_pyarrow_says_what_to_install(kinfold: Kinfold, tmp_path: Path) -> None:
    path = tmp_path / "users.parquet"
    pa.parquet.write_table(pa.table({"id": ["u-1"]}), path)

    with patch.dict(sys.modules, {"pyarrow.parquet": None}):  # makes Python raise ImportError
        said = kinfold.run("import-contacts", path)

    assert (said.status, said.out) == (2, b"")
    assert "Parquet needs pyarrow: pip install 'kinfold[parquet]'" in said.err


# --- interruptions ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ctrl_c_can_be_continued_by_repeating_the_command(
    kinfold: Kinfold, log: redis_py.Redis, workspace: str, tmp_path: Path
) -> None:
    """What is in the log already is a duplicate then."""
    total = 60_000
    path = written(tmp_path / "users.csv", "id,plan\n" + "".join(f"u-{number},pro\n" for number in range(total)))
    command = kinfold.command("import-contacts", path)
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=kinfold.environment()) as process:
        try:
            wait_until_sync(lambda: log.xlen(key(workspace, "events")))
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=200)
        finally:
            process.kill()
    appended = log.xlen(key(workspace, "events"))
    assert process.returncode == INTERRUPTED, err
    assert f"interrupted; {appended} of {total} contacts are in the log; to continue, repeat the command" in err.decode()

    kinfold.json("import-contacts", path, "--wait", "--wait-timeout", 120)

    status = kinfold.json("status")
    assert (status["contacts"], status["duplicate"] + status["no-op"]) == (total, appended)


@pytest.mark.slow
def test_lost_server_tells_what_is_in_the_log(tmp_path: Path) -> None:
    path = written(tmp_path / "users.csv", "id,plan\n" + "".join(f"u-{number},pro\n" for number in range(100_000)))
    with EmbeddedServer.start(tmp_path / "data") as server, redis_py.Redis.from_url(server.url) as client:
        kinfold = Kinfold("--redis-url", server.url)
        command = kinfold.command("import-contacts", path)
        with subprocess.Popen(command, stderr=subprocess.PIPE, env=kinfold.environment()) as process:
            try:
                wait_until_sync(lambda: client.xlen(key("default", "events")))
                os.kill(int(client.info("server")["process_id"]), signal.SIGKILL)
                _, err = process.communicate(timeout=200)
            finally:
                process.kill()

    assert process.returncode == 3
    assert b" of 100000 contacts are in the log" in err
    assert b"Traceback" not in err
