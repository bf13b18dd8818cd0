"""Several `kinfold projector` processes for the same workspaces, which can be killed, hung, stopped and restarted."""

import random
import signal
import subprocess
from pathlib import Path
from typing import Final, Self

from tests.support.prefork import Forked, start_service
from tests.support.projecting import variables

_STOP_S: Final = 120.0


class Member:
    """A projector of the fleet, which serves every workspace. It must not end except by `kill` or `stop`."""

    def __init__(self, url: str, workspaces: tuple[str, ...], log: Path) -> None:
        self.log: Final = log
        self._arguments: Final = ["projector", "--redis-url", url]
        self._environment: Final = variables({"serve": ",".join(workspaces), "log_format": "json"})
        self._process: Forked | subprocess.Popen[bytes] | None = None
        self._log_before = 0
        self.is_hung = False

    def start(self) -> None:
        """Start it; does nothing if it is running."""
        if self._process is None:
            self._log_before = self.log.stat().st_size if self.log.exists() else 0
            self._process = start_service(self._arguments, self._environment, self.log)

    @property
    def is_running(self) -> bool:
        """Whether the test has started it and not ended it."""
        return self._process is not None

    @property
    def is_ready(self) -> bool:
        """Whether it runs, is not hung, and can own a workspace or stand by for one."""
        said = self.log.read_bytes()[self._log_before :] if self.log.exists() else b""
        return self.is_running and not self.is_hung and b"projector starts" in said

    def must_live(self) -> None:
        """Assert that it has not exited on its own."""
        if self._process is not None and (status := self._process.poll()) is not None:
            raise AssertionError(f"{self.log.name} ended by itself, status {status}: {self.log.read_text()[-3000:]}")

    def kill(self) -> None:
        """Send SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process, self.is_hung = None, False

    def stop(self) -> None:
        """Send SIGTERM and assert that it exits with status 0."""
        self.must_live()
        if self._process is not None:
            self._process.terminate()
            status = self._process.wait(_STOP_S)
            assert status == 0, f"{self.log.name} ended with status {status} on SIGTERM: {self.log.read_text()[-3000:]}"
        self._process = None

    def hang(self) -> None:
        """Send SIGSTOP."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        self.is_hung = True

    def go_on(self) -> None:
        """Send SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
        self.is_hung = False


class Fleet:
    """All projectors, as a context manager that starts them and kills them at its end."""

    def __init__(self, url: str, workspaces: tuple[str, ...], directory: Path, size: int) -> None:
        self.members: Final = [Member(url, workspaces, directory / f"projector-{number}.log") for number in range(size)]

    def __enter__(self) -> Self:
        for each in self.members:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in self.members:
            each.kill()

    def must_live(self) -> None:
        """Assert that none has exited on its own."""
        for each in self.members:
            each.must_live()

    def disturb(self, dice: random.Random) -> str:
        """Do a random action to one of them and return its name. At least one other stays ready."""
        member = dice.choice(self.members)
        if not member.is_running:
            member.start()
            return f"started {member.log.name}"
        if member.is_hung:
            if dice.random() < 0.3:  # some die while they hang
                member.kill()
                return f"killed the hung {member.log.name}"
            member.go_on()
            return f"woke {member.log.name}"
        if not any(each.is_ready for each in self.members if each is not member):
            return "nothing: no other is ready"
        # Before it is ready it has no handler for SIGTERM.
        what = dice.choice((member.kill, member.hang, member.stop) if member.is_ready else (member.kill, member.hang))
        what()
        return f"{what.__name__}: {member.log.name}"
