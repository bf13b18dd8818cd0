"""When a producer sends again, how long its server has been silent, and when the producer gives up."""

import time
from collections.abc import Callable
from typing import Final

from kinfold.transport.backoff import Backoff

NEVER: Final = float("inf")


class RetryClock:
    """The times of one delivery, in seconds of `clock`. It has no lock: its user holds one.

    The server is silent from the moment when it owes an answer (`ask`) until it gives one (`answered`).
    """

    def __init__(self, first_s: float, last_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._backoff: Final = Backoff(first_s, last_s)
        self._clock: Final = clock
        self._retry_at = 0.0
        self._silent_since = 0.0
        self._deadline = NEVER
        self._max_silence_s = NEVER

    def ask(self) -> None:
        """Note that the server owes an answer from now on."""
        self._silent_since = self._clock()

    def answered(self) -> bool:
        """Note that the server acknowledged a batch. Returns whether attempts had failed before."""
        had_failed = self._backoff.delay_s > 0
        self._backoff.reset()
        self.ask()
        return had_failed

    def failed(self, at_least_s: float | None = None) -> None:
        """Note that an attempt failed. The next one is due after a delay, and not before `at_least_s`."""
        self._retry_at = self._clock() + self._backoff.failed(at_least_s)

    def pause(self, delay_s: float) -> None:
        """Put the next attempt off for `delay_s`."""
        self._retry_at = self._clock() + delay_s

    def retry_now(self) -> None:
        """Make the next attempt due now."""
        self._retry_at = 0.0

    def limit(self, timeout_s: float, max_silence_s: float) -> None:
        """Give up after `timeout_s`, or after `max_silence_s` of silence from now on. Earlier limits stay in force."""
        self.ask()
        self._deadline = min(self._deadline, self._silent_since + timeout_s)
        self._max_silence_s = min(self._max_silence_s, max_silence_s)

    def silence_left_s(self, max_silence_s: float) -> float:
        """How many seconds of `max_silence_s` are left for the server to answer; zero or less if it was silent for too long."""
        return self._silent_since + max_silence_s - self._clock()

    def retry_in_s(self) -> float:
        """Seconds until the next attempt is due; zero or less if it is due."""
        return self._retry_at - self._clock()

    def time_left_s(self) -> float:
        """Seconds until it is time to give up; zero or less if it is."""
        return min(self._deadline, self._silent_since + self._max_silence_s) - self._clock()
