"""Forks, reloads, signal handlers, and the end of the process."""

import importlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from redis import Redis

import kinfold
from tests.support.logs import Log


def run(script: str, *arguments: str) -> None:
    """Run a script, which must succeed without output to stderr."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *arguments], check=False, timeout=200, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


FORKED = """
import os, sys, kinfold
visitors = kinfold.Producer(sys.argv[1], workspace=sys.argv[2], batch_age_s=600)
visitors.seen("v-sent-by-parent")
visitors.flush()
visitors.seen("v-buffered-by-parent")
children = []
for child in range(4):
    pid = os.fork()
    if pid == 0:
        for number in range(50):
            visitors.seen(f"v-{child}-{number}")
        if child % 2:
            visitors.flush()
        sys.exit()
    children.append(pid)
for pid in children:
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
visitors.seen("v-after")
"""

POOL = """
import multiprocessing, sys, kinfold
visitors = kinfold.Producer(sys.argv[1], workspace=sys.argv[2], batch_age_s=600)

def work(child):
    for number in range(50):
        visitors.seen(f"v-{child}-{number}")

if __name__ == "__main__":
    visitors.seen("v-sent-by-parent")
    visitors.flush()
    visitors.seen("v-buffered-by-parent")
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=work, args=(child,)) for child in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    visitors.seen("v-after")
"""


@pytest.mark.parametrize("script", [FORKED, POOL], ids=["os.fork", "multiprocessing"])
def test_children_and_parent_send_every_event_once(folding_url: str, client: Redis, workspace: str, script: str):
    """A child sends neither what the parent had sent nor what was in the parent's buffer."""
    run(script, folding_url, workspace)
    expected = [f"v-{child}-{number}" for child in range(4) for number in range(50)]
    log = Log(client, workspace)
    assert log.visitors == Counter([*expected, "v-sent-by-parent", "v-buffered-by-parent", "v-after"])
    assert len({event["id"] for event in log.events}) == 203


def test_child_does_not_suppress_what_its_parent_has_not_sent(folding_url: str, client: Redis, workspace: str):
    """The parent is killed before it has sent the event, so the child must send it."""
    run(
        """
import kinfold, logging, os, sys, time
logging.disable()
visitors = kinfold.Producer("redis://127.0.0.1:1/0", workspace=sys.argv[2], batch_age_s=0)
visitors.set_metadata("v-1", {"plan": "pro"})
while visitors._delivery.outbox.in_flight is None:
    time.sleep(0.01)
if os.fork() == 0:
    from kinfold.producer.redis_log import RedisLog
    visitors._delivery._connect = lambda: RedisLog(sys.argv[1], sys.argv[2], 5)  # the server is back
    visitors.set_metadata("v-1", {"plan": "pro"})
    visitors.flush()
    assert (visitors.counters.sent, visitors.counters.suppressed) == (1, 0), visitors.counters
    os._exit(0)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
os._exit(0)
""",
        folding_url,
        workspace,
    )
    assert [event["metadata"] for event in Log(client, workspace).events] == [{"plan": "pro"}]


def test_child_has_its_own_spool(folding_url: str, client: Redis, workspace: str, tmp_path: Path):
    """After a fork during an outage. The next producer sends the events of both."""
    script = """
import os, sys, time, kinfold
visitors = kinfold.Producer("redis://127.0.0.1:1/0", workspace=sys.argv[1], spool=sys.argv[2], exit_timeout_s=0.1)
visitors.seen("v-parent")
while not visitors.counters.spooled:
    time.sleep(0.01)
if os.fork() == 0:
    visitors.seen("v-child")
    sys.exit()
os.wait()
"""
    subprocess.run([sys.executable, "-c", script, workspace, str(tmp_path)], check=True, timeout=200, capture_output=True)
    with kinfold.Producer(folding_url, workspace=workspace, spool=tmp_path) as visitors:
        visitors.seen("v-next")
    assert Log(client, workspace).visitors == Counter(["v-parent", "v-child", "v-next"])


