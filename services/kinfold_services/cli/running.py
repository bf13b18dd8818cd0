"""`kinfold up`, `down` and `projector`: what keeps running."""

import asyncio
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import uvloop

from kinfold_services.cli.options import repeated_options, shown_url
from kinfold_services.cli.output import DONE, INTERRUPTED, NO, UNREACHABLE, USAGE, complain, say
from kinfold_services.cli.process_file import AlreadyUp, process_file, process_on
from kinfold_services.embedded import (
    EmbeddedServer,
    ServerAlreadyRunning,
    disk_is_full,
    make_data_dir,
    running_url,
    using_data_dir,
)
from kinfold_services.gateway.beside import (
    CannotListen,
    GatewayBeside,
    Port,
    first_key,
    forget_gateway,
    gateway_port,
    gateway_url,
    is_local,
    is_proxied,
    serve_workspace,
)
from kinfold_services.logs import configure_logs
from kinfold_services.servers import check, server_url
from kinfold_services.settings import Settings, unknown_variables

LOG_FILE: Final = "kinfold.log"
DETACHED: Final = "KINFOLD_DETACHED"
"""Set for an `up` that another one started in the background."""
_READY_S: Final = 60.0
_STOP_S: Final = 40.0
_SAYS: Final = "kinfold: "
_LOOK_AGAIN_S: Final = 0.05


def run_projector(settings: Settings) -> int:
    """Runs the projector until a signal."""
    from kinfold_services.projector.service import ProjectorService  # noqa: PLC0415  FastStream takes a while to load

    uvloop.run(ProjectorService(settings, server_url(settings)).run())
    return DONE


def up(settings: Settings) -> int:
    """Runs everything in the foreground, until a signal."""
    configure_logs(settings.log_format, settings.log_level)
    settings = _serving_its_own(settings)
    if settings.redis_url is not None:
        asyncio.run(check(settings))  # before the gateway starts, which could only end with this one
        return _run_all(settings, settings.redis_url, None)
    make_data_dir(settings.data_dir)
    try:
        with process_file(settings.data_dir):
            forget_gateway(settings.data_dir)
            with EmbeddedServer.start(settings.data_dir, fsync="always") as server, _ending_with(server) as has_ended:
                status = _run_all(settings, server.url, settings.data_dir)
                return NO if has_ended() else status
    except AlreadyUp:
        stop = f"`kinfold down{repeated_options(settings, 'data_dir')}` stops it"
        return complain(f"kinfold already runs on {settings.data_dir}; {stop}", NO)
    except ServerAlreadyRunning as error:
        return complain(f"{error}, and it does not belong to a `kinfold up`", NO)


@contextmanager
def _ending_with(server: EmbeddedServer) -> Generator[Callable[[], bool]]:
    """Ends this process when the server ends by itself: it would wait for it for ever, and be in the next one's way.

    Gives a question: whether that is what happened.
    """
    is_done, has_ended = threading.Event(), threading.Event()

    def watch() -> None:
        server.wait()
        if not is_done.is_set():
            has_ended.set()
            reason = "the disk is full" if disk_is_full(server.data_dir) else f"{server.data_dir / 'server.log'} says why"
            say(f"kinfold: the embedded server ended: {reason}")
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield has_ended.is_set
    finally:
        is_done.set()


def _run_all(settings: Settings, url: str, data_dir: Path | None) -> int:
    try:
        beside = GatewayBeside(settings, url, data_dir)
    except CannotListen as error:
        return complain(str(error), NO)
    with beside as gateway:
        serve_workspace(url, settings.workspace)
        if DETACHED not in os.environ:  # else whoever detached it says so
            say(_what_next(settings, url, gateway.url, gateway.port, detached=False))
        status = run_projector(settings)
        return NO if gateway.ended else status


def up_detached(settings: Settings) -> int:
    """Starts `kinfold up` in the background, unless it runs already, and returns when it answers."""
    if settings.redis_url is not None:
        return complain("--detach: expected no Redis URL, because it works only with the embedded server, got one", USAGE)
    settings = _serving_its_own(settings)
    make_data_dir(settings.data_dir)
    starting: list[subprocess.Popen[bytes]] = []
    try:
        status = _start(settings, starting)
    except KeyboardInterrupt:
        for process in starting:
            process.terminate()
            process.wait()
        return complain("interrupted; what was starting is stopped again", INTERRUPTED)
    if status is not None:
        return status
    url, gateway = running_url(settings.data_dir), gateway_url(settings.data_dir)
    port = gateway_port(settings.data_dir)
    if url is None or gateway is None or port is None:
        return complain(f"it ended again; {settings.data_dir / LOG_FILE} says why", UNREACHABLE)
    if "gateway_port" in settings.model_fields_set and settings.gateway_port not in {0, port.number}:
        stop = f"`kinfold down{repeated_options(settings, 'data_dir')}`"
        return complain(
            f"gateway: expected port {settings.gateway_port}, got a kinfold that already runs on {settings.data_dir} with port "
            f"{port.number}; {stop} stops it",
            NO,
        )
    serve_workspace(url, settings.workspace)
    say(_what_next(settings, url, gateway, port, detached=True))
    return DONE


