"""Text from strangers does not control the terminal of those who read it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import redis as redis_py

from kinfold_schemas.keys import key
from kinfold_services.cli.output import json_line
from kinfold_services.runtime.terminal import visible
from tests.support.command_line import Kinfold
from tests.support.terminals import run_on_a_terminal

HOSTILE: Final = "\x9b2J\x1b]0;owned\x07\x7f\x85\u202eda"
CONTROLS: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e]")
COLOURS: Final = re.compile(r"\x1b\[[0-9;?]*[mlhKA-D]")
"""What our own tables and bars consist of."""


def hostile_event() -> bytes:
    name = json_line(HOSTILE).strip()
    raw = b'"' + HOSTILE.replace("\x1b", "").replace("\x07", "").encode() + b'"'  # JSON permits these to be raw
    return b'{"type":"VisitorIdentified","visitorId":"v-1","externalId":"u-1","name":%b,"metadata":{"a":%b,"b":%b}}' % (
        name,
        name,
        raw,
    )


@pytest.fixture
def hostile(kinfold: Kinfold, log: redis_py.Redis, workspace: str) -> Kinfold:
    """Give the program, with a contact and a reject whose texts are hostile."""
    log.xadd(key(workspace, "events"), {"event": b'{"type":"Nope \xc2\x9b2J"}', b"\xc2\x9b2J\x1b": b"\x1b\xc2\x9b"})
    last = log.xadd(key(workspace, "events"), {"event": hostile_event()})
    kinfold.json("status", "--wait", last.decode())  # type: ignore[union-attr]
    return kinfold


COMMANDS: Final[list[list[Any]]] = [
    ["show", "--external-id", "u-1"],
    ["contacts", "--format", "table"],
    ["contacts", "--format", "csv"],
    ["explain", "--external-id", "u-1"],
    ["timeline", "--external-id", "u-1", "--wait-timeout", "30"],
    ["rejects"],
]


@pytest.mark.slow
def test_no_command_passes_control_characters_to_a_terminal(hostile: Kinfold) -> None:
    """Neither those of C0 nor of C1, which many terminals obey as well, nor those that turn the direction of text."""
    for command in COMMANDS:
        shown = run_on_a_terminal(hostile.command(*command), {**hostile.environment(), "TERM": "xterm"})
        text = COLOURS.sub("", shown.data.decode().replace("\r\n", "\n"))
        assert CONTROLS.search(text.replace("\r", "")) is None, (command, text)
        assert shown.status == 0, (command, text)


def test_names_of_files_and_errors_are_escaped(hostile: Kinfold, tmp_path: Path) -> None:
    """`kinfold publish *` in a directory that others can write to."""
    path = tmp_path / f"{HOSTILE}.ndjson"
    path.write_bytes(b'{"type":"\xc2\x9b2J"}\n')

    said = hostile.run("publish", path)

    assert said.status == 1
    assert CONTROLS.search(said.err) is None
    assert "\\x9b2J" in said.err


def as_json(text: str) -> str:
    return json_line(text).decode().rstrip("\n")


@pytest.mark.parametrize("escape", [visible, as_json])
def test_every_control_character_is_escaped(escape: Callable[[str], str]) -> None:
    characters = "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0)]))

    assert CONTROLS.search(escape(characters)) is None
    assert "\n" not in escape(characters)
    assert escape("Müsli ü😀 –") == ("Müsli ü😀 –" if escape is visible else '"Müsli ü😀 –"')
