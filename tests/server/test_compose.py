"""compose.yaml: the log's server has a password and no published port. Docker is not needed for these tests."""

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any, Final, cast

import pytest
import redis
import yaml  # type: ignore[import-untyped]  # comes with MkDocs

from kinfold_services.server.binary import find_server_binary
from kinfold_services.settings import Settings
from tests.support.waiting import wait_until_sync

ROOT: Final = Path(__file__).parents[2]
PASSWORD: Final = "0a1b2c3d4e5f"  # noqa: S105  invented here
_VARIABLE: Final = re.compile(r"\$\{KINFOLD_REDIS_PASSWORD:\?[^}]+\}")


@pytest.fixture
def services() -> dict[str, Any]:
    """Give the services of compose.yaml, with the variables replaced as Compose does it."""
    text = _VARIABLE.sub(PASSWORD, (ROOT / "compose.yaml").read_text("utf-8"))
    return cast("dict[str, Any]", yaml.safe_load(text.replace("$$", "$"))["services"])


def test_compose_file_publishes_the_gateway_alone(services: dict[str, Any]) -> None:
    assert {name: service["ports"] for name, service in services.items() if "ports" in service} == {
        "gateway": ["127.0.0.1:8000:8000"]
    }


def test_every_program_of_the_compose_file_has_the_password(services: dict[str, Any]) -> None:
    """Without the variable Compose stops, and says where to look."""
    urls = [service["environment"]["KINFOLD_REDIS_URL"] for name, service in services.items() if name != "redis"]

    assert [str(Settings(redis_url=url).redis_url) for url in urls] == [f"redis://:{PASSWORD}@redis:6379/0"] * 3
    assert len(_VARIABLE.findall((ROOT / "compose.yaml").read_text("utf-8"))) == 2


@pytest.mark.parametrize("name", ["compose.yaml", "Dockerfile"])
def test_images_are_pinned_by_digest(name: str) -> None:
    found = re.findall(r"^(?:FROM|\s+image:) (?!kinfold$)(\S+)", (ROOT / name).read_text("utf-8"), re.MULTILINE)

    assert found
    assert [image for image in found if not re.fullmatch(r"[\w/.-]+:[\w.-]+@sha256:[0-9a-f]{64}", image)] == []


def test_server_of_the_compose_file_asks_for_the_password(services: dict[str, Any], tmp_path: Path) -> None:
    """No process list shows it. The command is run as it is, with this machine's server in place of the image's."""
    command = services["redis"]["command"]
    socket = tmp_path / "redis.sock"
    server = f"{find_server_binary().path} - --port 0 --unixsocket {socket}"
    script = command[2].replace("docker-entrypoint.sh valkey-server -", server)
    assert script != command[2]
    environment = {**os.environ, **services["redis"]["environment"]}
    with subprocess.Popen(
        [*command[:2], script], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            wait_until_sync(socket.exists)
            with redis.Redis(unix_socket_path=str(socket)) as stranger, pytest.raises(redis.AuthenticationError):
                stranger.ping()
            with redis.Redis(unix_socket_path=str(socket), password=PASSWORD) as client:
                wait_until_sync(lambda: bool(client.ping()))
                kept = client.config_get("append*"), client.config_get("maxmemory-policy")
            listed = subprocess.run(["ps", "-ww", "-eo", "args="], capture_output=True, text=True, check=True).stdout
        finally:
            os.killpg(process.pid, signal.SIGTERM)  # the shell and the server that it has started

    assert str(socket) in listed
    assert PASSWORD not in listed
    assert kept[0]["appendonly"] == "yes"
    assert kept[0]["appendfsync"] == "always"
    assert kept[1] == {"maxmemory-policy": "noeviction"}
