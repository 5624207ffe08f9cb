"""Tells an observer (the port in `X-Observer`) what happens to it, and waits for the observer where it is asked to.

`/iterate?blocks=3&size=10&gated=1&length=30&fail=1&error=ValueError` answers blocks of `size` bytes; `fail` is the
block whose production raises `error`, `fail_close` what `close` raises; `gated` waits for the gate before every block,
or before those from number `free` on, and with `gated=close` in `close` alone.
`/write` does so by `write()`. `/hold` waits for the gate inside the application. `/history` tells what the last
observed request did.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from apps import TEXT, Environ, argument, dispatch, named, valid

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

HISTORY: list[str] = []
KINDS: list[type[BaseException]] = [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError]
ERRORS = {kind.__name__: kind for kind in KINDS}


class Teller:
    """The application's end of the line to the observer; without one, it only keeps the history."""

    def __init__(self, environ: Environ) -> None:
        port = environ.get("HTTP_X_OBSERVER")
        self.sock = socket.create_connection(("127.0.0.1", int(port))) if port else None
        self.gated = argument(environ, "gated")
        HISTORY.clear()

    def tell(self, what: str) -> None:
        HISTORY.append(what)
        if self.sock:
            self.sock.sendall(what.encode() + b"\n")

    def __del__(self) -> None:
        if self.sock:
            self.sock.close()

    def gate(self) -> None:
        if self.sock and self.gated:
            self.sock.recv(1)


class Blocks:
    """The iterable that `/iterate` returns."""

    def __init__(self, environ: Environ, start_response: StartResponse) -> None:
        self.environ, self.start_response = environ, start_response
        self.teller = Teller(environ)
        self.blocks = int(argument(environ, "blocks", "3"))
        self.block = b"x" * int(argument(environ, "size", "10"))
        self.fail = int(argument(environ, "fail", "-1"))
        self.free = int(argument(environ, "free", "0"))
        self.at = 0
        self.teller.tell("call")

    def begin(self) -> None:
        length = argument(self.environ, "length")
        self.start_response("200 OK", [TEXT, *([("Content-Length", length)] if length else [])])

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self.teller.tell(f"next {self.at}")
        if self.at >= self.free and self.teller.gated != "close":
            self.teller.gate()
        if self.at == self.fail:
            raise ERRORS[argument(self.environ, "error", "ValueError")](argument(self.environ, "argument", "wanted"))
        if self.at == 0:
            self.begin()
        if self.at == self.blocks:
            raise StopIteration
        self.at += 1
        return self.block

    def close(self) -> None:
        self.teller.tell("close")
        if self.teller.gated == "close":
            self.teller.gate()
        if argument(self.environ, "fail_close"):
            raise ERRORS[argument(self.environ, "fail_close")]("close failed")


def iterate(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return Blocks(environ, start_response)


@valid
def write(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    teller = Teller(environ)
    send = start_response("200 OK", [TEXT])
    for number in range(int(argument(environ, "blocks", "3"))):
        teller.tell(f"write {number}")
        teller.gate()
        send(b"x" * int(argument(environ, "size", "10")))
    teller.tell("written")
    teller.gate()
    return []


def hold(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    teller = Teller(environ)
    teller.gated = "1"
    teller.tell("call")
    teller.gate()
    start_response("200 OK", [TEXT, ("Content-Length", "4")])
    return [b"held"]


def interrupt(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    """Its own process gets SIGINT in the middle of its answer."""
    start_response("200 OK", [TEXT])
    yield b"one "
    os.kill(os.getpid(), signal.SIGINT)
    yield b"two "
    yield b"three"


@valid
def history(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    answer = json.dumps(HISTORY).encode()
    start_response("200 OK", [TEXT, ("Content-Length", str(len(answer)))])
    return [answer]


app = dispatch(named(iterate, hold, interrupt) | {"write": write, "history": history})
