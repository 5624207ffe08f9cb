"""Programs under test: a Python process of its own, what it says, and how it ends.

Knows: processes, pipes, one HTTP request at a time.   Must not know: pytest, what is being tested.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

GUARD = 30.0  # seconds until a hanging program fails its test; nothing is measured

# What programs given as text start from: an application that says on stdout when it is called, and waits for stdin.
PRELUDE = """
import os, signal, sys, threading
import bjoern

def say(*words):
    # Not by print(), which a signal handler must not call in the middle of another one.
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def app(environ, start_response):
    if environ["PATH_INFO"] == "/gate":
        say("called")
        sys.stdin.readline()
    if environ["PATH_INFO"] == "/exit":
        raise SystemExit(5)
    body = b"x" * 32_000_000 if environ["PATH_INFO"] == "/large" else b"ok"
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


class End(NamedTuple):
    """How a program ended: its exit code, or minus the signal that killed it, and all it had still to say."""

    code: int
    output: str
    errors: str


class Program:
    """A running Python program; as a context, killed at the end if it still runs."""

    def __init__(
        self,
        *arguments: str,
        cwd: Path | None = None,
        environ: Mapping[str, str] | None = None,
        fds: tuple[int, ...] = (),
        python: str = sys.executable,
    ) -> None:
        settings = {name: value for name, value in os.environ.items() if name != "PORT" and name[:7] != "BJOERN_"}
        if threads := os.environ.get("BJOERN_THREADS"):
            settings["BJOERN_THREADS"] = threads  # `make threaded-test` means every server
        self.process = subprocess.Popen(
            [python, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env={**settings, **(environ or {})},
            pass_fds=fds,
            preexec_fn=_default_sigint,
        )

    @classmethod
    def of(cls, source: str, *arguments: str, **keywords: object) -> Program:
        """A program given as text, behind PRELUDE."""
        return cls("-c", PRELUDE + source, *arguments, **keywords)  # type: ignore[arg-type]

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self.process:  # closes the pipes and waits
            self.process.kill()  # of no effect where it has ended

    def hear(self) -> str:
        """The next line on standard output, "" where there is none."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def tell(self, line: str = "") -> None:
        """A line on its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def announced(self) -> str:
        """The line that the command says when it listens."""
        assert self.process.stderr is not None
        return self.process.stderr.readline().rstrip("\n")

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait_until_asleep(self) -> None:
        """Until it waits inside a system call with no signal pending: what was sent to it has been handled.

        Linux merges equal signals that are pending, and Python misses one that comes just before a blocking call. Who
        waits for the GIL sleeps, too, but wakes up every 5 ms to ask for it: so it must sleep through several looks.
        """
        status = Path(f"/proc/{self.process.pid}/status")
        deadline = time.monotonic() + GUARD
        looks, woken = 0, ""
        while time.monotonic() < deadline:
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines())
            asleep = fields["State"].startswith("S") and not int(fields["SigPnd"], 16) | int(fields["ShdPnd"], 16)
            looks = looks + 1 if asleep and fields["voluntary_ctxt_switches"] == woken else 0
            woken = fields["voluntary_ctxt_switches"]
            if looks == 3:
                return
            time.sleep(0.01)
        raise AssertionError(f"the program never slept: {fields['State']}")

    def end(self) -> End:
        """Waits for the program to end; kills it where it hangs."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        guard = threading.Timer(GUARD, self.process.kill)
        guard.start()
        # Not communicate(), which does not know what hear() has buffered.
        output, errors = self.process.stdout.read(), self.process.stderr.read()
        code = self.process.wait()
        guard.cancel()
        return End(code, output, errors)


def _default_sigint() -> None:
    # A job in a shell's background has SIGINT ignored, and its children would inherit that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def connect(address: str | int) -> socket.socket:
    """A connection to a port of 127.0.0.1, or to an address as the server tells it, with or without "http://"."""
    text = f"127.0.0.1:{address}" if isinstance(address, int) or address.isdigit() else address.removeprefix("http://")
    if text.startswith("unix:"):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(GUARD)
        client.connect(re.sub("^@", "\0", text[len("unix:") :]))
        return client
    host, _, port = text.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=GUARD)


def ask(client: socket.socket, path: str = "/", *fields: str) -> None:
    """Sends a GET request."""
    head = [f"GET {path} HTTP/1.1", "Host: test", *fields, "", ""]
    client.sendall("\r\n".join(head).encode())


def answer(client: socket.socket) -> bytes:
    """Everything until the server closes."""
    received = bytearray()
    while block := client.recv(1 << 20):
        received += block
    return bytes(received)


def get(address: str | int, path: str = "/") -> bytes:
    """One request on a connection of its own: the whole response."""
    with connect(address) as client:
        ask(client, path, "Connection: close")
        return answer(client)
