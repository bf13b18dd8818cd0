"""How much a test tries: `make test` runs the short form, `make test-long` (KINFOLD_TEST_LONG=1) the long one.

Both forms assert the same. The long one tries more random examples and greater sizes.
"""

import os
from typing import Final, TypeVar

T = TypeVar("T")

IS_LONG: Final = os.environ.get("KINFOLD_TEST_LONG") == "1"


def short_or_long(short: T, long: T) -> T:
    """Return the value for the form that is running."""
    return long if IS_LONG else short
