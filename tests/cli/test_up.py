"""`kinfold up` and `down` start and stop everything, in the background or in the foreground (contract section 9)."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
import redis as redis_py

from kinfold_services.cli.gateway_process import gateway_url
from kinfold_services.server.embedded import EmbeddedServer, running_url
from tests.support.command_line import PATIENCE_S, Kinfold
from tests.support.event_log import HISTORY, HISTORY_CONTACTS, HISTORY_ENTRIES
from tests.support.projecting import KINFOLD, clean_environment
from tests.support.shown_secrets import as_on_a_terminal
from tests.support.waiting import wait_until_sync


@pytest.mark.slow
def test_demo_twice_gives_the_same_contacts(data_dir: Path) -> None:
    """`make demo` twice gives 473 contacts: the second time all events are duplicates, and nothing changes."""
    kinfold = Kinfold("--data-dir", data_dir)

    assert kinfold.run_apart("up", "--detach").status == 0
    kinfold.json("publish", HISTORY, "--wait")
    contacts, status = kinfold.lines("contacts"), kinfold.json("status")
    assert len(contacts) == HISTORY_CONTACTS
    assert (status["entries"], status["lag"], status["contacts"]) == (HISTORY_ENTRIES, 0, HISTORY_CONTACTS)

    again = kinfold.run_apart("up", "--detach")
    assert (again.status, "kinfold is up." in again.err) == (0, True)
    kinfold.json("publish", HISTORY, "--wait")
    assert kinfold.lines("contacts") == contacts
    assert kinfold.json("status")["duplicate"] == HISTORY_ENTRIES

    assert kinfold.run("down").status == 0
    assert running_url(data_dir) is None


@pytest.mark.slow
def test_suggested_commands_of_up_work(data_dir: Path, tmp_path: Path) -> None:
    """In any directory: the commands name the data dir, unless it is the default one. The link signs in once."""
    kinfold = Kinfold("--data-dir", data_dir)
    said = kinfold.run_apart("up", "--detach")
    (publish,) = re.findall(r"^ +(echo .+)$", said.err, re.MULTILINE)
    on_a_terminal = as_on_a_terminal(said.err)
    ((gateway, link),) = re.findall(r"^ +open +(http\S+)/sign-in\?link=(\S+)$", on_a_terminal, re.MULTILINE)

    environment = clean_environment(PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    subprocess.run(["bash", "-c", publish], cwd=tmp_path, env=environment, check=True)

    wait_until_sync(lambda: kinfold.run("show", "--visitor", "v-1").status == 0)
    with httpx.Client(base_url=gateway, trust_env=False, timeout=PATIENCE_S) as client:
        answers = [client.post("/sign-in", data={"link": link, "by": "Ada"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [303, 401]


@pytest.mark.slow
def test_workspace_option_of_up_serves_it_and_creates_a_key(data_dir: Path) -> None:
    """Both for an `up` that starts and for one that already runs. The suggested commands name the workspace."""
    for name in ("shop", "blog"):
        kinfold = Kinfold("--data-dir", data_dir, "--workspace", name)

        said = kinfold.run_apart("up", "--detach")

        assert said.status == 0, said
        assert f"kf_sk_{name}_" in as_on_a_terminal(said.err)
        assert re.search(rf"^  look .* show --visitor v-1 .*--workspace {name}$", said.err, re.MULTILINE)
        assert re.search(r"^  stop .* down --data-dir '[^']+'$", said.err, re.MULTILINE)
        assert kinfold.json("publish", "--wait", stdin=b'{"type":"VisitorSeen","visitorId":"v-1"}')["workspace"] == name

    served = [each["workspace"] for each in Kinfold("--data-dir", data_dir).lines("status")]
    assert served == ["blog", "default", "shop"]


@pytest.mark.slow
@pytest.mark.parametrize(("options", "name"), [((), "shop"), (("--workspace", "blog"), "blog")])
def test_suggested_commands_name_a_workspace_that_is_served(data_dir: Path, options: tuple[str, ...], name: str) -> None:
    """If KINFOLD_SERVE omits `default`: one of its workspaces, or the given one, which is then served too."""
    kinfold = Kinfold("--data-dir", data_dir, KINFOLD_SERVE="shop,stall")

    said = kinfold.run_apart("up", "--detach", *options)

    assert said.status == 0, said
    assert f"kf_sk_{name}_" in as_on_a_terminal(said.err)
    assert re.search(rf"^  look .* show --visitor v-1 .*--workspace {name}$", said.err, re.MULTILINE)
    for each in {"shop", "stall", name}:
        published = kinfold.json("publish", "--wait", "--workspace", each, stdin=b'{"type":"VisitorSeen","visitorId":"v-1"}')
        assert published["workspace"] == each


@pytest.mark.slow
def test_up_with_a_redis_url_suggests_only_ctrl_c_to_stop(tmp_path: Path) -> None:
    """`kinfold down` only knows data dirs, so it cannot stop this one."""
    with EmbeddedServer.start(tmp_path / "server") as server:
        kinfold = Kinfold("--redis-url", server.url, "--workspace", "shop")
        command = [*kinfold.command("up"), "--data-dir", str(tmp_path / "data")]  # the directory's file is there
        environment = kinfold.environment()
        with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True) as process:
            assert process.stderr is not None
            (stop,) = (line for line in printed_lines(process.stderr) if line.startswith("  stop"))
            status = kinfold.json("publish", "--wait", stdin=b'{"type":"VisitorSeen","visitorId":"v-1"}')
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=PATIENCE_S)

    assert stop.split() == ["stop", "Ctrl-C"]
    assert status["workspace"] == "shop"
    assert process.returncode == 0


def printed_lines(lines: Iterable[str]) -> Iterator[str]:
    """The lines that `up` prints, up to the last one, which starts with `stop`."""
    for line in lines:
        yield line
        if line.startswith("  stop"):
            return


@pytest.mark.slow
def test_only_the_owner_can_read_the_data_dir(data_dir: Path) -> None:
    """The log contains addresses, so the data dir and each file in it belong to their owner alone, also with --detach."""
    before = os.umask(0o022)
    try:
        assert Kinfold("--data-dir", data_dir).run_apart("up", "--detach").status == 0
    finally:
        os.umask(before)

    wait_until_sync((data_dir / "directory.db").exists)
    assert data_dir.stat().st_mode & 0o777 == 0o700
    open_to_others = [path for path in data_dir.rglob("*") if path.stat().st_mode & 0o077]
    assert open_to_others == []


@pytest.mark.slow
def test_tilde_in_the_data_dir_is_the_home_directory(tmp_path: Path) -> None:
    """No shell replaces `~` in a variable, so kinfold does."""
    kinfold = Kinfold(KINFOLD_DATA_DIR="~/kept", HOME=str(tmp_path))

    assert kinfold.run_apart("up", "--detach").status == 0
    assert kinfold.run_apart("down").status == 0

    assert (tmp_path / "kept" / "kinfold.log").exists()
    assert (tmp_path / "kept" / "server.json").exists()


@pytest.mark.slow
def test_state_survives_down_and_up(data_dir: Path) -> None:
    """The data dir keeps the data and the position."""
    kinfold = Kinfold("--data-dir", data_dir)
    kinfold.run_apart("up", "--detach")
    kinfold.json("publish", "--wait", stdin=b'{"type":"VisitorSeen","visitorId":"v-1"}')
    before = kinfold.json("show", "--visitor", "v-1")
    assert kinfold.run("down").status == 0

    kinfold.run_apart("up", "--detach")

    assert kinfold.json("show", "--visitor", "v-1") == before
    kinfold.json("publish", "--wait", stdin=b'{"type":"VisitorSeen","visitorId":"v-2"}')
    assert kinfold.json("status")["folded"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_in_the_foreground_ends_with_its_server_at_a_signal(data_dir: Path, number: signal.Signals) -> None:
    """It prints its suggestions on standard error, and ends with status 0."""
    kinfold = Kinfold("--data-dir", data_dir)
    with subprocess.Popen(
        kinfold.command("up"), env=kinfold.environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE
    ) as up:
        wait_until_sync(lambda: gateway_url(data_dir), PATIENCE_S)
        kinfold.json("publish", "--wait", stdin=b'{"type":"VisitorSeen","visitorId":"v-1"}')
        second = kinfold.run("up")
        up.send_signal(number)
        out, err = up.communicate(timeout=PATIENCE_S)

    assert (second.status, "already runs on" in second.err) == (1, True)
    assert up.returncode == 0, err
    assert out == b""
    assert b"kinfold is up." in err
    assert b"Traceback" not in err
    assert running_url(data_dir) is None


@pytest.mark.slow
@pytest.mark.parametrize("is_up", [False, True], ids=["as soon as it starts", "when all is up"])
def test_up_ends_when_its_server_ends(data_dir: Path, *, is_up: bool) -> None:
    """`up` reports it, ends with status 1, and leaves the data dir ready for the next `up`."""
    kinfold = Kinfold("--data-dir", data_dir)
    with subprocess.Popen(kinfold.command("up"), env=kinfold.environment(), stderr=subprocess.PIPE) as up:
        # The server answers before `up` knows it; from the gateway's start on, `up` watches the server.
        wait_until_sync(lambda: gateway_url(data_dir) if is_up else starts_a_gateway(up.pid), PATIENCE_S)
        url = running_url(data_dir)
        assert url is not None
        with redis_py.Redis.from_url(url) as client:
            os.kill(int(client.info("server")["process_id"]), signal.SIGKILL)
        _, err = up.communicate(timeout=PATIENCE_S)

    assert b"kinfold: the embedded server ended" in err
    assert up.returncode == 1, err.decode()
    assert kinfold.run_apart("up", "--detach").status == 0


# The server is dead when `up` begins to watch it, and the thread that watches is faster than the main thread.
_UP_ON_A_DEAD_SERVER = """
import os, signal, threading, redis
from kinfold_services.cli import main
from kinfold_services.server.embedded import EmbeddedServer

