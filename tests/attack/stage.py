"""A server, a projector and a gateway of their own, a genuine backend that sends all the time, and what is measured of them."""

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import httpx
import msgspec
import redis

from kinfold_schemas.contacts import Contact
from kinfold_schemas.keys import key
from kinfold_schemas.positions import position_key
from kinfold_services.access.identity_tokens import ensure_identity_secret
from kinfold_services.access.keys import create_key
from kinfold_services.connections import connect
from kinfold_services.server.embedded import EmbeddedServer
from tests.attack import attacks
from tests.attack.attacks import Attack, Target
from tests.attack.peers import Account
from tests.support.engines import free_port
from tests.support.gateways import GatewayProcess
from tests.support.projecting import ProjectorProcess
from tests.support.waiting import wait_until_sync

PEOPLE: Final = 20
PATTERN: Final = r"/^(.+)+@test\.example$/"
_EVERY_S: Final = 0.05
_TICK_S: Final = 0.02
_ANNOUNCED: Final = 200
_SETTLES_S: Final = 120.0
_TICKS_A_S: Final = os.sysconf("SC_CLK_TCK")

Program = str


class Cost(NamedTuple):
    """What an attack did to one program: growth of its memory in bytes, and seconds of CPU."""

    memory_bytes: int
    cpu_s: float


class Outcome(NamedTuple):
    """An attack, what it cost, and what it did."""

    attack: Attack
    account: Account
    costs: dict[Program, Cost]
    healthz_s: float
    """The longest time of a GET /healthz meanwhile."""
    fold_s: float
    """The longest time from sending a genuine event to its fold."""


class Backend:
    """The genuine backend: it sends an event every 50 ms with its secret key, and watches how long each takes to be folded."""

    def __init__(self, url: str, secret: str, server: "redis.Redis") -> None:
        self.sent = 0
        self.errors: list[str] = []
        self.worst_s = 0.0
        """The longest time from sending to the fold, since it was last set to 0."""
        self._client: Final = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {secret}"}, timeout=30)
        self._server: Final = server
        self._waiting: Final[deque[tuple[tuple[int, int], float]]] = deque()
        self._ends: Final = threading.Event()
        self._threads: Final = [threading.Thread(target=each, daemon=True) for each in (self._send, self._watch)]
        for thread in self._threads:
            thread.start()

    @property
    def next_ids(self) -> list[str]:
        """The ids of the events that come next."""
        return [f"genuine-{number}" for number in range(self.sent, self.sent + _ANNOUNCED)]

    def end(self) -> None:
        """Stop sending, and wait until all is folded."""
        self._ends.set()
        for thread in self._threads:
            thread.join(_SETTLES_S)
        self._client.close()

    def _send(self) -> None:
        while not self._ends.is_set():
            person = self.sent % PEOPLE
            event = {
                "type": "VisitorIdentified",
                "id": f"genuine-{self.sent}",
                "externalId": f"genuine-{person}",
                "visitorId": f"gv-{person}",
                "name": f"Person {person}",
                "metadata": {"n": self.sent, "plan": "pro"},
            }
            started = time.monotonic()
            try:
                answer = self._client.post("/v1/events", json=event)
                answer.raise_for_status()
            except httpx.HTTPError as error:
                self.errors.append(str(error))  # the id makes it harmless to send it again
                continue
            self._waiting.append((position_key(answer.json()["position"]), started))
            self.sent += 1
            self._ends.wait(max(0.0, _EVERY_S - (time.monotonic() - started)))

    def _watch(self) -> None:
        deadline = None
        while not (self._ends.is_set() and not self._waiting):
            if self._ends.is_set():
                deadline = deadline or time.monotonic() + _SETTLES_S
                if time.monotonic() > deadline:
                    self.errors.append(f"{len(self._waiting)} genuine events were not folded")
                    return
            stored = cast("bytes | None", self._server.hget(key("default", "position"), "stream_id")) or b"0-0"
            now = time.monotonic()
            while self._waiting and self._waiting[0][0] <= position_key(stored.decode()):
                self.worst_s = max(self.worst_s, now - self._waiting.popleft()[1])
            if self._waiting:
                self.worst_s = max(self.worst_s, now - self._waiting[0][1])
            time.sleep(_TICK_S)


