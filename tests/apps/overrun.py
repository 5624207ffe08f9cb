"""Calls that take longer than they may, each in its own way, and tell what becomes of them.

`/loop`, `/caught` and `/swallow` run in Python code until they are interrupted: not caught, caught by its name and
answered, and not caught by `except Exception`. `/native` waits in C code until the test lets it go. `/stream` begins a
response and then loops. `/brief` ends by itself after `ms`. `/ends` tells what the others have come to; `/quick` does
nothing.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

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


app = dispatch(named(loop, swallow, caught, native, stream, brief, ends, quick))
