"""Python's garbage collector, told about programs that fold."""

import gc
from typing import Final

_THRESHOLD: Final = 50_000


def collect_seldom() -> None:
    """What a fold makes is gone with its batch and hardly ever in cycles; looking for them at every turn costs a fifth of it.

    What is there already (modules, mostly) is not looked at again at all.
    """
    gc.freeze()
    gc.set_threshold(_THRESHOLD, 20, 20)
