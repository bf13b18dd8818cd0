"""Several `kinfold projector` for the same workspaces, each of which may be killed, hung, stopped and started again."""

import random
import signal
import subprocess
from pathlib import Path
from typing import Final, Self

from tests.support.projecting import KINFOLD, variables

_STOP_S: Final = 30.0


class Member:
    """A projector of the fleet, which serves every workspace. It ends only where `kill` or `stop` ended it."""

    def __init__(self, url: str, workspaces: tuple[str, ...], log: Path) -> None:
        self.log: Final = log
        self._command: Final = [*KINFOLD, "projector", "--redis-url", url]
        self._environment: Final = variables({"serve": ",".join(workspaces), "log_format": "json"})
        self._process: subprocess.Popen[bytes] | None = None
        self._log_before = 0
        self.is_hung = False

    def start(self) -> None:
        """Start it; does nothing where it runs."""
        if self._process is None:
            self._log_before = self.log.stat().st_size if self.log.exists() else 0
            with self.log.open("ab") as output:
                self._process = subprocess.Popen(
                    self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
                )

    @property
    def is_running(self) -> bool:
        """Whether it was started and not ended by us."""
        return self._process is not None

    @property
    def is_ready(self) -> bool:
        """Whether it runs, is not hung, and has come so far that it can own a workspace or stand by for one."""
        said = self.log.read_bytes()[self._log_before :] if self.log.exists() else b""
        return self.is_running and not self.is_hung and b"projector starts" in said

    def must_live(self) -> None:
        """Assert that it has not ended by itself."""
        if self._process is not None and (status := self._process.poll()) is not None:
            raise AssertionError(f"{self.log.name} ended by itself, status {status}: {self.log.read_text()[-3000:]}")

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process, self.is_hung = None, False

    def stop(self) -> None:
        """SIGTERM; it ends with status 0. Asserts so."""
        self.must_live()
        if self._process is not None:
            self._process.terminate()
            status = self._process.wait(_STOP_S)
            assert status == 0, f"{self.log.name} ended with status {status} on SIGTERM: {self.log.read_text()[-3000:]}"
        self._process = None

    def hang(self) -> None:
        """SIGSTOP."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        self.is_hung = True

    def go_on(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
        self.is_hung = False


class Fleet:
    """All of them; a context manager that starts them, and kills them at its end."""

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
        """Assert that none has ended by itself."""
        for each in self.members:
            each.must_live()

    def disturb(self, dice: random.Random) -> str:
        """Do one thing at random to one of them; return what. At least one other is ready all the time."""
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
