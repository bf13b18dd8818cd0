"""Tells every delivery about forks and the end of the process.

Importing `kinfold` registers nothing; the first producer does.
"""

import atexit
import logging
import os
import sys
import threading
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from types import TracebackType
from typing import Any, Final, Protocol, cast
from weakref import WeakSet

log = logging.getLogger("kinfold")


class Watched(Protocol):
    """An object that has work to do after a fork and at the end of the process."""

    def at_exit(self) -> None:
        """Send what can be sent, because the process ends."""

    def at_task_end(self) -> None:
        """Send what can be sent: a pool may kill the process as soon as it has the result of a task."""

    def in_child(self) -> None:
        """Start over in a forked child: the events, the thread and the connection are the parent's."""


_WATCHED: WeakSet[Watched] = WeakSet()


def watch(watched: Watched) -> None:
    """Tell `watched` about forks and the end of the process, as long as something refers to it."""
    _register()
    _WATCHED.add(watched)


def watch_child_exit() -> None:
    """Prepare for the end of a child process that does not run `atexit`. The thread that starts to send calls this.

    Children of multiprocessing run their finalizers, except those of `multiprocessing.Pool`, which it ends with SIGTERM as soon
    as it has the results. Children of Celery's prefork pool only send a signal, and then call `os._exit`.
    """
    for name in ("multiprocessing.util", "billiard.util"):
        if (util := sys.modules.get(name)) is not None:
            util.Finalize(None, _exit, exitpriority=100)
    if "multiprocessing.pool" in sys.modules:
        _watch_tasks()
    if (signals := sys.modules.get("celery.signals")) is not None:
        # The same dispatch_uid makes one receiver, however many producers there are.
        signals.worker_process_shutdown.connect(_exit_of_worker, weak=False, dispatch_uid="kinfold")


def _watch_tasks() -> None:
    """In a child of `multiprocessing.Pool`: send the events of a task before the pool gets its result.

    A child runs `multiprocessing.pool.worker`, which has no hook. It puts each result into a queue and takes the queue's lock
    for that; this wraps the lock, in this process only. A handler of SIGTERM would not do: it would have to send in the middle
    of anything, only the main thread could set it, and the application may have its own.
    """
    if sys.modules["multiprocessing.process"].parent_process() is None:
        return
    worker: Any = sys.modules["multiprocessing.pool"].worker
    frame = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    while frame is not None and frame.f_code is not worker.__code__:
        frame = frame.f_back
    if frame is None:
        return
    results: Any = frame.f_locals.get("outqueue")
    if not hasattr(results, "_wlock"):
        log.warning("this version of multiprocessing.Pool is unknown: flush at the end of each task, or events may be lost")
    elif not isinstance(results._wlock, _SendingLock):  # noqa: SLF001
        results._wlock = _SendingLock(results._wlock)  # noqa: SLF001  None where a pipe needs no lock (Windows)


class _SendingLock:
    """A lock that sends what waits before it is acquired."""

    def __init__(self, lock: AbstractContextManager[Any] | None) -> None:
        self._lock: Final = lock or cast("AbstractContextManager[Any]", nullcontext())

    def __enter__(self) -> None:
        for watched in list(_WATCHED):
            watched.at_task_end()
        self._lock.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lock.__exit__(kind, error, trace)


@cache
def _register() -> None:
    atexit.register(_exit)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_in_child)


def _exit() -> None:
    for watched in list(_WATCHED):
        watched.at_exit()


def _exit_of_worker(**_: object) -> None:
    _exit()


def _in_child() -> None:
    for watched in list(_WATCHED):
        watched.in_child()
