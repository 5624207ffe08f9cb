"""The applications of the rows: the first segment of the path is the name of one; without a name, `report` answers.

Knows: PEP 3333, and what programs written for bjoern 3 made of it.   Must not know: which bjoern serves it, pytest.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

Environ = dict[str, Any]
Application = Callable[[Environ, Any], Any]

LENGTH_2 = ("Content-Length", "2")
KNOWN = [LENGTH_2]

FOLDER = tempfile.TemporaryDirectory()  # it is there as long as the process
FILE = Path(FOLDER.name, "file")
FILE.write_bytes(b"0123456789" * 10)


def report(environ: Environ, start_response: Any) -> list[bytes]:
    """The environ as JSON: what is text, number or tuple as it is, else the name of its type."""
    plain = (str, bool, int, tuple)
    shown = {key: value if isinstance(value, plain) else type(value).__name__ for key, value in environ.items()}
    shown["read"] = environ["wsgi.input"].read().decode("latin-1")
    shown["value"] = getattr(environ["wsgi.input"], "getvalue", bytes)().decode("latin-1")
    answer = json.dumps(shown).encode()
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]


def fixed(body: Callable[[], Any], headers: Any = (), status: Any = "200 OK") -> Application:
    """Always the same status, headers and body."""

    def application(environ: Environ, start_response: Any) -> Any:
        start_response(status, list(headers))
        return body()

    return application


def called(*arguments: Any, **keywords: Any) -> Application:
    """Calls start_response so, whatever comes of it."""

    def application(environ: Environ, start_response: Any) -> list[bytes]:
        start_response(*arguments, **keywords)
        return [b"ok"]

    return application


class Closing:
    """An iterable that says on standard error that it is closed."""

    def __init__(self, *blocks: bytes, error: Exception | None = None, close_error: Exception | None = None) -> None:
        self.blocks, self.error, self.close_error = iter(blocks), error, close_error

    def __iter__(self) -> Iterator[bytes]:
        yield from self.blocks
        if self.error:
            raise self.error

    def close(self) -> None:
        print("Closing: closed", file=sys.stderr, flush=True)
        if self.close_error:
            raise self.close_error


class Fields(list[Any]):
    """A list of headers that is a list of a kind."""


def lazy(environ: Environ, start_response: Any) -> Iterator[bytes]:
    yield from ()
    start_response("200 OK", KNOWN)
    yield b""
    yield b"ok"


def copied(environ: Environ, start_response: Any) -> list[bytes]:
    headers = [("X-A", "a"), LENGTH_2]
    start_response("200 OK", headers)
    same = headers == [("X-A", "a"), LENGTH_2]
    headers.append(("X-Late", "b"))
    return [b"ok" if same else b"no"]


def replaced(environ: Environ, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("X-First", "1"), LENGTH_2])
    try:
        raise ValueError("in time")
    except ValueError:
        start_response("503 Sorry", [("X-Second", "2"), LENGTH_2], sys.exc_info())
    return [b"no"]


def too_late(environ: Environ, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Length", "12")])
    yield b"first "
    try:
        raise ValueError("late")
    except ValueError:
        try:
            start_response("503 Sorry", [], sys.exc_info())
        except ValueError as error:
            yield f"caught{error}"[:6].encode()


def twice(environ: Environ, start_response: Any) -> list[bytes]:
    start_response("200 OK", KNOWN)
    start_response("200 OK", KNOWN)
    return [b"ok"]


def twice_but_caught(environ: Environ, start_response: Any) -> list[bytes]:
    start_response("200 OK", KNOWN)
    try:
        start_response("500 No", [])
    except TypeError:
        return [b"ok"]
    return [b"no"]


def failing(environ: Environ, start_response: Any) -> Any:
    raise ValueError("before anything")


def leaving(environ: Environ, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [])
    yield b"one"
    raise ValueError("in the middle")


def written(environ: Environ, start_response: Any) -> list[bytes]:
    write = start_response("200 OK", [("Content-Length", "6")])
    write(b"one")
    write(b"two")
    return []


def wrapped(offset: int = 0, length: int | None = 100, blocks: int | None = None) -> Application:
    """A file behind `wsgi.file_wrapper`, from an offset on."""

    def application(environ: Environ, start_response: Any) -> Any:
        file = FILE.open("rb")
        file.seek(offset)
        start_response("200 OK", [] if length is None else [("Content-Length", str(length))])
        return environ["wsgi.file_wrapper"](file, *([blocks] if blocks else []))

    return application


class Reader:
    """The least that can be wrapped."""

    def __init__(self) -> None:
        self.blocks = [b"one", b"two"]

    def read(self, *size: int) -> bytes:
        return self.blocks.pop(0) if self.blocks else b""


def pseudo(make: Callable[[], Any], *headers: tuple[str, str]) -> Application:
    def application(environ: Environ, start_response: Any) -> Any:
        start_response("200 OK", list(headers))
        return environ["wsgi.file_wrapper"](make(), 4)

    return application


def wrapper(environ: Environ, start_response: Any) -> list[bytes]:
    """What a FileWrapper is in the hands of the application."""
    made = environ["wsgi.file_wrapper"](io.BytesIO(b"abcde"), 2)
    public = [name for name in dir(made) if name[0] != "_"]
    answer = [type(made).__name__, public, iter(made) is made, [block.decode() for block in made]]
    body = json.dumps(answer).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def connections() -> Iterator[socket.socket]:
    """The TCP connections that this process has open."""
    for number in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # no socket, or not connected, or the descriptor of the list itself
            found = socket.socket(fileno=number)
            try:
                if found.family == socket.AF_INET and found.getpeername():
                    yield found
            finally:
                found.detach()  # it is the server's


def inheritable(environ: Environ, start_response: Any) -> list[bytes]:
    """Whether a child process would find a connection open."""
    found = any(connection.get_inheritable() for connection in connections())
    start_response("200 OK", KNOWN)
    return [b"ye" if found else b"no"]


def undelayed(environ: Environ, start_response: Any) -> list[bytes]:
    """Whether what is sent on the connections waits for no acknowledgement (TCP_NODELAY)."""
    found = [one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for one in connections()]
    start_response("200 OK", KNOWN)
    return [b"ok" if found and all(found) else b"no"]


def environment(environ: Environ, start_response: Any) -> list[bytes]:
    """A second request's environ holds nothing of the first's."""
    fresh = "LEFT" not in environ
    environ["LEFT"] = environ["SCRIPT_NAME"] = "behind"
    start_response("200 OK", KNOWN)
    return [b"ok" if fresh and type(environ) is dict else b"no"]


def errors(environ: Environ, start_response: Any) -> list[bytes]:
    print("on wsgi.errors", file=environ["wsgi.errors"], flush=True)
    start_response("200 OK", KNOWN)
    return [b"ok" if environ["wsgi.errors"] is sys.stderr else b"no"]


def held(environ: Environ, start_response: Any) -> list[bytes]:
    """Tells the observer (the port in `X-Observer`) that it is called, and waits for a byte from it."""
    with socket.create_connection(("127.0.0.1", int(environ["HTTP_X_OBSERVER"]))) as observer:
        observer.sendall(b"held\n")
        observer.recv(1)
    start_response("200 OK", KNOWN)
    return [b"ok"]


def stop(environ: Environ, start_response: Any) -> list[bytes]:
    os.kill(os.getpid(), signal.SIGINT)
    start_response("200 OK", KNOWN)
    return [b"ok"]


APPLICATIONS: dict[str, Application] = {
    "ok": fixed(lambda: [b"ok"], KNOWN),
    "one": fixed(lambda: [b"whole"]),
    "bytes": fixed(lambda: b"whole"),
    "known_bytes": fixed(lambda: b"ok", KNOWN),
    "two": fixed(lambda: [b"one", b"two, too"]),
    "known_two": fixed(lambda: [b"o", b"k"], KNOWN),
    "generator": fixed(lambda: (block for block in [b"", b"one", b"", b"two", b""])),
    "tuple": fixed(lambda: (b"o", b"k"), KNOWN),
    "map": fixed(lambda: map(bytes, [b"o", b"k"]), KNOWN),
    "file": fixed(lambda: io.BytesIO(b"one\ntwo\n")),
    "large_block": fixed(lambda: [b"", b"x" * 26]),
    "empty": fixed(list),
    "empty_generator": fixed(lambda: iter([b""])),
    "empty_known": fixed(list, [("Content-Length", "0")]),
    "empty_block": fixed(lambda: [b""]),
    "verbatim": fixed(
        lambda: [b"ok"],
        [("x-LOWER", "a  b"), ("Set-Cookie", "1"), ("X-B", "\xe4"), ("Set-Cookie", "2"), ("content-length", "2")],
        "299 Well,  then",
    ),
    "204": fixed(list, (), "204 No Content"),
    "304": fixed(list, (), "304 Not Modified"),
    "204_with_body": fixed(lambda: [b"body"], (), "204 No Content"),
    "304_with_body": fixed(lambda: [b"body"], (), "304 Not Modified"),
    "404_known": fixed(lambda: [b"no"], KNOWN, "404 Not Found"),
    "str": fixed(lambda: "text"),
    "list_of_str": fixed(lambda: ["text"]),
    "bytearray": fixed(lambda: [bytearray(b"x")]),
    "int": fixed(lambda: 42),
    "none": fixed(lambda: None),
    "list_with_str": fixed(lambda: [b"one", "text"]),
    "late_str": fixed(lambda: iter([b"one", "text"])),
    "closing": fixed(lambda: Closing(b"o", b"k"), KNOWN),
    "closing_one": fixed(lambda: Closing(b"ok"), KNOWN),
    "closing_error": fixed(lambda: Closing(b"one", error=ValueError("wanted"))),
    "close_error": fixed(lambda: Closing(b"ok", close_error=ValueError("in close")), KNOWN),
    "endless": fixed(lambda: Closing(*[b"x" * 65536] * 10_000)),
    "long_promise": fixed(lambda: [b"ok"], [("Content-Length", "9")]),
    "short_promise": fixed(lambda: [b"okay"], KNOWN),
    "prefix": fixed(lambda: [b"one", b"two"], [("C", "1")]),
    "connection_close": fixed(lambda: [b"ok"], [LENGTH_2, ("Connection", "close")]),
    "coded": fixed(lambda: [b"ok"], [("Transfer-Encoding", "chunked")]),
    "split": fixed(lambda: [b"ok"], [LENGTH_2, ("X-A", "b\r\nX-Evil: c")]),
    "silent": lambda environ, start_response: [b"never begun"],
    "no_arguments": called(),
    "four_arguments": called("200 OK", [], None, 1),
    "keywords": called(status="200 OK", headers=KNOWN),
    "headers_tuple": called("200 OK", tuple(KNOWN)),
    "headers_subclass": called("200 OK", Fields(KNOWN)),
    "header_list": called("200 OK", [["A", "b"]]),
    "header_int": called("200 OK", [LENGTH_2, ("A", 1)]),
    "header_euro": called("200 OK", [("A", "\u20ac")]),
    "status_short": called("20", KNOWN),
    "status_bytes": called(b"200 OK", KNOWN),
    "exc_info_int": called("200 OK", KNOWN, 1),
    "exc_info_none": called("200 OK", KNOWN, None),
    "wrapped": wrapped(),
    "wrapped_from_95": wrapped(95, 5),
    "wrapped_past_length": wrapped(0, 5),
    "wrapped_unknown": wrapped(95, None),
    "wrapped_blocks": wrapped(95, 5, 2),
    "wrapped_bytesio": pseudo(lambda: io.BytesIO(b"abcdefghij"), ("Content-Length", "10")),
    "wrapped_bytesio_unknown": pseudo(lambda: io.BytesIO(b"abcdefghij")),
    "wrapped_reader": pseudo(Reader, ("Content-Length", "6")),
}
FUNCTIONS: list[Application] = [report, lazy, copied, replaced, too_late, twice, twice_but_caught, failing, leaving]
FUNCTIONS += [written, wrapper, inheritable, undelayed, environment, errors, held, stop]
APPLICATIONS |= {function.__name__: function for function in FUNCTIONS}


def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
    name = environ.get("PATH_INFO", "").strip("/").partition("/")[0]
    application: Application = APPLICATIONS.get(name) or report
    answer: Iterable[bytes] = application(environ, start_response)
    return answer
