"""Positions in a log: entry ids, compared as numbers."""


def position_key(position: str) -> tuple[int, int]:
    """What a log entry's id sorts by; the empty position is before all. Raises ValueError for what is no id.

    `1732-0` and `1732` (its first entry) are both understood, as Redis does.
    """
    if not position:
        return (-1, 0)
    ms, dash, seq = position.partition("-")
    if not ms.isdecimal() or (dash and not seq.isdecimal()):
        raise ValueError(f"position: found {position!r}, allowed is a log entry's id like 1732262400000-0")
    return int(ms), int(seq or 0)