def _start(settings: Settings, starting: "list[subprocess.Popen[bytes]]") -> int | None:
    """Returns None when `kinfold up` answers on the data dir, started by anybody; else the exit status, after a sentence.

    What it starts itself is added to `starting`.
    """
    log = settings.data_dir / LOG_FILE
    process: subprocess.Popen[bytes] | None = None
    logged_before = 0
    deadline = time.monotonic() + _READY_S
    while not _is_up(settings.data_dir):
        has_ended = process is not None and process.poll() is not None
        if process_on(settings.data_dir) is None and (process is None or has_ended):
            if process is not None:
                said = _last_complaint(log, logged_before) or f"{log} says why"
                status = process.returncode if process.returncode > 0 else UNREACHABLE
                return complain(f"it did not start; {said}", status)
            with using_data_dir(settings.data_dir):
                logged_before = log.stat().st_size if log.exists() else 0
                with _after_ctrl_c():  # or a process that was started, and that nobody knows of, would stay
                    process = _spawn(settings, log)
                    starting.append(process)
        if time.monotonic() > deadline:
            return complain(f"it did not answer within {_READY_S:g} s; {log} says why", UNREACHABLE)
        time.sleep(_LOOK_AGAIN_S)
    return None


@contextmanager
def _after_ctrl_c() -> Generator[None]:
    """Inside it Ctrl-C has to wait: KeyboardInterrupt is raised at the end."""
    pressed = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: pressed.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed.is_set():
        raise KeyboardInterrupt


def _spawn(settings: Settings, log: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "kinfold_services.cli", "up"]
    command += ["--data-dir", str(settings.data_dir), "--workspace", settings.workspace]
    if "gateway_port" in settings.model_fields_set:
        command += ["--port", str(settings.gateway_port)]
    unknown = unknown_variables(os.environ)  # this process has named them
    environment = {name: value for name, value in os.environ.items() if name not in unknown}
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603  our own program
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**environment, DETACHED: "1"},
        )


def _last_complaint(log: Path, start: int) -> str | None:
    """What `up` in the background said last for people, after the first `start` bytes of its log."""
    lines = log.read_bytes()[start:].decode(errors="replace").splitlines()
    return next((line.removeprefix(_SAYS) for line in reversed(lines) if line.startswith(_SAYS)), None)


def _serving_its_own(settings: Settings) -> Settings:
    """With a workspace that is served, where KINFOLD_SERVE names some: one that was given is, too; else one of them."""
    if not settings.serve or settings.workspace in settings.serve:
        return settings
    if "workspace" in settings.model_fields_set:
        return settings.model_copy(update={"serve": settings.serve | {settings.workspace}})
    return settings.model_copy(update={"workspace": min(settings.serve)})


def down(settings: Settings) -> int:
    """Stops what runs on the data dir. Exit status 1 where nothing does."""
    process_id = process_on(settings.data_dir)
    if process_id is None:
        return complain(f"nothing runs on {settings.data_dir.absolute()}", NO)
    os.kill(process_id, signal.SIGTERM)
    try:
        has_stopped = _until(lambda: running_url(settings.data_dir) is None and process_on(settings.data_dir) is None, _STOP_S)
    except KeyboardInterrupt:
        return complain(f"interrupted; process {process_id} was told to stop, and is stopping", INTERRUPTED)
    if not has_stopped:
        return complain(f"process {process_id} did not stop within {_STOP_S:g} s", NO)
    say("stopped")
    return DONE


def _what_next(settings: Settings, url: str, gateway: str, port: Port, *, detached: bool) -> str:
    """What to do with what runs, and the workspace's first key, which is made now."""
    new_key = first_key(url, settings.workspace)
    program = shlex.quote(sys.argv[0]) if sys.argv[0].endswith("kinfold") else "kinfold"
    with_options = repeated_options(settings, "redis_url", "data_dir", "workspace")
    stop = "Ctrl-C"
    if settings.redis_url is None:
        stop = f"{program} down{repeated_options(settings, 'data_dir')}{'' if detached else ' (or Ctrl-C)'}"
    for_now = new_key is not None and not is_local(settings.gateway_host)
    notes = [f"for now: on {settings.gateway_host} from the next start on, with a key"] if for_now else []
    if port.why:
        notes.append(port.why)
    directly = " --noproxy '*'" if is_proxied(gateway) else ""
    return f"""\
kinfold is up.
  the log        {shown_url(url)}
  the gateway    {gateway}{"".join(f" ({note})" for note in notes)}
  its key        {new_key or f"shown when it was made; `{program} keys create{with_options}` makes another"}
  publish        {program} publish events.ndjson{with_options}
                 echo '{{"type":"VisitorSeen","visitorId":"v-1"}}' | {program} publish{with_options}
  look           {program} show --visitor v-1{with_options}
                 {program} contacts{with_options}
                 {program} status{with_options}
  follow         {program} tail{with_options}
  open           {gateway}/docs
  run            curl{directly} -H 'Authorization: Bearer {new_key or "KEY"}' '{gateway}/v1/contacts?limit=3'
  stop           {stop}"""


def _is_up(data_dir: Path) -> bool:
    return running_url(data_dir) is not None and process_on(data_dir) is not None and gateway_url(data_dir) is not None


def _until(holds: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_AGAIN_S)
    return True
