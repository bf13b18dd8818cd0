"""`multiprocessing.Pool`, which ends its children with SIGTERM, and other process pools."""

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Final

import pytest
from redis import Redis

from tests.support.engines import free_port
from tests.support.logs import Log

EXPECTED: Final = Counter(f"v-{number}" for number in range(100))

PARENTS_PRODUCER: Final = """
import kinfold, multiprocessing, sys
visitors = kinfold.Producer(sys.argv[1], workspace=sys.argv[2], batch_age_s=600)

def work(number):
    visitors.seen(f"v-{number}")
    return number

if __name__ == "__main__":
    with multiprocessing.get_context(sys.argv[3]).Pool(2) as pool:
        assert pool.map(work, range(100)) == list(range(100))
"""
"""The producer is made when the module is loaded: before a fork, and by each spawned child."""

CHILDS_PRODUCER: Final = """
import kinfold, multiprocessing, sys

def begin(url, workspace):
    global visitors
    visitors = kinfold.Producer(url, workspace=workspace, batch_age_s=600)

def work(number):
    visitors.seen(f"v-{number}")
    if number % 10 == 0:
        raise ValueError(number)

if __name__ == "__main__":
    with multiprocessing.get_context(sys.argv[3]).Pool(2, begin, sys.argv[1:3], maxtasksperchild=30) as pool:
        results = [pool.apply_async(work, (number,)) for number in range(100)]
        for number, result in enumerate(results):
            result.wait()
            assert result.successful() == (number % 10 != 0)
"""
"""Each child makes a producer. Some tasks fail, and a child ends after 30 tasks."""

FROM_A_THREAD: Final = """
import kinfold, multiprocessing, sys, threading

def work(number):
    global visitors
    def talk():
        global visitors
        if "visitors" not in globals():
            visitors = kinfold.Producer(sys.argv[1], workspace=sys.argv[2], batch_age_s=600)
        visitors.seen(f"v-{number}")
    thread = threading.Thread(target=talk)
    thread.start()
    thread.join()

if __name__ == "__main__":
    with multiprocessing.get_context(sys.argv[3]).Pool(2) as pool:
        for _ in pool.imap_unordered(work, range(100)):
            pass
"""
"""A task calls the producer in a new thread."""

EXECUTOR: Final = """
import kinfold, multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
visitors = kinfold.Producer(sys.argv[1], workspace=sys.argv[2], batch_age_s=600)

def work(number):
    visitors.seen(f"v-{number}")

if __name__ == "__main__":
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(sys.argv[3])) as pool:
        list(pool.map(work, range(100)))
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize(
    "script",
    [
        pytest.param(PARENTS_PRODUCER, id="parents-producer"),
        pytest.param(CHILDS_PRODUCER, id="childs-producer"),
        pytest.param(FROM_A_THREAD, id="from-a-thread"),
        pytest.param(EXECUTOR, id="executor"),
    ],
)
def test_events_of_all_tasks_are_sent_once(  # noqa: PLR0917  fixtures and parameters
    folding_url: str, client: Redis, workspace: str, tmp_path: Path, script: str, method: str
):
    """The events of a task are sent before the pool gets its result."""
    run(tmp_path, script, folding_url, workspace, method)
    assert Log(client, workspace).visitors == EXPECTED


def test_tasks_do_not_wait_for_an_unreachable_server(workspace: str, tmp_path: Path):
    """One task waits for `exit_timeout_s`, the others do not wait; the parent gets all results."""
    script = PARENTS_PRODUCER.replace("batch_age_s=600", "batch_age_s=0.01, exit_timeout_s=1")
    started = time.monotonic()
    run(tmp_path, script, f"redis://127.0.0.1:{free_port()}/0", workspace, "fork", is_silent=False)
    assert time.monotonic() - started < 30  # and not 50


def run(tmp_path: Path, script: str, *arguments: str, is_silent: bool = True) -> None:
    """Run a script from a file, which spawned children load again. It must succeed."""
    path = tmp_path / "tasks.py"
    path.write_text(script)
    done = subprocess.run([sys.executable, str(path), *arguments], check=False, timeout=200, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (is_silent and done.stderr), done.stderr
