"""Text from strangers on a terminal: contacts, events and paths must not control it."""


def visible(text: str) -> str:
    r"""Escapes what is not printable: control characters, C1 among them, and those that turn the direction of text.

    >>> visible("\x1b[2J \x9b2J Müsli")
    '\\x1b[2J \\x9b2J Müsli'
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def visible_lines(text: str) -> str:
    """The same for text of several lines: line feeds stay."""
    return "\n".join(map(visible, text.split("\n")))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
