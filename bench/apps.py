"""The applications that are served, as small as they can be: what is measured is the server.

Knows: WSGI.   Must not know: which server runs it.
Flask's and Django's pages are modules of their own, so that the others do not import them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

HELLO = b"Hello, world!"
BLOCK = b"x" * 1024
BLOCKS = 100
LARGE = b"x" * 10_000_000
READ_SIZE = 64 * 1024  # bytes a read, as frameworks take their uploads
TURNS_A_MS = 65_000  # of an empty loop, in about a millisecond: counted once (CPython 3.11), the same for everyone

PLAIN = ("Content-Type", "text/plain")


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [PLAIN, ("Content-Length", str(len(HELLO)))])
    return [HELLO]


def count(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Reads the whole body and says how long it was."""
    body, length = environ["wsgi.input"], 0
    left = int(environ["CONTENT_LENGTH"])
    while left and (data := body.read(min(left, READ_SIZE))):
        left -= len(data)
        length += len(data)
    answer = str(length).encode()
    start_response("200 OK", [PLAIN, ("Content-Length", str(len(answer)))])
    return [answer]


def large(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [PLAIN, ("Content-Length", str(len(LARGE)))])
    return [LARGE]


def file(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The file that the driver made; by blocks where a server has no `wsgi.file_wrapper`, as PEP 3333 tells."""
    opened = open(os.environ["BENCH_FILE"], "rb")  # noqa: SIM115 - the server closes it
    start_response("200 OK", [PLAIN, ("Content-Length", str(len(LARGE)))])
    if "wsgi.file_wrapper" in environ:
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](opened, READ_SIZE)
        return wrapped
    return _blocks(opened)


def _blocks(opened: BinaryIO) -> Iterator[bytes]:
    """A generator, since some servers call close() on whatever they are given."""
    with opened:
        while data := opened.read(READ_SIZE):
            yield data


def stream(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """Blocks of unknown number: chunked."""
    start_response("200 OK", [PLAIN])
    for _ in range(BLOCKS):
        yield BLOCK


def _compute(milliseconds: int) -> None:
    for _ in range(milliseconds * TURNS_A_MS):
        pass


# What a page does before it says hello: wait, as for a database, or compute, and keep the GIL if there is one.
WORK: dict[str, Callable[[], None]] = {
    "/": lambda: None,
    "/sleep10": lambda: time.sleep(0.010),
    "/sleep100": lambda: time.sleep(0.100),
    "/compute1": lambda: _compute(1),
    "/compute50": lambda: _compute(50),
}


def busy(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Says hello after the work that the path names."""
    WORK[environ["PATH_INFO"]]()
    return hello(environ, start_response)
