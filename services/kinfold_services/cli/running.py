"""`kinfold up`, `down` and `projector`: what keeps running."""

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

from kinfold_services.cli.output import DONE, NO, UNREACHABLE, USAGE, complain, say
from kinfold_services.cli.process_file import process_file, process_on
from kinfold_services.embedded import EmbeddedServer, ServerAlreadyRunning, make_data_dir, running_url
from kinfold_services.gateway.beside import CannotListen, GatewayBeside, first_key, gateway_url, is_local, serve_workspace
from kinfold_services.logs import configure_logs
from kinfold_services.servers import server_url
from kinfold_services.settings import Settings

LOG_FILE: Final = "kinfold.log"
DETACHED: Final = "KINFOLD_DETACHED"
"""Set for an `up` that another one started in the background."""
_READY_S: Final = 60.0
_STOP_S: Final = 40.0
_ANOTHER_S: Final = 2.0
"""Between a starting `up`'s server and its process file there is a moment."""
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
        return _run_all(settings, settings.redis_url, None)
    try:
        server = EmbeddedServer.start(settings.data_dir, fsync="always")
    except ServerAlreadyRunning as error:
        return complain(f"{error}; `kinfold down{_options(settings, 'data_dir')}` stops it", NO)
    with server, process_file(settings.data_dir), _ending_with(server) as has_ended:
        status = _run_all(settings, server.url, settings.data_dir)
        return NO if has_ended() else status


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
            say("kinfold: the embedded server ended")
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
            say(_what_next(settings, url, gateway.url, first_key(url, settings.workspace)))
        status = run_projector(settings)
        return NO if gateway.ended else status


def up_detached(settings: Settings) -> int:
    """Starts `kinfold up` in the background, unless it runs already, and returns when events are folded."""
    if settings.redis_url is not None:
        return complain("--detach: found a Redis URL, allowed is it with the embedded server of a data dir alone", USAGE)
    settings = _serving_its_own(settings)
    url = running_url(settings.data_dir)
    if url is not None and not _until(lambda: process_on(settings.data_dir) is not None, _ANOTHER_S):
        return complain(f"an embedded server already runs on {settings.data_dir}, and it is not of a `kinfold up`", NO)
    if url is None:
        make_data_dir(settings.data_dir)
        log = settings.data_dir / LOG_FILE
        command = [sys.executable, "-m", "kinfold_services.cli", "up"]
        command += ["--data-dir", str(settings.data_dir), "--workspace", settings.workspace]
        with log.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603  our own program
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, DETACHED: "1"},
            )
        if not _until(lambda: _is_up(settings.data_dir) or process.poll() is not None, _READY_S) or process.poll() is not None:
            return complain(f"it did not start; {log} says why", UNREACHABLE)
        url = running_url(settings.data_dir)
    else:
        serve_workspace(url, settings.workspace)
    new_key = first_key(url, settings.workspace) if url else None
    say(_what_next(settings, url or "", gateway_url(settings.data_dir) or "", new_key))
    return DONE


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
        return complain(f"nothing runs on {settings.data_dir}", NO)
    os.kill(process_id, signal.SIGTERM)
    if not _until(lambda: running_url(settings.data_dir) is None and process_on(settings.data_dir) is None, _STOP_S):
        return complain(f"process {process_id} did not stop within {_STOP_S:g} s", NO)
    say("stopped")
    return DONE


def _what_next(settings: Settings, url: str, gateway: str, new_key: str | None) -> str:
    program = shlex.quote(sys.argv[0]) if sys.argv[0].endswith("kinfold") else "kinfold"
    with_options = _options(settings, "redis_url", "data_dir", "workspace")
    stop = f"{program} down{_options(settings, 'data_dir')}" if settings.redis_url is None else "Ctrl-C"
    for_now = new_key is not None and not is_local(settings.gateway_host)
    return f"""\
kinfold is up.
  the log        {url}
  the gateway    {gateway}{f", for now: on {settings.gateway_host} from the next start on, with a key" if for_now else ""}
  its key        {new_key or f"shown when it was made; `{program} keys create{with_options}` makes another"}
  publish        {program} publish events.ndjson{with_options}
                 echo '{{"type":"VisitorSeen","visitorId":"v-1"}}' | {program} publish{with_options}
  look           {program} show --visitor v-1{with_options}
                 {program} contacts{with_options}
                 {program} status{with_options}
  follow         {program} tail{with_options}
  open           {gateway}/docs
  run            curl -H 'Authorization: Bearer {new_key or "KEY"}' '{gateway}/v1/contacts?limit=3'
  stop           {stop}"""


def _options(settings: Settings, *names: str) -> str:
    """What a command has to be told to mean the same log: what it does not find in the environment by itself."""
    found = Settings()
    differing = [name for name in names if getattr(settings, name) != getattr(found, name)]
    return "".join(f" --{name.replace('_', '-')} {shlex.quote(str(getattr(settings, name)))}" for name in differing)


def _is_up(data_dir: Path) -> bool:
    return running_url(data_dir) is not None and process_on(data_dir) is not None and gateway_url(data_dir) is not None


def _until(holds: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_AGAIN_S)
    return True
