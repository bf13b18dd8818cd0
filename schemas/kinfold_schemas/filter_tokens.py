"""The tokens of the filter language (`kinfold_schemas.filters`), and the error for an invalid filter."""

import json
import re
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple


class WrongFilter(ValueError):
    """The text is not a valid filter. `column` is the place of the error, in characters from 1."""

    def __init__(self, column: int, expected: str, got: str) -> None:
        super().__init__(f"column {column}: expected {expected}, got {got}")
        self.column: Final = column


class Token(NamedTuple):
    """A token and its place in the text."""

    kind: Literal["operator", "mark", "string", "word", "end"]
    text: str  # a string's content, without quotes and escapes
    start: int
    end: int

    def __str__(self) -> str:
        shown = self.text if len(self.text) <= 40 else f"{self.text[:37]}..."  # noqa: PLR2004  fits a line of a terminal
        return {"end": "the end", "string": f"the string {quoted(shown)}"}.get(self.kind, repr(shown))


_token: Final = re.compile(
    r"""\s*(?:(?P<operator>!=|<=|>=|[=<>])|(?P<mark>[(),])|(?P<string>"(?:[^"\\]|\\.)*+"|'(?:[^'\\]|\\.)*+')"""
    r"""|(?P<word>[^\s"'(),=<>!]+)|(?P<end>\Z))""",
    re.DOTALL,
).match
_escapes: Final = re.compile(r"""\\(?:u[0-9a-fA-F]{4}|["'\\/bfnrt])|(\\)|([\0-\x1f])""")


def tokens(text: str) -> Iterator[Token]:
    """Split `text` into tokens; the last one, repeated, is the end. Raises WrongFilter."""
    at = 0
    while True:
        match = _token(text, at)
        if match is None:
            start = len(text) - len(text[at:].lstrip())
            what = "a closing quote" if text[start] in "\"'" else "a field, an operator or a value"
            raise WrongFilter(start + 1, what, repr(text[start : start + 20]))
        kind, raw, start = str(match.lastgroup), match[str(match.lastgroup)], match.start(str(match.lastgroup))
        at = match.end()
        yield Token(kind, _unquoted(raw, start) if kind == "string" else raw, start, at)  # type: ignore[arg-type]


def _unquoted(raw: str, start: int) -> str:
    """The content of a quoted string that begins at `start`."""
    for escape in _escapes.finditer(raw, 1, len(raw) - 1):
        if escape.lastindex is not None:
            expected = 'an escape of JSON (\\" \\\\ \\n \\u00e9 …)'
            raise WrongFilter(start + escape.start() + 1, expected, repr(raw[escape.start() : escape.end() + 1]))
    inside = raw[1:-1]
    if raw[0] == "'":  # JSON escapes double quotes, and has no single-quoted strings
        inside = re.sub(r"\\.|\"", lambda part: {"\\'": "'", '"': '\\"'}.get(part[0], part[0]), inside, flags=re.DOTALL)
    else:
        inside = re.sub(r"\\.", lambda part: "'" if part[0] == "\\'" else part[0], inside, flags=re.DOTALL)
    text: str = json.loads(f'"{inside}"')
    if (bad := re.search("[\0\ud800-\udfff]", text)) is not None:
        raise WrongFilter(start + 1, "Unicode text without NUL", repr(bad[0]))
    return text


def quoted(text: str) -> str:
    """Write a string in double quotes, with JSON's escapes."""
    return json.dumps(text, ensure_ascii=False)
