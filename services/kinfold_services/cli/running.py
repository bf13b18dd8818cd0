"""The commands that start and stop services: `kinfold up`, `down` and `projector`."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import uvloop

from kinfold_services.cli.child_process import DirectoryProcess
from kinfold_services.cli.gateway_process import (
    CannotListen,
    GatewayProcess,
    forget_gateway,
    gateway_port,
    gateway_url,
    serve_workspace,
)
from kinfold_services.cli.options import repeated_options
from kinfold_services.cli.output import DONE, INTERRUPTED, NO, UNREACHABLE, USAGE, complain, say
from kinfold_services.cli.process_file import AlreadyUp, process_file, process_on
from kinfold_services.cli.what_next import what_next
from kinfold_services.connections import SERVER_ERRORS
from kinfold_services.directory.sqlite_version import sqlite_problem
from kinfold_services.runtime.garbage import importing
from kinfold_services.runtime.logs import configure_logs
from kinfold_services.server.choice import check
from kinfold_services.server.data_dir import disk_is_full, make_data_dir, using_data_dir
from kinfold_services.server.embedded import EmbeddedServer, running_url
from kinfold_services.server.errors import ServerAlreadyRunning
from kinfold_services.settings import Settings, inherited_environment

LOG_FILE: Final = "kinfold.log"
DETACHED: Final = "KINFOLD_DETACHED"
"""Set for an `up` that `up --detach` started in the background."""
_READY_S: Final = 60.0
_STOP_S: Final = 40.0
_NOTICED_S: Final = 5.0
_PREFIX: Final = "kinfold: "
"""The beginning of every message for people."""
_LOOK_AGAIN_S: Final = 0.05


def run_projector(settings: Settings, url: str) -> int:
    """Run the projector on the server at `url` until a signal."""
    with importing():
        from kinfold_services.projector.service import ProjectorService  # noqa: PLC0415  FastStream loads slowly

    uvloop.run(ProjectorService(settings, url).run())
    return DONE


def up(settings: Settings) -> int:
    """Run everything in the foreground until a signal."""
    signal.signal(signal.SIGTERM, _terminate)  # until the projector handles it; by default it would stop nothing but us
    configure_logs(settings.log_format, settings.log_level)
    try:
        return _up(settings)
    except (_Terminated, KeyboardInterrupt):  # before the projector handles signals
        return DONE


class _Terminated(BaseException):
    """SIGTERM."""


def _terminate(*_: object) -> None:
    raise _Terminated


def _up(settings: Settings) -> int:
    settings = _with_served_workspace(settings)
    if settings.redis_url is not None:
        asyncio.run(check(settings))  # an unusable server is reported before the gateway starts
        return _run_all(settings, settings.redis_url, None)
    make_data_dir(settings.data_dir)
    try:
        with process_file(settings.data_dir):
            forget_gateway(settings.data_dir)
            has_ended = threading.Event()
            status = DONE
            with (
                EmbeddedServer.start(settings.data_dir, fsync="always") as server,
                suppress(_Terminated),  # outside what sends the signal, which may come before the first line below
                _ending_with(server, has_ended),
            ):
                try:
                    status = _run_all(settings, server.url, settings.data_dir)
                except SERVER_ERRORS:
                    if not has_ended.wait(_NOTICED_S):
                        raise
                finally:
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # we are stopping already
            return NO if has_ended.is_set() else status
    except AlreadyUp:
        stop = f"`kinfold down{repeated_options(settings, 'data_dir')}` stops it"
        again = f"`kinfold up --detach{repeated_options(settings, 'data_dir', 'workspace')}`"
        look = f"{again} prints its addresses, where its key is, and a new link to the screen"
        return complain(f"kinfold already runs on {settings.data_dir}; {stop}, and {look}", NO)
    except ServerAlreadyRunning as error:
        return complain(f"{error}, and it does not belong to a `kinfold up`", NO)


@contextmanager
def _ending_with(server: EmbeddedServer, has_ended: threading.Event) -> Generator[None]:
    """Set `has_ended` and end this process when the server ends by itself.

    Otherwise it would wait forever, and block the next `up`.
    """
    is_done = threading.Event()

    def watch() -> None:
        server.wait()
        if not is_done.is_set():
            has_ended.set()
            reason = "the disk is full" if disk_is_full(server.data_dir) else f"see {server.data_dir / 'server.log'}"
            say(f"kinfold: the embedded server ended: {reason}")
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        is_done.set()


def _run_all(settings: Settings, url: str, data_dir: Path | None) -> int:
    child_ended = threading.Event()
    status = DONE
    try:
        with ExitStack() as stack:
            gateway = stack.enter_context(GatewayProcess(settings, url, data_dir, child_ended))
            try:
                if (problem := sqlite_problem(settings)) is None:
                    stack.enter_context(DirectoryProcess(url, str(settings.data_dir), child_ended))
                else:
                    say(f"kinfold: no directory: {problem}")
                serve_workspace(url, settings.workspace)
                if DETACHED not in os.environ:  # the `up --detach` that started this process prints it
                    say(what_next(settings, url, gateway.url, gateway.port, detached=False))
                status = run_projector(settings, url)
            finally:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # we are stopping already
    except CannotListen as error:
        return complain(str(error), NO)
    except _Terminated:
        pass
    except SERVER_ERRORS:  # asyncio may take _Terminated for a failure of the connection that it was writing to
        if not child_ended.is_set():
            raise
    return NO if child_ended.is_set() else status


def up_detached(settings: Settings) -> int:
    """Start `kinfold up` in the background, unless it already runs, and return when it answers."""
    if settings.redis_url is not None:
        return complain("--detach: expected no Redis URL, because it works only with the embedded server, got one", USAGE)
    settings = _with_served_workspace(settings)
    make_data_dir(settings.data_dir)
    starting: list[subprocess.Popen[bytes]] = []
    try:
        status = _start(settings, starting)
    except KeyboardInterrupt:
        for process in starting:
            process.terminate()
            process.wait()
        return complain("interrupted; the services that had started were stopped", INTERRUPTED)
    if status is not None:
        return status
    url, gateway = running_url(settings.data_dir), gateway_url(settings.data_dir)
    port = gateway_port(settings.data_dir)
    if url is None or gateway is None or port is None:
        return complain(f"it started and ended; see {settings.data_dir / LOG_FILE}", UNREACHABLE)
    if "gateway_port" in settings.model_fields_set and settings.gateway_port not in {0, port.number}:
        stop = f"`kinfold down{repeated_options(settings, 'data_dir')}`"
        return complain(
            f"gateway: expected port {settings.gateway_port}, got a kinfold that already runs on {settings.data_dir} with port "
            f"{port.number}; {stop} stops it",
            NO,
        )
    serve_workspace(url, settings.workspace)
    say(what_next(settings, url, gateway, port, detached=True))
    return DONE


def _start(settings: Settings, starting: "list[subprocess.Popen[bytes]]") -> int | None:
    """Start `kinfold up` unless it runs, and return None when it answers; else print an error and return the exit status.

    Adds the process that it starts to `starting`.
    """
    log = settings.data_dir / LOG_FILE
    process: subprocess.Popen[bytes] | None = None
    logged_before = 0
    deadline = time.monotonic() + _READY_S
    while not _is_up(settings.data_dir):
        has_ended = process is not None and process.poll() is not None
        if process_on(settings.data_dir) is None and (process is None or has_ended):
            if process is not None:
                reason = _last_error(log, logged_before) or f"see {log}"
                status = process.returncode if process.returncode > 0 else UNREACHABLE
                return complain(f"it did not start; {reason}", status)
            with using_data_dir(settings.data_dir):
                logged_before = log.stat().st_size if log.exists() else 0
                with _after_ctrl_c():  # otherwise a process could start that is not in `starting`, and would never be stopped
                    process = _spawn(settings, log)
                    starting.append(process)
        if time.monotonic() > deadline:
            return complain(f"it did not answer within {_READY_S:g} s; see {log}", UNREACHABLE)
        time.sleep(_LOOK_AGAIN_S)
    return None


@contextmanager
def _after_ctrl_c() -> Generator[None]:
    """Delay Ctrl-C: KeyboardInterrupt is raised at the end of the block."""
    pressed = threading.Event()

    def press(*_: object) -> None:
        pressed.set()

    before = signal.signal(signal.SIGINT, press)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed.is_set():
        raise KeyboardInterrupt


def _spawn(settings: Settings, log: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "kinfold_services", "up"]
    command += ["--data-dir", str(settings.data_dir), "--workspace", settings.workspace]
    if "gateway_port" in settings.model_fields_set:
        command += ["--port", str(settings.gateway_port)]
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603  our own program
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**inherited_environment(), DETACHED: "1"},
        )


def _last_error(log: Path, start: int) -> str | None:
    """The last message for people that `up` logged in the background, after the first `start` bytes of its log."""
    lines = log.read_bytes()[start:].decode(errors="replace").splitlines()
    return next((line.removeprefix(_PREFIX) for line in reversed(lines) if line.startswith(_PREFIX)), None)


def _with_served_workspace(settings: Settings) -> Settings:
    """Make sure that KINFOLD_SERVE includes the workspace: add one that was given, else choose one of the served."""
    if not settings.serve or settings.workspace in settings.serve:
        return settings
    if "workspace" in settings.model_fields_set:
        return settings.model_copy(update={"serve": settings.serve | {settings.workspace}})
    return settings.model_copy(update={"workspace": min(settings.serve)})


def down(settings: Settings) -> int:
    """Stop the `kinfold up` of the data dir. Exit status 1 if none runs."""
    process_id = process_on(settings.data_dir)
    if process_id is None:
        return complain(f"nothing runs on {settings.data_dir.absolute()}", NO)
    os.kill(process_id, signal.SIGTERM)
    try:
        has_stopped = _until(lambda: running_url(settings.data_dir) is None and process_on(settings.data_dir) is None, _STOP_S)
    except KeyboardInterrupt:
        return complain(f"interrupted; process {process_id} is stopping", INTERRUPTED)
    if not has_stopped:
        return complain(f"process {process_id} did not stop within {_STOP_S:g} s", NO)
    say("stopped")
    return DONE


def _is_up(data_dir: Path) -> bool:
    return running_url(data_dir) is not None and process_on(data_dir) is not None and gateway_url(data_dir) is not None


def _until(holds: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_AGAIN_S)
    return True
