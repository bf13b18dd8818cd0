"""Delays between attempts."""

import random


class Backoff:
    """Doubles the delay after each failure, from `first_s` up to `last_s`, and leaves out a random part of up to a half."""

    def __init__(self, first_s: float, last_s: float) -> None:
        self._first_s = first_s
        self._last_s = last_s
        self.delay_s = 0.0
        """The longest delay after the latest failure; 0 before the first failure."""

    def failed(self, at_least_s: float | None = None) -> float:
        """Note a failure. Returns the seconds until the next attempt."""
        self.delay_s = min(max(self.delay_s * 2, self._first_s), self._last_s)
        return max(self.delay_s * random.uniform(0.5, 1.0), at_least_s or 0.0)  # noqa: S311  not a secret

    def reset(self) -> None:
        """Note a success."""
        self.delay_s = 0.0
