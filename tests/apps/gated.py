"""Calls that block until the test lets them go: each tells the port in `X-Calls` what it is about to do, and waits.

`/called`, `/next`, `/written`, `/closed` and `/read` block in the call itself, before the second block of a stream,
between two `write()`s, in the iterable's `close()` and in `read()` of a file behind `file_wrapper`. Each answers with
its `id`, and what it is told by the test. `/event` waits in Python code, for SIGUSR1; `/quick` does not wait. `/upload`
blocks and tells its body.
"""

from __future__ import annotations

import contextvars
import hashlib
import json
import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from apps import TEXT, Environ, argument, dispatch, named, valid

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

RELEASED = threading.Event()
MARK: contextvars.ContextVar[str] = contextvars.ContextVar("MARK")
MAIN = threading.main_thread()
CLOSED: list[str] = []


class Gate:
    """The call's line to the test. `wait(where)` tells where it is, and blocks until it is answered by a line."""

    def __init__(self, environ: Environ) -> None:
        self.id = argument(environ, "id")
        self.sock = socket.create_connection(("127.0.0.1", int(environ["HTTP_X_CALLS"])))
        self.file = self.sock.makefile("rb")

    def wait(self, where: str) -> bytes:
        self.sock.sendall(f"{where} {self.id}\n".encode())
        return self.file.readline().rstrip(b"\n")

    def tell(self, what: str) -> None:
        self.sock.sendall(f"{what} {self.id}\n".encode())

    def close(self) -> None:
        self.file.close()
        self.sock.close()

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def begin(environ: Environ, start_response: StartResponse, *headers: tuple[str, str]) -> Any:
    return start_response("200 OK", [TEXT, ("X-Id", argument(environ, "id")), *headers])


def quick(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Tells which thread runs it, and what it was given."""
    begin(environ, start_response)
    MARK.set(argument(environ, "id"))
    time.sleep(0)  # another thread's turn
    thread = threading.current_thread()
    seen = {
        "id": argument(environ, "id"),
        "thread": thread.name,
        "main": thread is MAIN,
        "multithread": environ["wsgi.multithread"],
        "mark": MARK.get(),
        "closed": CLOSED,
    }
    return [json.dumps(seen).encode()]


def called(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    begin(environ, start_response)
    MARK.set(argument(environ, "id"))
    with Gate(environ) as gate:
        said = gate.wait("call")
    return [MARK.get().encode(), b" ", said]


def next(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    begin(environ, start_response)
    MARK.set(argument(environ, "id"))
    with Gate(environ) as gate:
        yield b"first "
        said = gate.wait("next")
        yield MARK.get().encode()
        yield b" " + said


def written(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """`size` bytes by `write()`, which blocks where the client does not read."""
    write = begin(environ, start_response)
    with Gate(environ) as gate:
        gate.tell("write")
        write(b"x" * int(argument(environ, "size", "50000000")))
        said = gate.wait("written")
    return [argument(environ, "id").encode(), b" ", said]


class Closing:
    """One block, and a `close()` that waits."""

    def __init__(self, environ: Environ) -> None:
        self.gate = Gate(environ)
        self.blocks = iter([b"first ", self.gate.id.encode()])

    def __iter__(self) -> Iterator[bytes]:
        return self.blocks

    def close(self) -> None:
        with self.gate:
            self.gate.wait("close")
        CLOSED.append(self.gate.id)


def closed(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    begin(environ, start_response)
    return Closing(environ)


class Reading:
    """A file of two reads, the second of which waits."""

    def __init__(self, environ: Environ) -> None:
        self.gate = Gate(environ)
        self.at = 0

    def read(self, size: int = -1) -> bytes:
        self.at += 1
        match self.at:
            case 1:
                return b"first "
            case 2:
                return self.gate.id.encode() + b" " + self.gate.wait("read")
            case _:
                return b""

    def close(self) -> None:
        self.gate.close()


def read(environ: Environ, start_response: StartResponse) -> Any:
    begin(environ, start_response)
    return environ["wsgi.file_wrapper"](Reading(environ), 100)


def upload(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    body = environ["wsgi.input"].read(-1)
    begin(environ, start_response)
    with Gate(environ) as gate:
        gate.wait("upload")
    return [hashlib.sha256(body).hexdigest().encode()]


def event(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    begin(environ, start_response)
    with Gate(environ) as gate:
        gate.tell("event")
        RELEASED.wait()
    return [argument(environ, "id").encode()]


signal.signal(signal.SIGUSR1, lambda *_: RELEASED.set())

VALID = [quick, called, written, upload, event]
app = dispatch({handler.__name__: valid(handler) for handler in VALID} | named(next, closed, read))
