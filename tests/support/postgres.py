"""A PostgreSQL server for tests, if the machine has one: Debian's package, or programs on PATH."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from tests.support.engines import free_port
from tests.support.waiting import wait_until_sync

USER: Final = "kinfold"
MAINTENANCE: Final = "postgres"
"""The database that every server has."""
TEMPLATE: Final = "template1"
"""PostgreSQL's own template: an empty database."""

_DEBIAN: Final = Path("/usr/lib/postgresql")
_PROGRAMS: Final = ("initdb", "postgres", "psql")
_UNPRIVILEGED: Final = ("postgres", "nobody")
_PATIENCE_S: Final = 120.0
_ATTEMPTS: Final = 5
_LOG_TAIL: Final = 2000
_READY_LINE: Final = 7
"""The line of `postmaster.pid`, from 0, that says "ready"."""

# Without fsync, the data survives a killed server, but not a power failure.
_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": 0,
    "shared_buffers": "32MB",
    "jit": "off",
}


class NoPostgres(Exception):
    """PostgreSQL cannot run here; the message says why."""


@contextmanager
def postgres_server(directory: Path | None = None, settings: Mapping[str, object] = {}) -> Generator["PostgresServer"]:
    """Run a server with its own data, or with the data that an earlier server left in `directory`.

    Raises:
        NoPostgres: its programs are not installed, or no user can run them.

    """
    programs, user = _find_programs(), _unprivileged_user()
    with tempfile.TemporaryDirectory(prefix="kinfold-postgres-") as name:
        server = PostgresServer(programs, user, directory or Path(name), settings)
        server.start()
        try:
            yield server
        finally:
            server.stop()


