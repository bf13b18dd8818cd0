"""`kinfold up` beside another one, behind a proxy, with a port in use, and on a full disk."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from kinfold_services.cli.gateway_process import gateway_url
from tests.support.command_line import PATIENCE_S, Kinfold, Said
from tests.support.engines import free_port
from tests.support.shown_secrets import as_on_a_terminal
from tests.support.terminals import run_on_a_terminal
from tests.support.waiting import wait_until_sync

pytestmark = pytest.mark.slow

USUAL_PORT = 8000


def gateway_line(said: Said) -> str:
    """The line of `up` about its gateway."""
    return next(line for line in said.err.splitlines() if line.startswith("  the gateway "))


def test_simultaneous_ups_start_one_kinfold(data_dir: Path) -> None:
    """The later ones wait for the first, and print the same."""
    kinfold = Kinfold("--data-dir", data_dir)
    with ThreadPoolExecutor() as threads:
        starts = [threads.submit(kinfold.run_apart, "up", "--detach") for _ in range(3)]
        all_said = [start.result() for start in starts]

    assert [said.status for said in all_said] == [0, 0, 0], all_said
    assert len({gateway_line(said) for said in all_said}) == 1
    assert all("kinfold is up." in said.err for said in all_said)


def test_second_up_in_the_foreground_is_refused(data_dir: Path) -> None:
    """Status 1, even while the first one is still starting; the first one continues."""
    kinfold = Kinfold("--data-dir", data_dir)
    with subprocess.Popen(kinfold.command("up"), env=kinfold.environment(), stderr=subprocess.DEVNULL) as first:
        try:
            wait_until_sync(lambda: (data_dir / "kinfold.pid").exists() and (data_dir / "kinfold.pid").read_text())
            second = kinfold.run_apart("up")
            wait_until_sync(lambda: gateway_url(data_dir))
        finally:
            first.send_signal(signal.SIGINT)
            status = first.wait(PATIENCE_S)

    assert (second.status, status) == (1, 0)
    assert f"kinfold already runs on {data_dir}; `kinfold down --data-dir {shlex.quote(str(data_dir))}` stops it" in second.err
    assert f"`kinfold up --detach --data-dir {shlex.quote(str(data_dir))}` prints its addresses, where its key is" in second.err


def test_second_up_names_the_file_of_the_key_and_a_new_link(house: Path, workspace: str) -> None:
    """The first link may have been used. The first key is not shown again, but its file is named."""
    kinfold = Kinfold("--data-dir", house, "--workspace", workspace)
    key, link = key_and_link(kinfold.run("up", "--detach"))
    said = kinfold.run("up", "--detach")
    same_key, new_link = key_and_link(said)

    assert said.status == 0
    assert "its key        \"$(cat '" in said.err
    assert "`kinfold up --detach" in said.err
    assert (same_key, key.startswith(f"kf_sk_{workspace}_")) == (key, True)
    assert new_link != link
    for each in (link, new_link):
        url, _, token = each.partition("?link=")
        assert httpx.post(url, data={"link": token, "by": "Ada"}, trust_env=False, timeout=PATIENCE_S).status_code == 303


def test_first_key_is_shown_on_a_terminal_and_kept_in_a_file(house: Path, workspace: str) -> None:
    """The pages set KEY from the file."""
    kinfold = Kinfold("--data-dir", house, "--workspace", workspace)

    shown = run_on_a_terminal(kinfold.command("up", "--detach"), kinfold.environment()).data.decode()

    (key,) = re.findall(r"^  its key +(kf_sk_\S+)", shown, re.MULTILINE)
    file = house / "keys" / f"{workspace}-first"
    assert file.read_text() == f"{key}\n"
    assert file.stat().st_mode & 0o077 == 0


def test_file_of_the_first_key_keeps_its_name_and_key_beside_later_keys(house: Path, workspace: str) -> None:
    """`kinfold keys create` writes another file, because its output is not a terminal here."""
    kinfold = Kinfold("--data-dir", house, "--workspace", workspace)
    kinfold.run("up", "--detach")
    file = house / "keys" / f"{workspace}-first"
    (first,) = kinfold.lines("keys", "list")
    kept = file.read_text()
    kinfold.run("keys", "create")

    said = kinfold.run("up", "--detach")

    assert f"_{first['id']}_" in kept
    assert (file.read_text(), str(file) in said.err) == (kept, True)


def test_first_key_that_an_older_version_kept_under_its_id_is_found_under_both_names(house: Path, workspace: str) -> None:
    kinfold = Kinfold("--data-dir", house, "--workspace", workspace)
    kinfold.run("up", "--detach")
    (key,) = kinfold.lines("keys", "list")
    file = house / "keys" / f"{workspace}-first"
    old = file.rename(file.with_name(f"{workspace}-secret-{key['id']}"))

    said = kinfold.run("up", "--detach")

    assert str(file) in said.err
    assert file.read_text() == old.read_text()


def test_file_of_a_revoked_first_key_is_not_named(house: Path, workspace: str) -> None:
    kinfold = Kinfold("--data-dir", house, "--workspace", workspace)
    kinfold.run("up", "--detach")
    (first,) = kinfold.lines("keys", "list")
    another = kinfold.json("keys", "create")
    kinfold.run("keys", "revoke", first["id"])

    said = kinfold.run("up", "--detach")

    assert str(house / "keys" / f"{workspace}-first") not in said.err
    assert another["keyFile"] in said.err


def test_up_says_how_to_create_a_key_if_it_knows_no_file_with_one(house: Path, workspace: str) -> None:
    """Neither for a key whose file is gone, nor for a revoked key, whose link would not sign in."""
    kinfold = Kinfold("--data-dir", house, "--workspace", workspace)
    kinfold.run("up", "--detach")
    (key,) = kinfold.lines("keys", "list")
    (house / "keys" / f"{workspace}-first").unlink()

    said = kinfold.run("up", "--detach")
    assert re.search(r"^  its key +was shown only when it was created; `kinfold keys create ", said.err, re.MULTILINE)
    assert re.search(r"^  open +\"\$\(cat .+\)\"$", said.err, re.MULTILINE)

    kinfold.run("keys", "revoke", key["id"])
    said = kinfold.run("up", "--detach")
    assert re.search(r"^  its key +there is no valid secret key; `kinfold keys create .+` creates one$", said.err, re.MULTILINE)
    assert re.search(r"^  open +http://[^?]+$", said.err, re.MULTILINE)


def key_and_link(said: Said) -> tuple[str, str]:
    """The key and the link that `up` would have shown on a terminal."""
    shown = as_on_a_terminal(said.err)
    (key,) = re.findall(r"^  its key +(\S+)$", shown, re.MULTILINE)
    (link,) = re.findall(r"^  open +(\S+)$", shown, re.MULTILINE)
    return key, link


@pytest.mark.parametrize("variable", ["http_proxy", "ALL_PROXY"])
def test_proxy_of_the_environment_is_not_used(data_dir: Path, variable: str) -> None:
    """Neither `up` nor the curl command that it suggests uses a proxy for 127.0.0.1."""
    variables = {variable: f"http://127.0.0.1:{free_port()}", "no_proxy": ""}
    said = Kinfold("--data-dir", data_dir, **variables).run_apart("up", "--detach")

    assert said.status == 0, said
    (curl,) = re.findall(r"^  run +(curl .+)$", said.err, re.MULTILINE)
    if shutil.which("curl"):
        answer = subprocess.run(
            ["bash", "-c", curl], env={**os.environ, **variables}, capture_output=True, check=True, timeout=PATIENCE_S
        )
        assert b'"contacts"' in answer.stdout


def test_port_is_printed_with_its_reason_and_reused(data_dir: Path) -> None:
    """If the default port is in use, `up` takes another one, and reuses it even when the default port is free again."""
    kinfold = Kinfold("--data-dir", data_dir, KINFOLD_GATEWAY_PORT="")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", USUAL_PORT))
            taken.listen()
        except OSError:
            pass  # another program uses the port, which serves the test as well
        first = gateway_line(kinfold.run_apart("up", "--detach"))
        kinfold.run("down")
    second = gateway_line(kinfold.run_apart("up", "--detach"))

    assert first.endswith(f"(port {USUAL_PORT} is in use; the next start reuses this port, --port chooses another)")
    assert second.endswith("(as at the last start; --port chooses another)")
    assert first.split()[2] == second.split()[2]


def test_port_option_counts_until_another_one_is_given(data_dir: Path) -> None:
    """The next start reuses the port. `up` reports a running kinfold that uses another port."""
    kinfold, port, other = Kinfold("--data-dir", data_dir, KINFOLD_GATEWAY_PORT=""), free_port(), free_port()

    first = kinfold.run_apart("up", "--detach", "--port", port)
    refused = kinfold.run_apart("up", "--detach", "--port", other)
    kinfold.run("down")
    second = kinfold.run_apart("up", "--detach")

    assert gateway_line(first).endswith(f"http://127.0.0.1:{port}")
    assert (refused.status, f"expected port {other}, got a kinfold that already runs" in refused.err) == (1, True), refused
    assert f"with port {port}; `kinfold down --data-dir {shlex.quote(str(data_dir))}` stops it" in refused.err
    assert f"http://127.0.0.1:{port} (as at the last start" in gateway_line(second)


def test_reason_of_a_failed_start_is_printed(data_dir: Path) -> None:
    """`up --detach` prints the reason, which is not only in the log."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = Kinfold("--data-dir", data_dir).run_apart("up", "--detach", "--port", port)

    assert said.status == 1
    assert (
        f"it did not start; gateway: expected an address to listen on, got 127.0.0.1:{port} (Address already in use)"
        in said.err
    )


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs a file system of its own")
def test_full_disk_is_reported(tmp_path: Path) -> None:
    """By the `up` whose server ends, by the next `up`, and by commands that find no server."""
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
