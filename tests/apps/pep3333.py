"""Applications for what PEP 3333 asks of a server and no other application here shows; the path names the function."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any
from wsgiref.util import request_uri

from apps import TEXT, Environ, argument, dispatch, named

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

LENGTH_2 = ("Content-Length", "2")
LOOKED_AT: list[str] = []
REFUSED: list[str] = []
RAISED: list[weakref.ref[BaseException]] = []


def called(*arguments: Any, **keywords: Any) -> Iterable[bytes]:
    arguments[1]("200 OK", [TEXT])
    return [f"{len(arguments)} {len(keywords)}".encode()]


class Private:
    """An iterable that notes which of its attributes are looked at."""

    def __getattribute__(self, name: str) -> Any:
        LOOKED_AT.append(name)
        return object.__getattribute__(self, name)

    def __iter__(self) -> Iterator[bytes]:
        yield b"o"
        yield b"k"


def private(environ: Environ, start_response: StartResponse) -> Any:
    LOOKED_AT.clear()
    start_response("200 OK", [TEXT])
    return Private()


def looked_at(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [TEXT])
    return [" ".join(sorted({*LOOKED_AT})).encode()]


def errors(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    stream = environ["wsgi.errors"]
    stream.write("written \u20ac \udcff\n")
    stream.writelines(["line one\n", "line two\n"])
    stream.flush()
    start_response("200 OK", [TEXT, LENGTH_2])
    return [b"ok"]


def url(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    assert environ["SERVER_NAME"]
    assert environ["SERVER_PORT"]
    start_response("200 OK", [TEXT])
    return [request_uri(environ).encode()]


def again_after_an_error(environ: Environ, start_response: Any) -> Iterable[bytes]:
    """The first call failed; the second needs exc_info all the same."""
    try:
        start_response("200 OK", [("A", 1)])
    except TypeError:
        start_response("200 OK", [TEXT, LENGTH_2], *([sys.exc_info()] if argument(environ, "told") else []))
    return [b"ok"]


class Known(Exception):
    """An exception that a weak reference may be made to."""


def forgotten(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    RAISED.clear()
    start_response("200 OK", [TEXT])
    try:
        raise Known("on purpose")
    except Known as error:
        RAISED.append(weakref.ref(error))
        start_response("503 Sorry", [TEXT, LENGTH_2], sys.exc_info())
    return [b"no"]


def is_forgotten(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Without a run of the cycle collector."""
    start_response("200 OK", [TEXT])
    return [b"forgotten" if RAISED[0]() is None else b"held"]


def written_past_the_end(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    write = start_response("200 OK", [TEXT, LENGTH_2])
    write(b"ok")
    REFUSED.clear()
    try:
        write(b"more")
    except Exception as error:
        REFUSED.append(type(error).__name__)
    return []


def was_refused(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [TEXT])
    return [b"refused" if REFUSED else b"taken"]


def middleware(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    """Has nothing to say yet each time the application behind it has: empty blocks instead (block boundaries)."""
    start_response("200 OK", [TEXT])
    gathered = b""
    for block in [b"a", b"b", b"c", b"d"]:
        gathered += block
        yield gathered if len(gathered) == 4 else b""


def iterated_wrapper(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Not the wrapper, but what middleware made of it."""
    with open(__file__, "rb") as file:
        wrapper = environ["wsgi.file_wrapper"](file, 64)
        start_response("200 OK", [TEXT])
        return [block.upper() for block in wrapper]


FUNCTIONS: list[Callable[..., Any]] = [called, private, looked_at, errors, url, again_after_an_error, forgotten]
FUNCTIONS += [is_forgotten, written_past_the_end, was_refused, middleware, iterated_wrapper]
app = dispatch(named(*FUNCTIONS))
