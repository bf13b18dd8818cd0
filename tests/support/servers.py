"""The server that tests run against: the first of three that is to be had here."""

import contextlib
import os
import socket
import tempfile
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from kinfold_services.embedded import EmbeddedServer

IMAGE: Final = "valkey/valkey:8-alpine"
"""The container's image: what compose.yaml runs."""

URL_VARIABLE: Final = "KINFOLD_TEST_REDIS_URL"

# Between two signs of life of the Docker engine. A machine that cannot reach a registry must not hold up the tests.
_DOCKER_SILENCE_S: Final = 10
# An engine that answers may still take long to start a container: the tests keep every core busy.
_DOCKER_START_S: Final = 60
_REASON_LENGTH: Final = 200


class NoContainer(Exception):
    """There is no container to be had here, and why."""


class TestServer:
    """A server for one process of pytest; `description` says in a few words which it is."""

    __test__ = False  # pytest: not a class of tests

    def __init__(self) -> None:
        """Start one.

        In order: the one that KINFOLD_TEST_REDIS_URL names (the database is emptied before every test that uses it, and
        each worker of pytest-xdist takes another), a container where a Docker engine answers and can run the image, the
        embedded server on a temporary directory.
        """
        self._stack = contextlib.ExitStack()
        if given := os.environ.get(URL_VARIABLE):
            self.url = _database_of_worker(given)
            self.description = f"the server that {URL_VARIABLE} names"
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
        """Stop it and remove its data; does nothing to one that was there before."""
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
    """Whether something listens on the engine's socket; True for an engine elsewhere. docker-py would leak a socket."""
    parts = urlsplit(docker_host)
    if parts.scheme != "unix":
        return True
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(parts.path) == 0


def _start_container(stack: contextlib.ExitStack) -> str:
    """Start a container and return its URL; raises NoContainer where no Docker engine answers, or it cannot run the image."""
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
        # Ryuk removes the container of a killed run, but is an image of its own: no reason to fail or to download.
        testcontainers_config.ryuk_disabled = testcontainers_config.ryuk_image not in images
        container = RedisContainer(IMAGE, docker_client_kw={"timeout": _DOCKER_START_S})
        stack.enter_context(container)
    except (DockerException, requests.RequestException, OSError) as error:
        raise NoContainer(f"Docker cannot run {IMAGE}: {str(error)[:_REASON_LENGTH]}") from error
    return f"redis://{container.get_container_host_ip()}:{container.get_exposed_port(6379)}/0"
