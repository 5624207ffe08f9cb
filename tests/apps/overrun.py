"""Calls that take longer than they may, each in its own way, and tell what becomes of them.

`/loop`, `/caught` and `/swallow` run in Python code until they are interrupted: not caught, caught by its name and
answered, and not caught by `except Exception`. `/native` waits in C code until the test lets it go. `/stream` begins a
response and then loops, `/late_block` loops before its first block, `/native_stream` waits in C code behind it.
`/write` gives a client more than it reads, `/read` loops in `read()` of a file behind `file_wrapper`. `/late` answers
with an iterable when its time is over. `/brief` ends by itself after `ms`. `/ends` tells what the others have come to;
`/quick` does nothing.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import bjoern
from apps import TEXT, Environ, argument, dispatch, named

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

ENDS: list[str] = []


def spin_for_ever() -> None:
    while True:
        time.sleep(0)


def loop(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    try:
        spin_for_ever()
    finally:
        ENDS.append("loop")
    return []


def swallow(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    try:
        spin_for_ever()
    except Exception:
        ENDS.append("swallowed")
    finally:
        ENDS.append("not swallowed")
    return []


def caught(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    try:
        spin_for_ever()
    except bjoern.RequestTimeout:
        ENDS.append("caught")
    start_response("200 OK", [TEXT])
    return [b"too late"]


def late_block(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [TEXT])
    spin_for_ever()
    yield b"too late"


def native(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    with socket.create_connection(("127.0.0.1", int(environ["HTTP_X_CALLS"]))) as gate:
        gate.sendall(b"native 0\n")
        try:
            gate.recv(10)
        finally:
            ENDS.append("native")
    start_response("200 OK", [TEXT])
    return [b"too late"]


def stream(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [TEXT])
    yield b"first"
    try:
        spin_for_ever()
    finally:
        ENDS.append("stream")


def native_stream(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [TEXT])
    yield b"first"
    with socket.create_connection(("127.0.0.1", int(environ["HTTP_X_CALLS"]))) as gate:
        gate.sendall(b"native_stream 0\n")
        gate.recv(10)


def write(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    send = start_response("200 OK", [TEXT])
    try:
        while True:
            send(b"x" * 10_000_000)
    finally:
        ENDS.append("write")


class Reading:
    """A file that comes to no end."""

    def __init__(self) -> None:
        self.began = False

    def read(self, size: int = -1) -> bytes:
        if self.began:
            spin_for_ever()
        self.began = True
        return b"first"

    def close(self) -> None:
        ENDS.append("read")


def read(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT])
    return environ["wsgi.file_wrapper"](Reading())


class Late:
    """An iterable that tells when it is closed."""

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"too ", b"late"])

    def close(self) -> None:
        ENDS.append("late")


def late(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [TEXT])
    try:
        spin_for_ever()
    except bjoern.RequestTimeout:
        return Late()
    return []


def brief(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    end = time.monotonic() + int(argument(environ, "ms")) / 1000
    while time.monotonic() < end:
        pass
    start_response("200 OK", [TEXT])
    return [b"in time"]


def ends(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [TEXT])
    told, ENDS[:] = " ".join(ENDS), []
    return [told.encode()]


def quick(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [TEXT])
    return [b"ok"]


app = dispatch(
    named(loop, swallow, caught, late_block, native, stream, native_stream, write, read, late, brief, ends, quick)
)
