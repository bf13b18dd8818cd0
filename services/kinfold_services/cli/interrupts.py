"""Ctrl-C during synchronous work."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def interruptible() -> Generator[None]:
    """Make Ctrl-C raise KeyboardInterrupt at once.

    asyncio cancels the task on the first Ctrl-C, which takes effect at the next `await`. A task that reads a terminal or a pipe
    may never reach it, and one that reads a large file reaches it late.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can handle signals
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
