"""The server that tests run against: the first of three that is available."""

import contextlib
import os
import socket
import tempfile
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from kinfold_services.server.embedded import EmbeddedServer

IMAGE: Final = "valkey/valkey:8-alpine"
"""The image of the container. compose.yaml has the same one, pinned by its digest."""

URL_VARIABLE: Final = "KINFOLD_TEST_REDIS_URL"

# The timeout of the Docker engine. A machine that cannot reach a registry must not delay the tests.
_DOCKER_SILENCE_S: Final = 10
# Starting a container may take long, because the tests keep every core busy.
_DOCKER_START_S: Final = 60
_REASON_LENGTH: Final = 200


class NoContainer(Exception):
    """No container can be started; the message says why."""


class TestServer:
    """A server for one pytest process; `description` names it."""

    __test__ = False  # not a class of tests

    def __init__(self) -> None:
        """Start the first available server.

        In order: the server at KINFOLD_TEST_REDIS_URL (its database is emptied before every test that uses it, and each
        pytest-xdist worker uses another database), a container if a Docker engine can run the image, or the embedded server
        in a temporary directory.
        """
        self._stack = contextlib.ExitStack()
        if given := os.environ.get(URL_VARIABLE):
            self.url = _database_of_worker(given)
            self.description = f"the server at {URL_VARIABLE}"
            return
        try:
            self.url = _start_container(self._stack)
            self.description = f"a container of {IMAGE}"
        except NoContainer as reason:
            data_dir = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="kinfold-test-")))
            server = self._stack.enter_context(EmbeddedServer.start(data_dir))
            self.url = server.url
            self.description = f"the embedded server ({server.binary}), since {reason}"

    def stop(self) -> None:
        """Stop the server and remove its data, unless it was already running."""
        self._stack.close()


def _database_of_worker(url: str) -> str:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    if not worker:
        return url
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return parts._replace(query=f"db={worker}").geturl()
    return parts._replace(path=f"/{worker}").geturl()


def _accepts(docker_host: str) -> bool:
    """Whether the engine's local socket accepts connections; True for a remote one. docker-py would leak a socket."""
    parts = urlsplit(docker_host)
    if parts.scheme != "unix":
        return True
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(parts.path) == 0


def _start_container(stack: contextlib.ExitStack) -> str:
    """Start a container and return its URL. Raises NoContainer if no Docker engine can run the image."""
    import requests  # noqa: PLC0415 - these take a third of a second to import
    from docker.errors import DockerException  # noqa: PLC0415
    from testcontainers.community.redis import RedisContainer  # noqa: PLC0415
    from testcontainers.core.config import testcontainers_config  # noqa: PLC0415
    from testcontainers.core.docker_client import DockerClient, get_docker_host  # noqa: PLC0415

    if not _accepts(get_docker_host() or "unix:///var/run/docker.sock"):
        raise NoContainer("no Docker engine answers")
    try:
        docker = DockerClient(timeout=_DOCKER_SILENCE_S).client
        stack.callback(docker.close)
        docker.ping()
        images = {tag for image in docker.images.list() for tag in image.tags}
        if IMAGE not in images:
            docker.images.pull(IMAGE)
        # Ryuk removes the containers of killed runs. It is a separate image, used only if it is already here.
        testcontainers_config.ryuk_disabled = testcontainers_config.ryuk_image not in images
        container = RedisContainer(IMAGE, docker_client_kw={"timeout": _DOCKER_START_S})
        stack.enter_context(container)
    except (DockerException, requests.RequestException, OSError) as error:
        raise NoContainer(f"Docker cannot run {IMAGE}: {str(error)[:_REASON_LENGTH]}") from error
    return f"redis://{container.get_container_host_ip()}:{container.get_exposed_port(6379)}/0"