def start(*arguments, **options):
    server = real_start(*arguments, **options)
    with redis.Redis.from_url(server.url) as client:
        os.kill(client.info("server")["process_id"], signal.SIGKILL)
    server.wait()
    return server

def start_thread(thread):
    real_start_thread(thread)
    if "watch" in thread.name:
        thread.join()

real_start, EmbeddedServer.start = EmbeddedServer.start, start
real_start_thread, threading.Thread.start = threading.Thread.start, start_thread
main()
"""


# The server ends just before the projector starts, and the thread that watches it is slow to say so.
_UP_LOSES_ITS_SERVER = """
import os, signal, time, redis
from kinfold_services.cli import main, running
from kinfold_services.server.embedded import running_url

def what_next(settings, url, *arguments, **options):
    with redis.Redis.from_url(url) as client:
        real_kill(client.info("server")["process_id"], signal.SIGKILL)
    while running_url(settings.data_dir) is not None:
        time.sleep(0.01)
    return "kinfold is up."

def kill(process_id, number):
    if process_id == os.getpid():
        time.sleep(2)
    real_kill(process_id, number)

running.what_next = what_next
real_kill, os.kill = os.kill, kill
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("program", [_UP_ON_A_DEAD_SERVER, _UP_LOSES_ITS_SERVER], ids=["it is watched", "the projector starts"])
def test_up_ends_with_status_1_if_its_server_ends_before(data_dir: Path, program: str) -> None:
    kinfold = Kinfold("--data-dir", data_dir)
    up = subprocess.run(
        [sys.executable, "-c", program, *kinfold.command("up")[len(KINFOLD) :]],
        env=kinfold.environment(),
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert b"kinfold: the embedded server ended" in up.stderr
    assert up.returncode == 1


def starts_a_gateway(parent: int) -> bool:
    """Whether a gateway is a child of the process."""
    processes = subprocess.run(["ps", "-axww", "-o", "ppid=,args="], capture_output=True, text=True, check=True).stdout
    return any(line.split()[0] == str(parent) and " gateway " in line for line in processes.splitlines())


@pytest.mark.slow
def test_up_keeps_a_directory(data_dir: Path) -> None:
    """`kinfold status` shows that it has every change, and it goes on where it was after `down` and `up`."""
    kinfold = Kinfold("--data-dir", data_dir)

    def is_current() -> bool:
        (status,) = kinfold.lines("status")
        directory = status["directory"]
        return directory is not None and (directory["state"], directory["lagMs"]) == ("current", 0)

    for number in (1, 2):
        assert kinfold.run_apart("up", "--detach").status == 0
        kinfold.json("publish", "--wait", stdin=f'{{"type":"VisitorIdentified","externalId":"u-{number}"}}'.encode())
        wait_until_sync(is_current)
        assert directory_contacts(data_dir) == number
        assert kinfold.run("down").status == 0


def directory_contacts(data_dir: Path) -> int:
    """How many contacts the public view has."""
    with closing(sqlite3.connect(f"{(data_dir / 'directory.db').as_uri()}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM contacts WHERE workspace = 'default'").fetchone()[0])


@pytest.mark.slow
def test_up_ends_when_its_directory_ends(data_dir: Path) -> None:
    """As with the gateway, so that nobody misses it."""
    kinfold = Kinfold("--data-dir", data_dir)
    with subprocess.Popen(kinfold.command("up"), env=kinfold.environment(), stderr=subprocess.PIPE) as up:
        wait_until_sync(lambda: gateway_url(data_dir))
        (directory,) = wait_until_sync(lambda: children(up.pid, "directory"))
        os.kill(directory, signal.SIGKILL)
        _, err = up.communicate(timeout=PATIENCE_S)

    assert b"kinfold: the directory ended with status -9" in err
    assert up.returncode == 1
    assert running_url(data_dir) is None


def children(process_id: int, command: str) -> list[int]:
    """The process ids of the children that run a command of kinfold."""
    said = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(process_id)], capture_output=True, text=True, check=False)
    return [int(line.split()[0]) for line in said.stdout.splitlines() if f"-m kinfold_services {command} " in line]


