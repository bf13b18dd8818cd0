"""`kinfold contacts --format table|json|csv|parquet --output FILE`."""

import csv
import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import pytest
import redis as redis_py

from kinfold_schemas.keys import WORKSPACES, key
from kinfold_services.contact_files.arrow import load_arrow
from kinfold_services.transfer.files import open_compressed
from tests.support.command_line import Kinfold

pa: Final = load_arrow()
EVENTS: Final[list[dict[str, Any]]] = [
    {
        "externalId": "u-1",
        "email": "ada@example.org",
        "name": "=Ada()",
        "metadata": {"plan": "pro", "mrr": 99.5, "phone": "+49 30 1"},
    },
    {"externalId": "u-2", "name": "Lin\x1b[31m\u202e", "metadata": {"plan": "free", "trial": True}},
    {"externalId": "u-3", "visitorId": "v-1", "metadata": {"note": "a\nb"}},
]


@pytest.fixture
def filled(kinfold: Kinfold, log: redis_py.Redis, workspace: str) -> Kinfold:
    """Give the program, with a workspace that has three contacts. A contact's id begins with the time of its entry."""
    entry = ""
    for number, event in enumerate(EVENTS):
        entry = f"{1_750_000_000_000 + number}-0"
        log.xadd(key(workspace, "events"), {"event": json.dumps({"type": "VisitorIdentified", **event})}, id=entry)
    kinfold.json("status", "--wait", entry)
    return kinfold


@pytest.fixture
def copy(house: Path, log: redis_py.Redis, workspace: str) -> Kinfold:
    """Give the program with another workspace, which is empty."""
    log.sadd(WORKSPACES, f"{workspace}-copy")
    return Kinfold("--data-dir", house, "--workspace", f"{workspace}-copy")


def test_json_is_the_default_and_one_object_a_line(filled: Kinfold) -> None:
    assert [each["externalId"] for each in filled.lines("contacts")] == ["u-1", "u-2", "u-3"]
    assert filled.run("contacts", "--format", "json") == filled.run("contacts")


def test_csv_has_a_line_for_each_contact(filled: Kinfold) -> None:
    said = filled.run("contacts", "--format", "csv")

    rows = list(csv.DictReader(io.StringIO(said.out.decode(), newline="")))
    assert [row["externalId"] for row in rows] == ["u-1", "u-2", "u-3"]
    assert [row["name"] for row in rows] == ["'=Ada()", "Lin\x1b[31m\u202e", ""]
    assert [row["metadata.plan"] for row in rows] == ["pro", "free", ""]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_contacts_can_be_imported_again(filled: Kinfold, copy: Kinfold, tmp_path: Path, form: str) -> None:
    """Into another workspace, they are the same people with the same metadata: a formula's apostrophe is gone again."""
    path = tmp_path / f"contacts.{form}"
    filled.run("contacts", "--output", path)

    copy.json("import-contacts", path, "--only-mapped", "--wait")

    names = ("externalId", "email", "name", "image", "metadata")
    people = [[each[name] for name in names] for each in filled.lines("contacts")]
    assert sorted([each[name] for name in names] for each in copy.lines("contacts")) == people


def test_parquet_is_printed_for_a_pipe(filled: Kinfold) -> None:
    said = filled.run("contacts", "--format", "parquet")

    assert said.status == 0
    assert pa.parquet.read_table(pa.BufferReader(said.out))["externalId"].to_pylist() == ["u-1", "u-2", "u-3"]


def test_table_is_for_people(filled: Kinfold) -> None:
    """A stranger's name cannot control the terminal, and an id is never cut."""
    said = filled.run("contacts", "--format", "table")

    heading, *rows = said.out.decode().splitlines()
    assert heading.split() == ["name", "email", "externalId", "lastSeenAt", "metadata", "id"]
    assert [row.split()[-1] for row in rows] == [each["id"] for each in filled.lines("contacts")]
    assert "plan=pro, mrr=99.5" in rows[0]
    assert r"Lin\x1b[31m\u202e" in rows[1]
    assert "\x1b" not in said.out.decode()


def test_table_of_many_contacts_begins_again(kinfold: Kinfold, tmp_path: Path) -> None:
    """A table of 200 rows is printed at once, and the next one has the headings again."""
    (tmp_path / "users.csv").write_text("id\n" + "".join(f"u-{number}\n" for number in range(450)))
    kinfold.json("import-contacts", tmp_path / "users.csv", "--wait")

    lines = kinfold.run("contacts", "--format", "table").out.decode().splitlines()

    assert len(lines) == 450 + 3
    assert [number for number, line in enumerate(lines) if line.startswith("name")] == [0, 201, 402]


@pytest.mark.parametrize("name", ["c.csv", "c.csv.gz", "c.csv.zst", "c.CSV", "c.ndjson", "c"])
def test_name_of_the_file_tells_the_format(filled: Kinfold, tmp_path: Path, name: str) -> None:
    """A file has what would be printed, and only its owner can read it."""
    form = "csv" if ".csv" in name.lower() else "json"

    said = filled.run("contacts", "--output", tmp_path / name)

    assert (said.status, said.out) == (0, b"")
    with open_compressed(tmp_path / name) as file:
        assert file.read() == filled.run("contacts", "--format", form).out
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_format_wins_over_the_name_of_the_file(filled: Kinfold, tmp_path: Path) -> None:
    filled.run("contacts", "--format", "csv", "--output", tmp_path / "c.parquet", "--limit", 1)

    assert (tmp_path / "c.parquet").read_bytes().count(b"\n") == 2


