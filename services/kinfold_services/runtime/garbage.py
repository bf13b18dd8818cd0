"""Configures Python's garbage collector for programs that start and fold."""

import gc
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

_THRESHOLD: Final = 50_000


@contextmanager
def importing() -> Generator[None]:
    """Do not collect garbage during the imports of the block, and never look at what they made, not even when the program ends.

    Looking for cycles among modules takes a fifth of the CPU time of a short command.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def collect_seldom() -> None:
    """Make the garbage collector run less often, and never look at the objects that exist now (mostly modules).

    The objects of a fold are freed with their batch and hardly ever form cycles. Looking for cycles takes a fifth of its time.
    """
    gc.freeze()
    gc.set_threshold(_THRESHOLD, 20, 20)
