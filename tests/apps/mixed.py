"""The answers of a stress: `/kind?id=number&size=bytes` answers `block(number, size)`, each kind in its own way.

`/fast` at once, `/sleep` after some milliseconds, `/work` after as many in Python code, `/stream` by a generator,
`/write` by `write()`, `/file` by `file_wrapper`; `/upload` tells the hash of the body, `/opened` the number of open
connections.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from apps import TEXT, Environ, argument, dispatch, named

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse


def given(environ: Environ) -> bytes:
    number, size = argument(environ, "id"), int(argument(environ, "size"))
    return hashlib.sha256(number.encode()).digest() * (size // 32)


def begin(environ: Environ, start_response: StartResponse) -> Any:
    return start_response("200 OK", [TEXT, ("X-Id", argument(environ, "id"))])


def pieces(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), 10_000):
        yield data[start : start + 10_000]


def fast(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    begin(environ, start_response)
    return [given(environ)]


def sleep(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    time.sleep(int(argument(environ, "id")) % 7 / 1000)
    return fast(environ, start_response)


def work(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    end = time.monotonic() + int(argument(environ, "id")) % 5 / 1000
    while time.monotonic() < end:
        pass
    return fast(environ, start_response)


def stream(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    begin(environ, start_response)
    for piece in pieces(given(environ)):
        yield piece
        time.sleep(0.0005)


def write(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    send = begin(environ, start_response)
    for piece in pieces(given(environ)):
        send(piece)
    return []


def file(environ: Environ, start_response: StartResponse) -> Any:
    begin(environ, start_response)
    if int(argument(environ, "id")) % 20:
        return environ["wsgi.file_wrapper"](io.BytesIO(given(environ)), 10_000)
    stored = tempfile.TemporaryFile()  # noqa: SIM115 (the wrapper closes it)
    stored.write(given(environ))
    stored.seek(0)
    return environ["wsgi.file_wrapper"](stored)


def upload(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    begin(environ, start_response)
    return [hashlib.sha256(environ["wsgi.input"].read()).hexdigest().encode()]


def opened(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [TEXT])
    found = 0
    with open("/proc/net/tcp") as table:
        port = f":{int(environ['SERVER_PORT']):04X}"
        inodes = {line.split()[9] for line in table if line.split()[1].endswith(port) and line.split()[3] != "0A"}
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{descriptor}")[8:-1] in inodes
        except OSError:
            continue
    return [b"%d" % found]


app = dispatch(named(fast, sleep, work, stream, write, file, upload, opened))
