"""The OpenAPI document, taken at its word: generated requests, and answers that must be as it says."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from redis.asyncio import Redis

from kinfold_services.embedded import EmbeddedServer
from kinfold_services.gateway.keys import create_key
from tests.support.engines import free_port
from tests.support.gateways import GatewayProcess
from tests.support.projecting import ProjectorProcess

EXAMPLES = 40
# A stream without an end is no answer to wait for; tests/gateway/test_feed.py looks at it. The pages are for people.
LEFT_OUT = "^/v1/changes$"


@pytest.mark.slow
def test_generated_requests(tmp_path: Path):
    """Schemathesis over the document: no 5xx, and no answer whose status, type or body the document does not have."""
    port = free_port()
    with EmbeddedServer.start(tmp_path / "data") as server:

        async def make() -> str:
            async with Redis.from_url(server.url) as redis:
                return await create_key(redis, "default", "secret")

        key = asyncio.run(make())
        with (
            ProjectorProcess(server.url, "default", tmp_path / "projector.log"),
            GatewayProcess(server.url, port, tmp_path / "log", gateway_requests_per_s=100_000) as gateway,
        ):
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