def test_down_without_a_running_kinfold_is_status_1(data_dir: Path) -> None:
    said = Kinfold("--data-dir", data_dir).run("down")

    assert (said.status, said.out) == (1, b"")
    assert f"nothing runs on {data_dir}" in said.err


def test_down_does_not_stop_another_program_with_an_old_process_id(data_dir: Path) -> None:
    """The process id that a killed `kinfold up` left behind may belong to another program."""
    data_dir.mkdir(mode=0o700)
    with subprocess.Popen(["sleep", "60"]) as somebody:
        (data_dir / "kinfold.pid").write_text(str(somebody.pid))
        said = Kinfold("--data-dir", data_dir).run("down")
        still_there = somebody.poll() is None
        somebody.kill()

    assert still_there
    assert said.status == 1


@pytest.mark.slow
def test_up_that_cannot_start_gives_the_reason(data_dir: Path) -> None:
    """The status is 3, because there is no server."""
    data_dir.mkdir(mode=0o700)
    (data_dir / "server.json").write_text('{"engine": "valkey", "version": "99.0.0", "socket": "/x"}')

    said = Kinfold("--data-dir", data_dir).run_apart("up", "--detach")

    assert said.status == 3
    assert "it did not start; " in said.err
    assert "99.0" in (data_dir / "kinfold.log").read_text()


def test_server_of_another_program_does_not_count_as_up(data_dir: Path) -> None:
    """`up --detach` reports that the server of the data dir belongs to another program."""
    with EmbeddedServer.start(data_dir):
        said = Kinfold("--data-dir", data_dir).run_apart("up", "--detach")

    assert said.status != 0
    assert "already runs on" in said.err