class PostgresServer:
    """A server on 127.0.0.1, with its files in one directory. TCP connections need the password in the URL.

    On Linux, the server ends with this process, even after SIGKILL.
    """

    def __init__(
        self, programs: Path, user: pwd.struct_passwd | None, directory: Path, settings: Mapping[str, object] = {}
    ) -> None:
        """Create the data directory with `user` as the owner, unless it is there. The server does not run yet."""
        self._programs: Final = programs
        self._user: Final = user
        self._directory: Final = directory
        self._data: Final = directory / "data"
        self._settings: Final = {**_SETTINGS, **settings}
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        secret = directory / "password"
        if not self._data.exists():
            self._create(secret)
        self._password: Final = secret.read_text()
        self.description: Final = "PostgreSQL " + self._run("postgres", "--version").split()[2]
        """Name and version."""

    @property
    def url(self) -> str:
        """The URL of the maintenance database."""
        return self.url_of(MAINTENANCE)

    @property
    def port(self) -> int:
        """The TCP port; it stays the same when the server starts again."""
        return self._port

    @property
    def process_id(self) -> int:
        """The process of the server that was started last."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process that was started last runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it answers. It keeps its port and its data from an earlier start."""
        given = self._port
        for _ in range(_ATTEMPTS):
            self._port = given or free_port()
            if self._becomes_ready():
                return
            if given or "could not create any TCP/IP sockets" not in self._log_tail():  # not: somebody took the free port
                break
        raise AssertionError(f"PostgreSQL ended while it started: {self._log_tail()}")

    def stop(self) -> None:
        """Close every connection and stop the server, if it runs."""
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """End the server without a shutdown, if it runs. The next start has to recover."""
        self._end(signal.SIGQUIT)

    @contextmanager
    def database(self, template: str = TEMPLATE) -> Generator[str]:
        """Copy a database that has no connections, yield the copy's URL, and drop the copy."""
        name = f"test_{secrets.token_hex(8)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield self.url_of(name)
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def execute(self, statement: str, url: str | None = None) -> str:
        """Execute a statement as the superuser, in the maintenance database or that of a URL.

        Returns:
            the rows as lines, with `|` between the columns.

        """
        options = ["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1"]
        return self._run("psql", *options, "--dbname", url or self.url, "--command", statement)

    def run_script(self, script: str, url: str, **variables: str) -> str:
        """Run a script of psql with variables, as a person does: with the headings of each table.

        Returns:
            what it prints, as CSV.

        """
        options = ["--no-psqlrc", "--quiet", "--csv", "--set", "ON_ERROR_STOP=1", "--file", "-"]
        options += [f"--set={name}={value}" for name, value in variables.items()]
        return self._run("psql", *options, "--dbname", url, text=script)

    def url_of(self, database: str) -> str:
        """The URL of a database."""
        return f"postgresql://{USER}:{self._password}@127.0.0.1:{self._port}/{quote(database)}"

    def _create(self, secret: Path) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        secret.write_text(secrets.token_hex(8))
        if self._user is not None:
            for path in (self._directory, secret):
                os.chown(path, self._user.pw_uid, self._user.pw_gid)
        owner = ["--username", USER, "--pwfile", secret, "--auth-local", "trust", "--auth-host", "scram-sha-256"]
        self._run("initdb", "--pgdata", self._data, *owner, "--encoding", "UTF8", "--locale", "C", "--no-sync")

    def _becomes_ready(self) -> bool:
        settings = {**self._settings, "port": self._port, "unix_socket_directories": self._directory}
        command = [str(self._programs / "postgres"), "-D", str(self._data)]
        command += [f"--{name}={value}" for name, value in settings.items()]
        if (setpriv := shutil.which("setpriv")) is not None:
            command = [setpriv, "--pdeathsig", "QUIT", *command]
        with (self._directory / "log").open("wb") as log:
            self._process = process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                cwd=self._directory,
                user=self._user and self._user.pw_uid,
                group=self._user and self._user.pw_gid,
                extra_groups=self._user and [],
            )

        def state() -> str:
            return "ended" if process.poll() is not None else "ready" if self._is_ready(process.pid) else ""

        return wait_until_sync(state, _PATIENCE_S) == "ready"

    def _is_ready(self, process_id: int) -> bool:
        """Whether the server says so, as `pg_ctl` asks it."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > _READY_LINE and lines[0] == str(process_id) and lines[_READY_LINE].strip() == "ready"

    def _end(self, kind: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(kind)
            self._process.wait(_PATIENCE_S)

    def _log_tail(self) -> str:
        return (self._directory / "log").read_text()[-_LOG_TAIL:].strip()

    def _run(self, program: str, *arguments: object, text: str = "") -> str:
        done = subprocess.run(
            [self._programs / program, *map(str, arguments)],
            input=text,
            capture_output=True,
            text=True,
            env=_environment(),
            cwd=self._directory,
            user=self._user and self._user.pw_uid,
            group=self._user and self._user.pw_gid,
            extra_groups=self._user and [],
            timeout=_PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, f"{program} failed: {done.stderr[-_LOG_TAIL:]}"
        return done.stdout.strip()


def _find_programs() -> Path:
    """Return the directory of the newest version that is complete. Debian links only some programs from PATH."""
    debian = sorted(_DEBIAN.glob("[0-9]*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    on_path = [Path(found).resolve().parent for found in [shutil.which("initdb")] if found is not None]
    for directory in (*debian, *on_path):
        if all((directory / name).exists() for name in _PROGRAMS):
            return directory
    raise NoPostgres(f"PostgreSQL is not installed: expected {', '.join(_PROGRAMS)} in {_DEBIAN}/*/bin or on PATH")


def _unprivileged_user() -> pwd.struct_passwd | None:
    """Return the user to run the programs as; None: the current one. PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for name in _UNPRIVILEGED:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise NoPostgres(f"PostgreSQL refuses to run as root: expected one of the users {', '.join(_UNPRIVILEGED)}")


def _environment() -> dict[str, str]:
    """The environment without settings of PostgreSQL."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}
