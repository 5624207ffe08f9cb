"""Services under test: the command in a process of its own with its workers, and all it says, as it says it.

Knows: processes, signals, lines on standard error.   Must not know: pytest, what is being tested.
"""

from __future__ import annotations

import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from programs import GUARD, Program, ask, connect

# An application that says which process serves, and its parent.
WHO = """
import os

def app(environ, start_response):
    body = b"%d %d" % (os.getpid(), os.getppid())
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


class Service:
    """A running `bjoern ARGUMENTS`, or another program that says where it listens; as a context, killed at the end."""

    def __init__(
        self,
        *arguments: str,
        cwd: Path,
        environ: Mapping[str, str] | None = None,
        fds: tuple[int, ...] = (),
        program: tuple[str, ...] = ("-m", "bjoern"),
        listens: bool = True,
        python: str = sys.executable,
    ) -> None:
        self.program = Program(*program, *arguments, cwd=cwd, environ=environ, fds=fds, python=python)
        self.pid = self.program.process.pid
        self.lines: list[str] = []
        self._mark = 0
        self._news = threading.Condition()
        self._is_over = False
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self.addresses: list[str] = []
        if listens:
            line = self.wait("listening on")
            match = re.search(r"listening on (.+) \(pid \d+, ", line)
            assert match, line
            self.addresses = match[1].split(", ")

    def _listen(self) -> None:
        assert self.program.process.stderr is not None
        for line in self.program.process.stderr:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._is_over = True
            self._news.notify_all()

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.program.process.kill()
        self.program.process.wait()
        self._listener.join(GUARD)  # the workers end, too, and with them the pipe
        for stream in (self.program.process.stdin, self.program.process.stdout, self.program.process.stderr):
            assert stream is not None
            stream.close()

    def wait(self, text: str) -> str:
        """Until it says `text`, behind what was waited for before: the line."""
        deadline = time.monotonic() + GUARD
        with self._news:
            while True:
                for index in range(self._mark, len(self.lines)):
                    if text in self.lines[index]:
                        self._mark = index + 1
                        return self.lines[index]
                assert not self._is_over, f"it ended without {text!r}:\n" + "\n".join(self.lines)
                came = self._news.wait(max(0, deadline - time.monotonic()))
                assert came, f"it never said {text!r}:\n" + "\n".join(self.lines)

    @property
    def address(self) -> str:
        return self.addresses[0]

    def get(self, path: str = "/") -> str:
        """The body of the answer to a request on a connection of its own."""
        with connect(self.address) as client:
            ask(client, path, "Connection: close")
            received = b""
            while block := client.recv(1 << 16):
                received += block
        assert received.startswith(b"HTTP/1.1 200 "), received
        return received.partition(b"\r\n\r\n")[2].decode()

    def worker(self) -> int:
        """The process of one of the workers."""
        return int(self.get().split()[0])

    def workers(self, count: int) -> set[int]:
        """Their processes, once so many have answered."""
        found: set[int] = set()
        until(lambda: len(found) >= count or bool(found.add(self.worker())))
        return found

    def send(self, number: signal.Signals) -> None:
        self.program.send(number)

    def end(self) -> int:
        """Waits for its end, and its workers': the exit code."""
        guard = threading.Timer(GUARD, self.program.process.kill)
        guard.start()
        code = self.program.process.wait()
        self._listener.join(GUARD)
        guard.cancel()
        assert not self._listener.is_alive(), "something holds its standard error"
        return code

    def stop(self) -> None:
        """SIGTERM, and the end that belongs to it."""
        self.send(signal.SIGTERM)
        code = self.end()
        assert code == -signal.SIGTERM, (code, self.lines)


def until(condition: Callable[[], bool]) -> None:
    """Asks again and again, for what nobody tells."""
    deadline = time.monotonic() + GUARD
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    """Whether a process has ended, waited for or not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"
