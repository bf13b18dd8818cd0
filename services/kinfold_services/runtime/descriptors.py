"""Raises the limit of open files: each workspace and each client has connections."""

import contextlib
import resource
from typing import Final

WANTED_DESCRIPTORS: Final = 65_536


def allow_many_descriptors() -> None:
    """Raise the soft limit of open files, which is 1,024 or less on many systems, as far as the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(WANTED_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS has a third limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
