"""Log messages about a problem that lasts."""

import time
from typing import Final

REMIND_EVERY_S: Final = 60.0


class Reminder:
    """Tells when to log a problem: at once if it is a new one, then every minute, because log files are rotated."""

    def __init__(self) -> None:
        self._problem: object = None
        self._next_at = 0.0

    def is_due(self, problem: object) -> bool:
        """Whether to log `problem` now; the caller then does so."""
        now = time.monotonic()
        if problem == self._problem and now < self._next_at:
            return False
        self._problem, self._next_at = problem, now + REMIND_EVERY_S
        return True

    def solved(self) -> None:
        """Note that the problem is over, so that the next one is reported at once."""
        self._problem = None