def test_live_contacts_continue_in_a_child(folding_url: str, workspace: str):
    """Parent and child see a contact from after the fork. A child has no thread before its first read."""
    run(
        """
import os, sys, threading, time, kinfold
url, workspace = sys.argv[1:]
contacts = kinfold.Feed(url, workspace=workspace).contacts()

def appears(external_id):
    deadline = time.monotonic() + 20
    while contacts.by_external_id(external_id) is None:
        assert time.monotonic() < deadline, external_id
        time.sleep(0.01)

pid = os.fork()
if pid == 0:
    assert threading.active_count() == 1
    with kinfold.Producer(url, workspace=workspace) as visitors:
        visitors.identify(external_id="u-1")
    appears("u-1")
    contacts.close()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
appears("u-1")
contacts.close()
""",
        folding_url,
        workspace,
    )


def test_end_of_the_process_sends_the_rest(folding_url: str, client: Redis, workspace: str):
    run(
        "import kinfold, sys\n"
        "visitors = kinfold.Producer(sys.argv[1], workspace=sys.argv[2], batch_age_s=600)\n"
        "for number in range(1200): visitors.seen(f'v-{number}')\n",
        folding_url,
        workspace,
    )
    assert len(Log(client, workspace).events) == 1200


def test_end_of_an_event_loop_loses_nothing(folding_url: str, client: Redis, workspace: str):
    """The AsyncProducer is not closed: its thread outlives the loop, and the end of the process sends the rest."""
    run(
        "import asyncio, kinfold, sys\n"
        "visitors = kinfold.AsyncProducer(sys.argv[1], workspace=sys.argv[2], batch_age_s=600)\n"
        "asyncio.run(visitors.seen('v-1'))\n"
        "asyncio.run(visitors.seen('v-2'))\n",
        folding_url,
        workspace,
    )
    assert Log(client, workspace).visitors == Counter(["v-1", "v-2"])


def test_end_of_the_process_waits_no_longer_than_the_setting(workspace: str):
    """The server is unreachable."""
    script = (
        "import kinfold, logging, sys, time\n"
        "logging.disable()\n"
        "visitors = kinfold.Producer('redis://127.0.0.1:1/0', workspace=sys.argv[1], exit_timeout_s=0.2)\n"
        "visitors.seen('v-1')\n"
        "import atexit, time\n"
        "started = time.monotonic()\n"
        "import kinfold.producer.process\n"
        "kinfold.producer.process._exit()\n"
        "assert 0.1 < time.monotonic() - started < 4\n"  # and not 5, the default
    )
    run(script, workspace)


def test_fork_while_a_call_waits_for_room(workspace: str):
    """The child has an empty buffer, so its call does not wait."""
    run(
        """
import kinfold, logging, os, sys, threading, time
logging.disable()
visitors = kinfold.Producer(
    "redis://127.0.0.1:1/0", workspace=sys.argv[1], buffer_events=1, batch_events=1, wait_s=600, exit_timeout_s=0
)
visitors.seen("v-0")
while not visitors.counters.retries:
    time.sleep(0.01)
visitors.seen("v-1")
waiting = threading.Thread(target=visitors.seen, args=("v-2",))
waiting.start()
time.sleep(0.1)  # nothing signals that it waits; if it does not yet, this tests less
if os.fork() == 0:
    visitors.seen("v-child")
    assert visitors.counters.accepted == 1, visitors.counters
    sys.exit()
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
assert waiting.is_alive()
visitors.close(timeout_s=0)
waiting.join(120)
assert visitors.counters.dropped == 1, visitors.counters
""",
        workspace,
    )


def test_signal_handler_may_close_while_a_call_waits_for_room(workspace: str):
    """The call returns, and its event is counted as dropped."""
    run(
        """
import kinfold, logging, signal, sys, time
logging.disable()
visitors = kinfold.Producer("redis://127.0.0.1:1/0", workspace=sys.argv[1], buffer_events=1, batch_events=1, wait_s=600)
visitors.seen("v-0")
while not visitors.counters.retries:
    time.sleep(0.01)
visitors.seen("v-1")
signal.signal(signal.SIGALRM, lambda *_: visitors.close(timeout_s=0.1))
signal.setitimer(signal.ITIMER_REAL, 0.2)
visitors.seen("v-2")
assert (visitors.counters.lost, visitors.counters.dropped) == (2, 1), visitors.counters
""",
        workspace,
    )


