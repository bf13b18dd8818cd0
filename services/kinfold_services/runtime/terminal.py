"""Text for a terminal. Text from strangers, such as contacts, events and paths, must not control it."""


def visible(text: str) -> str:
    r"""Escape what is not printable: control characters, C1 among them, and those that turn the direction of text.

    >>> visible("\x1b[2J \x9b2J Müsli")
    '\\x1b[2J \\x9b2J Müsli'
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def visible_lines(text: str) -> str:
    """The same for text of several lines: line feeds stay."""
    return "\n".join(map(visible, text.split("\n")))


def counted(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun.

    >>> counted(1, "visitor"), counted(2, "visitor"), counted(0, "entry", "entries")
    ('1 visitor', '2 visitors', '0 entries')
    """
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
