"""The end of the process, and forks: every delivery that was ever started hears of them.

Nothing is registered before the first producer is made: importing `kinfold` has no effect on anybody.
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


class Living(Protocol):
    """What has something to do at the end, and after a fork."""

    def at_exit(self) -> None:
        """The process ends: send what can be sent."""

    def at_task_end(self) -> None:
        """A task of a pool is done, and its process may be killed as soon as its result is known: send what can be sent."""

    def in_child(self) -> None:
        """This is a forked child: what waits is the parent's, and so are thread and connection."""


_LIVING: WeakSet[Living] = WeakSet()


def watch(living: Living) -> None:
    """Lets `living` hear of the end and of forks, for as long as somebody holds it."""
    _register()
    _LIVING.add(living)


def watch_child_exit() -> None:
    """Called in the process that sends, by the thread that starts to: some children end without `atexit`.

    Those of multiprocessing run their finalizers, but for those of `multiprocessing.Pool`: it ends them with SIGTERM as soon as
    it has the results. Those of Celery's prefork pool run nothing but a signal, and then `os._exit`.
    """
    for name in ("multiprocessing.util", "billiard.util"):
        if (util := sys.modules.get(name)) is not None:
            util.Finalize(None, _exit, exitpriority=100)
    if "multiprocessing.pool" in sys.modules:
        _watch_tasks()
    if (signals := sys.modules.get("celery.signals")) is not None:
        # Under one name, so that it is one receiver, however many producers there are.
        signals.worker_process_shutdown.connect(_exit_of_a_worker, weak=False, dispatch_uid="kinfold")


def _watch_tasks() -> None:
    """In a child of `multiprocessing.Pool`: sends what a task said before the pool hears of the task's result.

    A child runs `multiprocessing.pool.worker`, which has no hook. It puts each result into a queue, whose lock it takes for
    that, and this puts itself in front of the lock, in this process alone. A handler of SIGTERM would not do: it would have to
    send in the middle of anything, it could only be set by the main thread, and the application may have one itself.
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
        log.warning("this Python's multiprocessing.Pool is not known: flush at the end of each task, or it may be lost")
    elif not isinstance(results._wlock, _SendingFirst):  # noqa: SLF001
        results._wlock = _SendingFirst(results._wlock)  # noqa: SLF001  None where a pipe needs no lock (Windows)


class _SendingFirst:
    """A lock; whoever takes it sends what waits before."""

    def __init__(self, lock: AbstractContextManager[Any] | None) -> None:
        self._lock: Final = lock or cast("AbstractContextManager[Any]", nullcontext())

    def __enter__(self) -> None:
        for living in list(_LIVING):
            living.at_task_end()
        self._lock.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lock.__exit__(kind, error, trace)


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
