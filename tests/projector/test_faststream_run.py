"""`faststream run kinfold_services.projector.app:app`: the projector under FastStream's own command line."""

import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.support.engines import free_port
from tests.support.event_log import append, entry_id, history
from tests.support.projecting import clean_environment, wait_until_folded
from tests.support.waiting import wait_until

APP = "kinfold_services.projector.app:app"
FASTSTREAM = [sys.executable, "-m", "faststream", "run", APP]


@contextmanager
def faststream(log: Path, **variables: str) -> Generator["subprocess.Popen[bytes]"]:
    """Run the app with these settings."""
    with (
        log.open("wb") as output,
        subprocess.Popen(
            FASTSTREAM, env=clean_environment(**variables), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_app_folds_until_a_signal(redis: Redis, redis_url: str, tmp_path: Path, number: signal.Signals) -> None:
    """Settings come from the environment, and a signal ends it gracefully."""
    last = await append(redis, "acme", history()[:2000])
    with faststream(tmp_path / "log", KINFOLD_REDIS_URL=redis_url, KINFOLD_SERVE="acme, zeta") as process:
        await wait_until_folded(redis, "acme", last)
        await append(redis, "zeta", history()[:1])
        await wait_until_folded(redis, "zeta", entry_id(0))
        process.send_signal(number)
        await wait_until(lambda: process.poll() is not None)

    log = (tmp_path / "log").read_text()
    assert process.returncode == 0, log
    assert '"event": "projector starts"' in log
    assert '"event": "projector stopped"' in log
    assert "Traceback" not in log


async def test_app_without_a_server_ends_with_an_error(tmp_path: Path) -> None:
    """It does not wait for a server that may never come. Its supervisor starts it again."""
    with faststream(tmp_path / "log", KINFOLD_REDIS_URL=f"redis://127.0.0.1:{free_port()}") as process:
        await wait_until(lambda: process.poll() is not None)

    assert process.returncode != 0


def test_importing_the_app_connects_to_nothing() -> None:
    """A program may import it for inspection."""
    code = f"import {APP.partition(':')[0]} as m; print(type(m.app).__name__)"
    said = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=clean_environment(KINFOLD_REDIS_URL="redis://127.0.0.1:1"),
        capture_output=True,
        text=True,
        check=False,
    )

    assert (said.returncode, said.stdout) == (0, "FastStream\n"), said.stderr


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({}, "redis URL: expected --redis-url, KINFOLD_REDIS_URL, or a running `kinfold up`, got none, and no server runs on "),
        ({"KINFOLD_REDIS_URL": "redis://:s3cret@h/0?decode_responses=true"}, "got 'decode_responses'"),
        (
            {"KINFOLD_REDIS_URL": "redis://h", "KINFOLD_LOG_LEVEL": "loud"},
            "(KINFOLD_LOG_LEVEL): expected 'debug', 'info', 'warning' or 'error', got 'loud'",
        ),
    ],
)
def test_app_without_a_server_in_its_settings_prints_one_sentence(
    tmp_path: Path, variables: dict[str, str], sentence: str
) -> None:
    """It prints no traceback, which would contain the password in the URL."""
    environment = clean_environment(KINFOLD_DATA_DIR=str(tmp_path), **variables)
    said = subprocess.run(FASTSTREAM, env=environment, capture_output=True, text=True, check=False)

    assert (said.returncode, said.stdout) == (1, "")
    assert sentence in said.stderr
    assert (said.stderr[:9], said.stderr.count("\n"), "s3cret" in said.stderr) == ("kinfold: ", 1, False)


def test_app_names_an_unknown_variable(tmp_path: Path) -> None:
    """Like every command."""
    environment = clean_environment(KINFOLD_DATA_DIR=str(tmp_path), KINFOLD_REDISURL="redis://h")
    said = subprocess.run(FASTSTREAM, env=environment, capture_output=True, text=True, check=False)

    assert "kinfold: KINFOLD_REDISURL: this variable is ignored" in said.stderr
    assert "did you mean KINFOLD_REDIS_URL?" in said.stderr
