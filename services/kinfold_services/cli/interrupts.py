"""Ctrl-C in the middle of work that nobody awaits."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def interruptible() -> Generator[None]:
    """Inside it Ctrl-C raises KeyboardInterrupt at once.

    asyncio answers the first one by cancelling the task, which takes hold at the next `await`: for who reads a terminal or a
    pipe that may be never, for who reads a large file a long time hence.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are none of its business
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
