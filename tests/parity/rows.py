"""Rows of the comparison: what is sent or run, and what must come of it.

Knows: raw connections, processes.   Must not know: bjoern, pytest, what is compared.
Nothing here measures time: a connection counts as left open where the server has answered ROUNDS requests on another
connection without a byte on this one.
"""

from __future__ import annotations

import json
import select
import signal
import subprocess
from dataclasses import dataclass
from typing import Any

from server_process import ServerProcess
from wire import GUARD, Client, message

ROUNDS = 8
PULSE = message("GET", "/ok")


def pulse(other: Client, rounds: int = ROUNDS) -> None:
    """The server has gone through its loop `rounds` times, and has received what was sent before."""
    for _ in range(rounds):
        assert other.ask("GET", "/ok").status == 200


def has_news(client: Client) -> bool:
    return bool(select.select([client.sock], [], [], 0)[0])


# Expectations --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Closes:
    """Exactly these bytes, and then the end of the connection."""

    wire: bytes

    def check(self, client: Client, other: Client) -> None:
        assert client.recv_until_close() == self.wire


@dataclass(frozen=True)
class Stays:
    """Exactly these bytes, then nothing more, while the connection stays open."""

    wire: bytes = b""

    def check(self, client: Client, other: Client) -> None:
        received = b""
        while len(received) < len(self.wire):
            data = client.sock.recv(len(self.wire) - len(received))
            if not data:
                break
            received += data
        assert received == self.wire
        pulse(other)
        assert not has_news(client), client.sock.recv(1000) or "closed"


@dataclass(frozen=True)
class Refused:
    """An error of the server's own: this status, which is ours' body, too, and then the end of the connection."""

    status: int

    def check(self, client: Client, other: Client) -> None:
        head, blank, body = client.recv_until_close().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % self.status), head
        status_line = head.partition(b"\r\n")[0]
        assert blank == b"\r\n\r\n"
        assert body in (b"", status_line.removeprefix(b"HTTP/1.1 ") + b"\n")


@dataclass(frozen=True)
class Environ:
    """The report of the application: these variables, None for those that are not there; to a request that closes."""

    wanted: dict[str, Any]

    def check(self, client: Client, other: Client) -> None:
        head, _, body = client.recv_until_close().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        environ = json.loads(body)
        assert {name: environ.get(name) for name in self.wanted} == self.wanted


Answer = Closes | Stays | Refused | Environ


def response(status: str, *lines: str, body: bytes = b"") -> bytes:
    """The bytes of a response, its lines as they are given."""
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("latin-1") + body


# Rows ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wire:
    """A row about bytes on a connection. `sent` may be in pieces, each of which the server receives by itself.

    The path of the request names the application, see `parity.apps`.
    """

    place: str
    name: str
    sent: bytes | tuple[bytes, ...]
    want: Answer
    was: Answer | None = None  # of 3.2.2, where it is another
    said: str = ""  # on standard error, once
    said_before: str = ""  # of 3.2.2, where it is another
    restored: bool = True  # with the options that bring the old bytes back
    decision: str = ""

    def check(self, server: ServerProcess, old: bool) -> None:
        want, said = (self.was or self.want, self.said_before or self.said) if old else (self.want, self.said)
        with server.connect() as client, server.connect() as other:
            *early, last = (self.sent,) if isinstance(self.sent, bytes) else self.sent
            for piece in early:
                client.send(piece)
                pulse(other, 2)
            client.send(last)
            want.check(client, other)
        if said:
            assert server.wait_stderr(said).count(said) == 1
        else:
            server.stderr()  # tracebacks are told in other words


ANYTHING_ELSE = "*"  # what a program of 3.2.2 printed, where that depends on luck

PRELUDE = """
import os, signal, socket, sys, threading
import bjoern

signal.signal(signal.SIGINT, signal.default_int_handler)

def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]

def say(*words):
    print(" ".join(map(str, words)) + "\\n", end="", flush=True)

def get(address, family=socket.AF_INET):
    with socket.socket(family) as client:
        client.connect(address)
        client.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        with client.makefile("rb") as file:
            return file.read().partition(b"\\r\\n\\r\\n")[2].decode()

def aside(function, *arguments):
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread

def serves_on(address):
    # Whether fifty requests more are taken. The one or two that it has heard of, an ending server may answer.
    try:
        for _ in range(50):
            get(address)
    except OSError:
        return False
    return True

def ask_and_interrupt(sock):
    say(get(sock.getsockname(), sock.family))
    os.kill(os.getpid(), signal.SIGINT)

def serve(*arguments):
    try:
        bjoern.run(*arguments)
        say("returned")
    except KeyboardInterrupt:
        say("interrupted", bjoern._default_instance)

"""


@dataclass(frozen=True)
class Script:
    """A row about a Python program: what it prints, and its exit code (or minus the signal that killed it).

    It is run behind PRELUDE, with the path of a folder of its own as its argument.
    """

    place: str
    name: str
    source: str
    want: str
    was: str | None = None
    code: int = 0
    code_was: int | None = None
    decision: str = ""

    def check(self, python: str, folder: str, old: bool) -> None:
        done = subprocess.run(
            [python, "-c", PRELUDE + self.source, folder],
            capture_output=True,
            text=True,
            timeout=GUARD,
            check=False,
            preexec_fn=default_sigint,
        )
        want = self.was if old and self.was is not None else self.want
        code = self.code_was if old and self.code_was is not None else self.code
        if old and want == ANYTHING_ELSE:
            assert (done.stdout.strip(), done.returncode) != (self.want, self.code)
        else:
            assert (done.stdout.strip(), done.returncode) == (want, code), done.stderr


def default_sigint() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background job may have inherited SIG_IGN