@pytest.mark.parametrize("name", ["c.xlsx", "c.tsv.gz", "c.txt"])
def test_name_that_tells_no_format_is_rejected(filled: Kinfold, tmp_path: Path, name: str) -> None:
    """A workbook would otherwise have JSON in it."""
    said = filled.run("contacts", "--output", tmp_path / name)

    assert (said.status, list(tmp_path.iterdir())) == (2, [])
    expected = f"expected a name that ends in .csv, .parquet, .json, .jsonl or .ndjson, or --format, got '{name}'"
    assert expected in " ".join(said.err.replace("│", " ").split())
    assert filled.run("contacts", "--format", "json", "--output", tmp_path / name).status == 0


@pytest.mark.parametrize("form", ["json", "csv", "table"])
def test_limit_holds_for_every_format(filled: Kinfold, form: str) -> None:
    lines = filled.run("contacts", "--format", form, "--limit", 1).out.splitlines()

    assert len(lines) == (1 if form == "json" else 2)


def test_past_can_be_written_too(filled: Kinfold) -> None:
    position = filled.json("status")["position"]
    filled.json("publish", "--wait", stdin=b'{"type":"MetadataSet","externalId":"u-1","metadata":{"plan":"team"}}')

    assert b"team" in filled.run("contacts", "--format", "csv").out
    assert b"team" not in filled.run("contacts", "--format", "csv", "--at", position).out


@pytest.mark.parametrize("form", ["csv", "parquet", "table"])
def test_workspace_without_contacts_is_reported(kinfold: Kinfold, form: str) -> None:
    said = kinfold.run("contacts", "--format", form)

    assert said.status == 0
    assert "no contacts in workspace" in said.err


@pytest.mark.parametrize("form", ["json", "csv", "table"])
def test_closed_pipe_is_not_an_error(filled: Kinfold, form: str) -> None:
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$@" | true', "bash", *filled.command("contacts", "--format", form)],
        env=filled.environment(),
        capture_output=True,
        check=False,
        timeout=200,
    )

    assert (done.returncode, done.stderr) == (0, b"")


def test_unknown_format_is_wrong_usage(kinfold: Kinfold) -> None:
    said = kinfold.run("contacts", "--format", "xml")

    assert (said.status, said.out) == (2, b"")
    assert "expected one of table, json, csv, parquet, got 'xml'" in said.err


def test_parquet_on_a_terminal_is_wrong_usage(filled: Kinfold) -> None:
    parent, terminal = os.openpty()
    try:
        done = subprocess.run(
            filled.command("contacts", "--format", "parquet"),
            stdin=subprocess.DEVNULL,
            stdout=terminal,
            stderr=subprocess.PIPE,
            env=filled.environment(),
            check=False,
            timeout=200,
        )
    finally:
        os.close(parent)
        os.close(terminal)

    assert done.returncode == 2
    assert b"--format parquet: expected --output FILE or a pipe, got a terminal" in done.stderr


def test_parquet_without_pyarrow_says_what_to_install(filled: Kinfold) -> None:
    with patch.dict(sys.modules, {"pyarrow.parquet": None}):  # makes Python raise ImportError
        said = filled.run("contacts", "--format", "parquet")

    assert (said.status, said.out) == (2, b"")
    assert "Parquet needs pyarrow: pip install 'kinfold[parquet]'" in said.err


@pytest.mark.parametrize("form", ["json", "csv", "parquet"])
def test_file_that_cannot_be_written_is_status_1(filled: Kinfold, tmp_path: Path, form: str) -> None:
    path = tmp_path / "missing" / "contacts"

    said = filled.run("contacts", "--format", form, "--output", path)

    assert (said.status, said.out) == (1, b"")
    assert said.err.endswith(f"kinfold: {path}: cannot be written (No such file or directory)\n")


def test_full_disk_keeps_the_old_file(filled: Kinfold, tmp_path: Path) -> None:
    """Nothing of the new one is left either."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = (
        'mount -t tmpfs -o size=16k none "$0" && echo old > "$0/c.csv" && head -c 8k /dev/zero > "$0/z" && "$@"; status=$?; '
    )
    script += 'ls -A "$0"; cat "$0/c.csv"; exit $status'
    command = ["unshare", "-m", "sh", "-c", script, str(disk), *filled.command("contacts", "--output", disk / "c.csv")]
    if os.geteuid() or subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs a file system of its own")
    many = b"\n".join(b'{"type":"VisitorIdentified","externalId":"n-%d"}' % number for number in range(300))
    filled.json("publish", "--wait", stdin=many)

    done = subprocess.run(command, env=filled.environment(), capture_output=True, check=False, timeout=200)

    assert done.returncode == 1, done.stderr
    assert b"c.csv: cannot be written (No space left on device); contacts wait in " in done.stderr
    assert done.stdout == b"c.csv\nz\nold\n"


def test_compressed_csv_is_gzip(filled: Kinfold, tmp_path: Path) -> None:
    filled.run("contacts", "--output", tmp_path / "c.csv.gz")

    assert gzip.decompress((tmp_path / "c.csv.gz").read_bytes()).startswith(b"id,externalId,")
