"""Real servers that fork after the producer was made: gunicorn with `--preload`, and Celery's prefork pool.

With a `batch_age_s` of ten minutes, only the end of a worker sends events.
"""

import http.client
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest
from redis import Redis

from tests.clients.applications import PATIENCE_S, running
from tests.support.engines import free_port
from tests.support.logs import Log
from tests.support.waiting import wait_until_sync

PRODUCER: Final = """
import os
import kinfold

visitors = kinfold.Producer(os.environ["LOG"], workspace=os.environ["WORKSPACE"], batch_age_s=float(os.environ["AGE_S"]))
"""

WEB: Final = f"""{PRODUCER}
from flask import Flask

app = Flask(__name__)

@app.get("/<number>")
def view(number):
    visitors.seen(f"v-{{number}}")
    return str(os.getpid())
"""

TASKS: Final = f"""{PRODUCER}
from celery import Celery

app = Celery("application", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.conf.update(broker_connection_retry_on_startup=True, task_default_queue=os.environ["WORKSPACE"])
visitors.seen("v-imported")

@app.task
def work(number):
    visitors.seen(f"v-{{number}}")
    return os.getpid()
"""


@pytest.mark.slow
@pytest.mark.parametrize("age_s", ["0.05", "600"], ids=["sending", "sent-at-the-end"])
def test_gunicorn_with_preload_sends_every_event_once(
    folding_url: str, client: Redis, workspace: str, tmp_path: Path, age_s: str
):
    """200 requests to two workers."""
    port = free_port()
    command = ["gunicorn", "--preload", "--workers", "2", "--bind", f"127.0.0.1:{port}", "application:app"]
    workers: set[bytes] = set()

    def visit(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", f"/{number}")
        workers.add(connection.getresponse().read())
        connection.close()

    def listens() -> bool:
        try:
            visit(0)
        except OSError:
            return False
        return True

    with running(tmp_path, WEB, command, {"LOG": folding_url, "WORKSPACE": workspace, "AGE_S": age_s}):
        wait_until_sync(listens, PATIENCE_S)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(visit, range(1, 200)))
        more = 200
        while len(workers) < 2:  # the kernel decides who accepts
            visit(more)
            more += 1
    log = Log(client, workspace)
    assert log.visitors == Counter(f"v-{number}" for number in range(more))
    assert len({event["id"] for event in log.events}) == more


@pytest.mark.slow
@pytest.mark.parametrize("age_s", ["0.05", "600"], ids=["sending", "sent-at-the-end"])
def test_celery_with_a_prefork_pool_sends_every_event_once(
    folding_url: str, client: Redis, workspace: str, tmp_path: Path, age_s: str
):
    """100 tasks for two children; the pool replaces one of them.

    A child of the pool ends by `os._exit`: neither `atexit` nor finalizers run, only Celery's own signal.
    """
    broker = f"redis+socket://{urlsplit(folding_url).path}"
    command = ["celery", "--app", "application", "worker", "--pool", "prefork", "--loglevel", "info"]
    command += ["--concurrency", "2", "--max-tasks-per-child", "40"]
    variables = {"LOG": folding_url, "WORKSPACE": workspace, "AGE_S": age_s, "BROKER": broker}
    with running(tmp_path, TASKS, command, variables) as output:
        send = "import application; print(len({application.work.delay(number) for number in range(100)}))"
        environment = {**os.environ, **variables, "WORKSPACE": workspace}
        subprocess.run([sys.executable, "-c", send], cwd=tmp_path, env=environment, check=True, capture_output=True)
        wait_until_sync(lambda: output.read_text().count(" succeeded in ") == 100, PATIENCE_S)
    log = Log(client, workspace)
    # The worker imports the module, and so does the process that sends the tasks.
    assert log.visitors == Counter({"v-imported": 2} | {f"v-{number}": 1 for number in range(100)}), output.read_text()
    assert len({event["id"] for event in log.events}) == 102
