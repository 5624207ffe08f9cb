"""Small pages to stack middleware around, and middleware as people write it: it wraps `start_response` and `write`.

`wrapped` counts the bytes that pass and tells them at `/counted`; `wrapped_checked` is it between checkers.
Knows: PEP 3333, "Middleware: Components that Play Both Sides".   Must not know: the server.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from apps import TEXT, Environ, dispatch, named, valid

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import StartResponse, WSGIApplication

# Applications --------------------------------------------------------------------------------------------------------


def plain(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [TEXT, ("Content-Length", "5")])
    return [b"plain"]


def lazy(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [TEXT])
    yield b"la"
    yield b"zy"


def written(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    write = start_response("200 OK", [TEXT])
    write(b"writ")
    write(b"ten ")
    return [b"and ", b"returned"]


def replaced(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [TEXT])
    try:
        raise ValueError("before the head")
    except ValueError:
        start_response("503 Sorry", [TEXT], sys.exc_info())
    return [b"replaced"]


def failing(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    raise ValueError("before the head")


def failing_late(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [TEXT])
    yield b"first"
    raise ValueError("after the head")


def failing_at_the_end(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    """More than a client's buffers take in one go."""
    start_response("200 OK", [TEXT])
    for _ in range(100):
        yield b"x" * 50_000
    raise ValueError(f"in {environ['QUERY_STRING']}")


def told(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    names = ["REMOTE_ADDR", "HTTP_HOST", "SERVER_NAME", "SERVER_PORT", "SCRIPT_NAME", "PATH_INFO", "wsgi.url_scheme"]
    answer = json.dumps({name: environ.get(name) for name in names}).encode()
    start_response("200 OK", [TEXT, ("Content-Length", str(len(answer)))])
    return [answer]


pages = dispatch(named(plain, lazy, written, replaced, failing, failing_late, failing_at_the_end, told))


# Middleware -----------------------------------------------------------------------------------------------------------


class Counting:
    """Counts what passes; hands `write`, `exc_info` and `close` on, and tells them at `/counted`."""

    def __init__(self, app: WSGIApplication) -> None:
        self.app = app
        self.counted: dict[str, Any] = {}

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/counted":
            answer = json.dumps(self.counted).encode()
            start_response("200 OK", [TEXT, ("Content-Length", str(len(answer)))])
            return [answer]
        self.counted = {"written": 0, "iterated": 0, "closed": 0, "statuses": []}

        def wrapped(
            status: str, headers: list[tuple[str, str]], exc_info: OptExcInfo | None = None
        ) -> Callable[[bytes], object]:
            self.counted["statuses"].append(status)
            write = start_response(status, [*headers, ("X-Wrapped", "1")], *([exc_info] if exc_info else []))

            def counting(data: bytes) -> object:
                self.counted["written"] += len(data)
                return write(data)

            return counting

        return Counted(self.app(environ, wrapped), self.counted)


class Counted:
    def __init__(self, blocks: Iterable[bytes], counted: dict[str, Any]) -> None:
        self.blocks, self.counted = blocks, counted

    def __iter__(self) -> Iterator[bytes]:
        for block in self.blocks:
            self.counted["iterated"] += len(block)
            yield block

    def close(self) -> None:
        self.counted["closed"] += 1
        if hasattr(self.blocks, "close"):
            self.blocks.close()


wrapped = Counting(pages)
wrapped_checked = valid(Counting(valid(pages)))
