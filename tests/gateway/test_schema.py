"""Generated requests: every response must match the OpenAPI document."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

import kinfold
from kinfold_services.access.keys import create_key
from kinfold_services.server.embedded import EmbeddedServer
from tests.support.directories import DirectoryProcess
from tests.support.engines import free_port
from tests.support.gateways import GatewayProcess
from tests.support.lengths import short_or_long
from tests.support.projecting import ProjectorProcess

EXAMPLES = short_or_long(10, 40)
# The feed never ends, so tests/gateway/test_feed.py tests it.
LEFT_OUT = "^/v1/changes$"
NO_LIMITS = {"gateway_requests_per_s": 100_000, "gateway_browser_requests_per_s": 100_000}


@pytest.mark.slow
def test_responses_match_the_document(tmp_path: Path):
    """Schemathesis finds no 5xx, and no status, media type or body that the document does not describe."""
    port = free_port()
    with EmbeddedServer.start(tmp_path / "data") as server:

        async def make() -> str:
            async with Redis.from_url(server.url) as redis:
                return await create_key(redis, "default", "secret")

        key = asyncio.run(make())
        settings: dict[str, Any] = {"data_dir": tmp_path / "data", **NO_LIMITS}
        with (
            ProjectorProcess(server.url, "default", tmp_path / "projector.log"),
            DirectoryProcess(server.url, tmp_path / "directory.log", settings),
            GatewayProcess(server.url, port, tmp_path / "log", **settings) as gateway,
            kinfold.Producer(server.url) as visitors,
            kinfold.Contacts(gateway.url, key=key) as contacts,
        ):
            visitors.identify(external_id="u-1", name="Ada", metadata={"plan": "pro"})
            assert contacts.count(after=visitors.flush()).count == 1
            command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{gateway.url}/openapi.json"]
            command += [
                "--header",
                f"Authorization: Bearer {key}",
                "--max-examples",
                str(EXAMPLES),
                "--generation-deterministic",
            ]
            command += ["--exclude-path-regex", LEFT_OUT, "--workers", "1", "--phases", "examples,coverage,fuzzing"]
            command += [
                "--checks",
                "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
            ]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)

    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
