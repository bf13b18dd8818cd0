"""The window in which an event's own id is a duplicate (contract section 3): the 65,536 entries before it."""

from typing import Final

WINDOW_ENTRIES: Final = 65_536


class DuplicateWindow:
    """Remembers which event ids occurred in which entry, for at least the last 65,536 entries.

    Two generations of ids: when the young one is a window old, the old one is dropped whole. So memory is bounded by two
    windows, and nothing has to be taken out one at a time.
    """

    def __init__(self) -> None:
        self._entries = 0
        self._young: dict[str, int] = {}
        self._old: dict[str, int] = {}
        self._rotate_at = WINDOW_ENTRIES

    def enter(self, event_id: str | None) -> bool:
        """One more entry of the log; whether its event's id occurred within the window before. From now on it has.

        None: the entry has no id that could occur, since no event could be read from it.
        """
        entries = self._entries = self._entries + 1
        if entries > self._rotate_at:
            self._old, self._young = self._young, {}
            self._rotate_at = entries + WINDOW_ENTRIES
        if event_id is None:
            return False
        young = self._young
        seen_in = young.get(event_id) or self._old.get(event_id)
        young[event_id] = entries
        return seen_in is not None and entries - seen_in <= WINDOW_ENTRIES
