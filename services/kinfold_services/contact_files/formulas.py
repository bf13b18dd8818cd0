"""CSV cells that a spreadsheet would run as a formula.

Anybody on the Internet can choose a name, and a spreadsheet runs `=HYPERLINK(…)` in a cell. So text that begins with `=`, `@`,
a tab or a carriage return is written with an apostrophe before it (OWASP, CSV Injection). The same holds for `+` and `-`,
unless only digits and `( ) . , / -` and spaces follow: a telephone number is harmless, and stays as it is. Reading takes the
apostrophe away again, so a value comes back as it was.
"""

import re
from typing import Final

_DANGER: Final = r"'*(?:[=@\t\r＝＠]|[-+＋－](?![-0-9 ().,/]*\Z))"
_is_dangerous: Final = re.compile(_DANGER).match
_is_escaped: Final = re.compile("'" + _DANGER).match


def escape(text: str) -> str:
    """The text as a CSV cell that no spreadsheet runs. `unescape(escape(text)) == text`."""
    return f"'{text}" if _is_dangerous(text) else text


def unescape(cell: str) -> str:
    """The text that `escape` made into this cell."""
    return cell[1:] if cell[:1] == "'" and _is_escaped(cell) else cell
