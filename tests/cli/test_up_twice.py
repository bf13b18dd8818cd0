"""`kinfold up` beside another one, behind a proxy, on a port that is taken, on a full disk: what it says, and what is true."""

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kinfold_services.embedded import running_url
from kinfold_services.gateway.beside import gateway_url
from tests.support.command_line import PATIENCE_S, Kinfold, Said
from tests.support.engines import free_port
from tests.support.waiting import wait_until_sync

pytestmark = pytest.mark.slow

USUAL_PORT = 8000


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """Give a data dir, on which nothing is left running."""
    path = tmp_path / "data"
    yield path
    if running_url(path) is not None:
        Kinfold("--data-dir", path).run_apart("down")


def gateway_line(said: Said) -> str:
    """What `up` says of its gateway."""
    return next(line for line in said.err.splitlines() if line.startswith("  the gateway "))


def test_two_at_once_are_one(data_dir: Path) -> None:
    """The one that comes second waits for the other's, and says the same."""
    kinfold = Kinfold("--data-dir", data_dir)
    with ThreadPoolExecutor() as threads:
        both = list(threads.map(lambda _: kinfold.run_apart("up", "--detach"), range(3)))

    assert [said.status for said in both] == [0, 0, 0], both
    assert len({gateway_line(said) for said in both}) == 1
    assert all("kinfold is up." in said.err for said in both)


def test_the_second_in_the_foreground_says_that_one_runs(data_dir: Path) -> None:
    """Status 1, also while the first one is still starting; the first one goes on."""
    kinfold = Kinfold("--data-dir", data_dir)
    with subprocess.Popen(kinfold.command("up"), env=kinfold.environment(), stderr=subprocess.DEVNULL) as first:
        try:
            wait_until_sync(lambda: (data_dir / "kinfold.pid").exists() and (data_dir / "kinfold.pid").read_text(), 60)
            second = kinfold.run_apart("up")
            wait_until_sync(lambda: gateway_url(data_dir), 60)
        finally:
            first.send_signal(signal.SIGINT)
            status = first.wait(PATIENCE_S)

    assert (second.status, status) == (1, 0)
    assert f"kinfold already runs on {data_dir}; `kinfold down --data-dir {data_dir}` stops it" in second.err


@pytest.mark.parametrize("variable", ["http_proxy", "ALL_PROXY"])
def test_a_proxy_in_the_environment_is_not_asked(data_dir: Path, variable: str) -> None:
    """By `up` for 127.0.0.1, or it would say that it did not start; nor by the curl that it shows."""
    variables = {variable: f"http://127.0.0.1:{free_port()}", "no_proxy": ""}
    said = Kinfold("--data-dir", data_dir, **variables).run_apart("up", "--detach")

    assert said.status == 0, said
    (curl,) = re.findall(r"^  run +(curl .+)$", said.err, re.MULTILINE)
    if shutil.which("curl"):
        answer = subprocess.run(
            ["bash", "-c", curl], env={**os.environ, **variables}, capture_output=True, check=True, timeout=PATIENCE_S
        )
        assert b'"contacts"' in answer.stdout


def test_the_port_is_told_with_the_reason_and_kept(data_dir: Path) -> None:
    """The usual one is taken: another, and the same at the next start, also when the usual one is free again."""
    kinfold = Kinfold("--data-dir", data_dir, KINFOLD_GATEWAY_PORT="")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", USUAL_PORT))
            taken.listen()
        except OSError:
            pass  # somebody else has it, and that is just as well
        first = gateway_line(kinfold.run_apart("up", "--detach"))
        kinfold.run("down")
    second = gateway_line(kinfold.run_apart("up", "--detach"))

    assert first.endswith(f"(port {USUAL_PORT} is in use; the next start takes this one again, --port chooses another)")
    assert second.endswith("(as at the last start; --port chooses another)")
    assert first.split()[2] == second.split()[2]


def test_a_port_that_is_asked_for(data_dir: Path) -> None:
    """With `--port`, which is also what the next start takes; a kinfold that runs with another port is said to."""
    kinfold, port, other = Kinfold("--data-dir", data_dir, KINFOLD_GATEWAY_PORT=""), free_port(), free_port()

    first = kinfold.run_apart("up", "--detach", "--port", port)
    refused = kinfold.run_apart("up", "--detach", "--port", other)
    kinfold.run("down")
    second = kinfold.run_apart("up", "--detach")

    assert gateway_line(first).endswith(f"http://127.0.0.1:{port}")
    assert (refused.status, f"expected port {other}, got a kinfold that already runs" in refused.err) == (1, True), refused
    assert f"with port {port}; `kinfold down --data-dir {data_dir}` stops it" in refused.err
    assert f"http://127.0.0.1:{port} (as at the last start" in gateway_line(second)


def test_what_kept_it_from_starting_is_said_where_it_was_started(data_dir: Path) -> None:
    """And not in a log alone."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = Kinfold("--data-dir", data_dir).run_apart("up", "--detach", "--port", port)

    assert said.status == 1
    assert (
        f"it did not start; gateway: expected an address to listen on, got 127.0.0.1:{port} (Address already in use)"
        in said.err
    )


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs a file system of its own")
def test_a_full_disk_is_called_that(tmp_path: Path) -> None:
    """By the `up` whose server it ends, by one that would start on it, and by commands that find no server."""
    kinfold = Kinfold("--data-dir", tmp_path / "small" / "data")
    (tmp_path / "small").mkdir()
    (tmp_path / "events").write_text('{"type":"VisitorSeen","visitorId":"v-1"}\n' * 50_000)
    script = f"""
        mount -t tmpfs -o size=1m none {tmp_path}/small || exit 99
        {" ".join(kinfold.command("up"))} 2> {tmp_path}/up & up=$!
        until test -e {tmp_path}/small/data/gateway.url; do sleep 0.05; done
        {" ".join(kinfold.command("publish", tmp_path / "events"))} 2> {tmp_path}/publish
        wait $up; echo $? > {tmp_path}/status
        head -c 2000000 /dev/zero > {tmp_path}/small/rest 2> /dev/null
        {" ".join(kinfold.command("status"))} 2> {tmp_path}/look
        {" ".join(kinfold.command("up"))} 2> {tmp_path}/again
        exit 0
    """
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], env=kinfold.environment(), check=False, timeout=PATIENCE_S)
    if done.returncode == 99:
        pytest.skip("may not mount anything")

    assert (tmp_path / "status").read_text() == "1\n"
    assert "kinfold: the embedded server ended: the disk is full\n" in (tmp_path / "up").read_text()
    assert "no server runs on" in (tmp_path / "look").read_text()
    for name in ("look", "again"):
        assert "disk is full" in (tmp_path / name).read_text()
    assert "Traceback" not in "".join((tmp_path / name).read_text() for name in ("up", "publish", "look", "again"))
