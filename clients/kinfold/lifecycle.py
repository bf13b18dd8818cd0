"""The end of the process, and forks: every delivery that was ever started hears of them.

Nothing is registered before the first producer is made: importing `kinfold` has no effect on anybody.
"""

import atexit
import logging
import os
import sys
from functools import cache
from typing import Protocol
from weakref import WeakSet

log = logging.getLogger("kinfold")


class Living(Protocol):
    """What has something to do at the end, and after a fork."""

    def at_exit(self) -> None:
        """The process ends: send what can be sent."""

    def in_child(self) -> None:
        """This is a forked child: what waits is the parent's, and so are thread and connection."""


_LIVING: WeakSet[Living] = WeakSet()


def watch(living: Living) -> None:
    """Lets `living` hear of the end and of forks, for as long as somebody holds it."""
    _register()
    _LIVING.add(living)


def watch_child_exit() -> None:
    """Called in the process that sends, by the thread that starts to: some children end without `atexit`.

    Those of multiprocessing run their finalizers. Those of Celery's prefork pool run nothing but a signal, and then `os._exit`.
    """
    for name in ("multiprocessing.util", "billiard.util"):
        if (util := sys.modules.get(name)) is not None:
            util.Finalize(None, _exit, exitpriority=100)
    if (signals := sys.modules.get("celery.signals")) is not None:
        # Under one name, so that it is one receiver, however many producers there are.
        signals.worker_process_shutdown.connect(_exit_of_a_worker, weak=False, dispatch_uid="kinfold")


@cache
def _register() -> None:
    atexit.register(_exit)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_in_child)


def _exit() -> None:
    for living in list(_LIVING):
        living.at_exit()


def _exit_of_a_worker(**_: object) -> None:
    _exit()


def _in_child() -> None:
    for living in list(_LIVING):
        living.in_child()