class Health:
    """Asks for /healthz all the time, from an address of its own."""

    def __init__(self, url: str) -> None:
        self.worst_s = 0.0
        """The longest time of an answer, since it was last set to 0."""
        self._url: Final = f"{url}/healthz"
        self._ends: Final = threading.Event()
        self._thread: Final = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop."""
        self._ends.set()
        self._thread.join(60)

    def _ask(self) -> None:
        with httpx.Client(timeout=30, transport=httpx.HTTPTransport(local_address="127.0.0.3")) as client:
            while not self._ends.wait(0.05):
                started = time.monotonic()
                with contextlib.suppress(httpx.HTTPError):
                    client.get(self._url)
                self.worst_s = max(self.worst_s, time.monotonic() - started)


class Memory:
    """Samples the resident memory of some processes."""

    def __init__(self, processes: dict[Program, int]) -> None:
        self.processes: Final = processes
        self._before: Final = {name: resident_bytes(pid) for name, pid in processes.items()}
        self._cpu_before: Final = {name: cpu_s(pid) for name, pid in processes.items()}
        self._peak: Final = dict(self._before)
        self._ends: Final = threading.Event()
        self._thread: Final = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def end(self) -> dict[Program, Cost]:
        """Stop, and return what grew."""
        self._ends.set()
        self._thread.join(10)
        self._look()
        return {
            name: Cost(self._peak[name] - self._before[name], cpu_s(pid) - self._cpu_before[name])
            for name, pid in self.processes.items()
        }

    def _sample(self) -> None:
        while not self._ends.wait(0.05):
            self._look()

    def _look(self) -> None:
        for name, pid in self.processes.items():
            self._peak[name] = max(self._peak[name], resident_bytes(pid))


class Stage:
    """What runs during the attacks."""

    def __init__(
        self, server: EmbeddedServer, projector: ProjectorProcess, gateway: GatewayProcess, keys: dict[str, str]
    ) -> None:
        self.server: Final = redis.Redis.from_url(server.url)
        self.projector: Final = projector
        self.gateway: Final = gateway
        self._keys: Final = keys
        self.backend: Final = Backend(gateway.url, keys["secret"], self.server)
        self.health: Final = Health(gateway.url)
        self._attackers: Final = ProcessPoolExecutor(1, get_context("spawn"))
        self.processes: Final = {
            "gateway": gateway.process.pid,
            "projector": projector.process.pid,
            "server": int(self.server.info("server")["process_id"]),
        }
        wait_until_sync(lambda: self.backend.sent > PEOPLE)
        self._attackers.submit(os.getpid).result()

    def attack(self, chosen: Attack, scale: float) -> Outcome:
        """Run an attack, and wait until what it has sent is folded."""
        self.backend.worst_s = self.health.worst_s = 0.0
        memory = Memory(self.processes)
        account = self._attackers.submit(attacks.run, chosen.name, self._target(), scale).result()
        sent = self.backend.sent
        wait_until_sync(lambda: self.backend.sent > sent + 2)
        self._wait_until_folded()
        return Outcome(chosen, account, memory.end(), self.health.worst_s, self.backend.worst_s)

    def faults(self) -> list[str]:
        """End everything, and say what is not as the genuine backend has said, or did not survive."""
        died = [name for name, pid in self.processes.items() if not Path(f"/proc/{pid}").exists()]
        self.backend.end()
        self.health.end()
        self._attackers.shutdown()
        found = [f"the {name} ended" for name in died] + self.backend.errors[:5]
        for person in range(PEOPLE):
            found += self._faults_of(person)
        self.server.close()
        return found

    def _faults_of(self, person: int) -> list[str]:
        contact_id = cast("bytes | None", self.server.hget(key("default", "external-ids"), f"genuine-{person}"))
        if contact_id is None:
            return [f"genuine-{person}: no such contact"]
        stored = cast("bytes", self.server.hget(key("default", "contacts"), contact_id.decode()))
        contact = msgspec.json.decode(stored, type=Contact)
        last = max(number for number in range(self.backend.sent - PEOPLE, self.backend.sent) if number % PEOPLE == person)
        expected = (f"genuine-{person}", f"Person {person}", {"n": last, "plan": "pro"}, [f"gv-{person}"])
        got = (contact.external_id, contact.name, contact.metadata, contact.visitor_ids)
        return [] if got == expected else [f"expected {expected}, got {got}"]

    def _target(self) -> Target:
        visitors = [f"gv-{number}" for number in range(PEOPLE)]
        keys = self._keys
        return Target(self.gateway.url, keys["publishable"], keys["read"], keys["identity"], visitors, self.backend.next_ids)

    def _wait_until_folded(self) -> None:
        ((last, _),) = cast("list[Any]", self.server.xrevrange(key("default", "events"), count=1))

        def is_folded() -> bool:
            stored = cast("bytes | None", self.server.hget(key("default", "position"), "stream_id")) or b"0-0"
            return position_key(stored.decode()) >= position_key(last.decode())

        with contextlib.suppress(AssertionError):  # the fold is late, which `fold_s` shows
            wait_until_sync(is_folded, _SETTLES_S)


@contextlib.contextmanager
def staged(directory: Path) -> Generator[Stage]:
    """Start a stage, and stop it."""
    with EmbeddedServer.start(directory / "server") as server:
        keys = _prepare(server.url)
        projector = ProjectorProcess(server.url, None, directory / "projector.log")
        gateway = GatewayProcess(
            server.url, free_port(), directory / "gateway.log", max_files=1024, data_dir=directory / "none"
        )
        with projector, gateway:
            yield Stage(server, projector, gateway, keys)


def _prepare(url: str) -> dict[str, str]:
    import asyncio  # noqa: PLC0415  only here

    async def prepare() -> dict[str, str]:
        async with connect(url) as client:
            await cast("Any", client).sadd(key("default", "blocked-identifiers"), PATTERN)
            made = {kind: await create_key(client, "default", kind) for kind in ("secret", "publishable", "read")}
            return {**made, "identity": (await ensure_identity_secret(client, "default"))[0].identity_secret}

    return asyncio.run(prepare())


def resident_bytes(pid: int) -> int:
    """How much memory a process takes; 0 after its end."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0


def cpu_s(pid: int) -> float:
    """How much CPU time a process has used; 0 after its end."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_A_S
    return 0.0