def test_signal_handler_may_call_during_a_call(folding_url: str, client: Redis, workspace: str):
    """A handler runs between any two steps of the main thread, which may hold the lock."""
    run(
        """
import itertools, kinfold, signal, sys, time
visitors = kinfold.Producer(sys.argv[1], workspace=sys.argv[2])
interrupts = itertools.count()

def interrupt(*_):
    visitors.seen(f"v-handler-{next(interrupts)}")
    if not is_over:  # once at a time: on a busy machine, a handler may take longer than the interval
        signal.setitimer(signal.ITIMER_REAL, 0.0002)

is_over = False
signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.0002)
for number in range(20_000):
    visitors.seen(f"v-{number}")
is_over = True
signal.signal(signal.SIGALRM, signal.SIG_IGN)
signal.setitimer(signal.ITIMER_REAL, 0)
visitors.close()
counters = visitors.counters
assert counters.sent == 20_000 + next(interrupts), counters
assert visitors._delivery.buffer.bytes == 0, visitors._delivery.buffer.bytes
""",
        folding_url,
        workspace,
    )
    assert set(Log(client, workspace).visitors.values()) == {1}


def test_process_may_end_while_a_thread_waits_for_room(workspace: str):
    """The end of the process waits for the thread, which waits no longer than the setting."""
    script = """
import kinfold, sys, threading, time
visitors = kinfold.Producer(
    "redis://127.0.0.1:1/0", workspace=sys.argv[1], buffer_events=1, batch_events=1, wait_s=1, exit_timeout_s=0.1
)
visitors.seen("v-0")
while not visitors.counters.retries:
    time.sleep(0.01)
visitors.seen("v-1")
threading.Thread(target=visitors.seen, args=("v-2",)).start()
"""
    done = subprocess.run([sys.executable, "-c", script, workspace], check=False, timeout=200, capture_output=True, text=True)
    assert done.returncode == 0
    assert "3 of 3 events were lost: 1 found no room in the buffer, 2 were accepted and could not be sent" in done.stderr


def test_reloaded_module_loses_nothing_of_its_first_producer(
    folding_url: str, client: Redis, workspace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Development servers and notebooks reload modules."""
    (tmp_path / "reloaded.py").write_text(
        f"import kinfold\nvisitors = kinfold.Producer({folding_url!r}, workspace={workspace!r}, batch_age_s=0.05)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("reloaded")
    first: kinfold.Producer = module.visitors
    first.seen("v-1")
    importlib.reload(module)
    second: kinfold.Producer = module.visitors
    assert second is not first
    second.seen("v-2")
    second.close()
    first.close()
    assert Log(client, workspace).visitors == Counter(["v-1", "v-2"])


def test_import_has_no_effects():
    """No thread, no exit handler, no connection, and none of the heavy dependencies of the service."""
    run(
        "import sys, threading, atexit, asyncio, concurrent.futures.thread, logging, redis, ssl\n"
        "before = atexit._ncallbacks()\n"
        "import kinfold\n"
        "kinfold.Producer, kinfold.Feed, kinfold.Contacts\n"
        "assert threading.active_count() == 1\n"
        "assert atexit._ncallbacks() == before, atexit._ncallbacks()\n"
        "heavy = {'faststream', 'litestar', 'pydantic', 'structlog', 'typer', 'rich', 'uvloop'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )


def test_import_does_not_load_redis():
    run("import sys, kinfold\nassert not {'redis', 'asyncio', 'msgspec', 'http.client'} & set(sys.modules)\n")


def test_without_flock_everything_but_the_spool_works(folding_url: str, client: Redis, workspace: str):
    """As on Windows. Modules of the standard library that use `fcntl` are loaded before it is hidden."""
    run(
        "import asyncio, os, redis.asyncio, sys, tempfile\n"
        "sys.modules['fcntl'] = None\n"
        "del os.register_at_fork\n"
        "import kinfold, kinfold.asgi, kinfold.wsgi, kinfold.django, kinfold.testing\n"
        "for name in kinfold.__all__: getattr(kinfold, name)\n"
        "with kinfold.Producer(sys.argv[1], workspace=sys.argv[2]) as visitors: visitors.seen('v-1')\n"
        "try:\n"
        "    kinfold.Producer(sys.argv[1], spool=tempfile.gettempdir())\n"
        "except ValueError as error:\n"
        "    assert 'expected None on a system without flock (Windows)' in str(error), error\n"
        "else:\n"
        "    raise AssertionError('no error')\n",
        folding_url,
        workspace,
    )
    assert Log(client, workspace).visitors == Counter(["v-1"])
