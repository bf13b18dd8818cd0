"""What a command would have printed on a terminal: elsewhere it writes keys into files, and names these."""

import re
from pathlib import Path
from typing import Final

_FIELD: Final = re.compile(r'"(\w+)File":"([^"]+)"')
_NOTE: Final = re.compile(r"^standard output is not a terminal: .*\n", re.MULTILINE)
_CAT: Final = re.compile(r"\"\$\(cat ('[^']+'|\S+)\)\"")
_IN_HEADER: Final = re.compile(r"\"Authorization: Bearer \$\(cat ('[^']+'|\S+)\)\"")


def as_on_a_terminal(printed: str) -> str:
    """The output of a command, with the content of each file in place of its name."""
    printed = _NOTE.sub("", printed)
    printed = _FIELD.sub(lambda found: f'"{found[1]}":"{_content(found[2])}"', printed)
    printed = _IN_HEADER.sub(lambda found: f"'Authorization: Bearer {_content(found[1])}'", printed)
    return _CAT.sub(lambda found: _content(found[1]), printed)


def _content(path: str) -> str:
    return Path(path.strip("'")).read_text().rstrip("\n")
