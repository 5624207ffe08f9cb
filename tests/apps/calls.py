"""Ways to call `start_response`, right and wrong; the path names the function."""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from apps import TEXT, Environ, Headers, argument, dispatch, named, valid

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

LENGTH_2 = ("Content-Length", "2")


# Right, and validated ------------------------------------------------------------------------------------------------


def plain(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [TEXT, LENGTH_2])
    return [b"ok"]


def lazy(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [TEXT, LENGTH_2])
    yield b"ok"


def lazy_after_empty_blocks(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [TEXT, LENGTH_2])
    yield b""
    yield b""
    yield b"ok"


def replaced(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [TEXT, ("X-First", "1")])
    try:
        raise ValueError("before the head")
    except ValueError:
        start_response("503 Sorry", [TEXT, LENGTH_2, ("X-Second", "2")], sys.exc_info())
    return [b"no"]


def replaced_in_generator(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [TEXT, ("X-First", "1")])
    yield b""
    try:
        raise ValueError("before the head")
    except ValueError:
        start_response("503 Sorry", [TEXT, LENGTH_2, ("X-Second", "2")], sys.exc_info())
    yield b"no"


def first_with_exc_info(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    try:
        raise ValueError("before the head")
    except ValueError:
        start_response("503 Sorry", [TEXT, LENGTH_2], sys.exc_info())
    return [b"no"]


def too_late(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [TEXT])
    yield b"first"
    try:
        raise ValueError("after the head")
    except ValueError:
        start_response("503 Sorry", [TEXT], sys.exc_info())
    yield b"never"


def too_late_but_caught(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [TEXT])
    yield b"first "
    try:
        raise ValueError("after the head")
    except ValueError:
        try:
            start_response("503 Sorry", [TEXT], sys.exc_info())
        except ValueError as error:
            yield str(error).encode()


def no_exc_info(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [TEXT, LENGTH_2], None)
    return [b"ok"]


# Right, but not for the validator ------------------------------------------------------------------------------------


def keywords(environ: Environ, start_response: Any) -> Iterable[bytes]:
    start_response(status="200 OK", headers=[TEXT, LENGTH_2], exc_info=None)
    return [b"ok"]


def subclassed_list(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    class Fields(Headers):
        pass

    start_response("200 OK", Fields([TEXT, LENGTH_2]))
    return [b"ok"]


def changed_afterwards(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    headers = [TEXT, LENGTH_2]
    start_response("200 OK", headers)
    unchanged = headers == [TEXT, LENGTH_2]
    headers.append(("X-Late", "1"))
    return [b"ok" if unchanged else b"no"]


def subclasses(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    class Text(str):
        pass

    class Pair(NamedTuple):
        name: str
        value: str

    start_response(Text("200 OK"), [Pair("X-Pair", "1"), (Text("Content-Length"), Text("2"))])
    return [b"ok"]


def called_while_called(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    class Text(str):
        def __repr__(self) -> str:
            start_response("200 OK", [TEXT, LENGTH_2])
            return "a text that is shown"

    with contextlib.suppress(TypeError, ValueError):
        start_response(Text("200 \u20ac"), [])
    return [b"ok"]


def large_head(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 " + "O" * 5000, [*((f"X-{n}", "v" * n) for n in range(1000)), LENGTH_2])
    return [b"ok"]


def written_between(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    write = start_response("200 OK", [TEXT])
    write(b"1")
    yield b"2"
    write(b"3")
    yield b"4"


def close_is_no_function(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    class Blocks(list[bytes]):
        close = None

    start_response("200 OK", [TEXT, LENGTH_2])
    return Blocks([b"ok"])


KEPT: dict[str, Any] = {}


def keep(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    KEPT["start_response"], KEPT["write"] = start_response, start_response("200 OK", [TEXT, LENGTH_2])
    return [b"ok"]


def use_kept(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Calls what belongs to a request that is over, and tells what was raised."""
    said = []
    calls: list[Callable[[], object]] = [
        lambda: KEPT["write"](b"evil"),
        lambda: KEPT["start_response"]("500 Evil", []),
        lambda: KEPT["start_response"]("500 Evil", [], (ValueError, ValueError("kept"), None)),
    ]
    for call in calls:
        try:
            call()
            said.append("nothing")
        except Exception as error:
            said.append(type(error).__name__)
    start_response("200 OK", [TEXT])
    return [" ".join(said).encode()]


def closed_input(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    environ["wsgi.input"].close()
    start_response("200 OK", [TEXT, LENGTH_2])
    return [b"ok"]


def kept_input(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    KEPT["input"] = environ["wsgi.input"]
    start_response("200 OK", [TEXT, LENGTH_2])
    return [b"ok"]


def look_at_kept_input(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    with KEPT.pop("input") as stream:
        size = len(stream.read())
    start_response("200 OK", [TEXT])
    return [b"%d" % size]


def spawned(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """What a child process finds open that asks for nothing to be closed."""
    child = "import os; print(*(os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd')[:-1]))"
    found = subprocess.run([sys.executable, "-c", child], close_fds=False, stdout=subprocess.PIPE, check=True)
    start_response("200 OK", [TEXT])
    return [found.stdout]


def forked(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """A child that ends at once, inside the request."""
    with warnings.catch_warnings():
        # CPython warns where there is another thread, as the server has one. A child that only ends needs none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    start_response("200 OK", [TEXT, LENGTH_2])
    return [b"ok"]


def allocated(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """The number of memory blocks that Python has in use."""
    gc.collect()
    gc.collect()  # without a GIL, what the first one has freed is given back by the next
    start_response("200 OK", [TEXT])
    return [b"%d" % sys.getallocatedblocks()]


def swallowed(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """A refused second call does not touch what the first one said."""
    start_response("200 OK", [TEXT, LENGTH_2])
    try:
        start_response("500 No", [TEXT])
    except TypeError:
        return [b"ok"]
    return [b"no"]


# Wrong: what is said to `wsgi.errors` is in the tests' table ---------------------------------------------------------

WRONG: dict[str, tuple[Any, ...]] = {
    "no_arguments": (),
    "one_argument": ("200 OK",),
    "four_arguments": ("200 OK", [], None, 1),
    "headers_tuple": ("200 OK", (("A", "b"),)),
    "headers_none": ("200 OK", None),
    "header_list": ("200 OK", [["A", "b"]]),
    "header_empty_tuple": ("200 OK", [("A", "b"), ()]),
    "header_three": ("200 OK", [("a", "b", "c")]),
    "header_int": ("200 OK", [("A", 1)]),
    "header_bytes": ("200 OK", [(b"A", "b")]),
    "header_not_latin1": ("200 OK", [("A", "\u20ac")]),
    "status_short": ("20", []),
    "header_surrogate": ("200 OK", [("A", "\udcff")]),
    "status_bytes": (b"200 OK", []),
    "status_int": (200, []),
    "status_letters": ("abc OK", []),
    "status_not_latin1": ("200 \u20ac", []),
    "exc_info_int": ("200 OK", [], 1),
    "exc_info_pair": ("200 OK", [], (None, None)),
    "value_newline": ("200 OK", [("A", "b\nSet-Cookie: c")]),
    "value_crlf": ("200 OK", [("A", "b\r\nSet-Cookie: c")]),
    "value_return": ("200 OK", [("A", "b\rc")]),
    "value_nul": ("200 OK", [("A", "b\0c")]),
    "name_newline": ("200 OK", [("A\nB", "c")]),
    "name_colon": ("200 OK", [("A: b\r\nC", "d")]),
    "name_empty": ("200 OK", [("", "d")]),
    "name_space": ("200 OK", [("A B", "d")]),
    "status_newline": ("200 OK\r\nSet-Cookie: c", []),
    "status_bare": ("200", [("Content-Length", "2")]),
    "status_1xx": ("100 Continue", []),
    "status_101": ("101 Switching Protocols", []),
    "status_four_digits": ("2000 OK", []),
    "status_0": ("000 OK", []),
    "status_nul": ("200 O\0K", []),
    "length_letters": ("200 OK", [("Content-Length", "two")]),
    "length_negative": ("200 OK", [("Content-Length", "-2")]),
    "length_twice": ("200 OK", [("Content-Length", "2"), ("Content-Length", "3")]),
}


def wrong(environ: Environ, start_response: Any) -> Iterable[bytes]:
    start_response(*WRONG[argument(environ, "what")])
    return [b"ok"]


def twice(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [TEXT])
    start_response("200 OK", [TEXT])
    return [b"ok"]


def headers(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answers with the header `name: value` of the query beside its own, and the body "ok"."""
    names = argument(environ, "name").split(",")
    values = argument(environ, "value").split("|")
    start_response("200 OK", [*zip(names, values, strict=True), ("Content-Length", "2")])
    return [b"ok"]


def lengths(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Promises `promised` bytes and answers `given`, in blocks of one byte where `split`."""
    start_response("200 OK", [TEXT, ("Content-Length", argument(environ, "promised"))])
    body = b"x" * int(argument(environ, "given"))
    return iter([body[i : i + 1] for i in range(len(body))]) if argument(environ, "split") else [body]


RIGHT = [
    plain,
    lazy,
    lazy_after_empty_blocks,
    replaced,
    replaced_in_generator,
    first_with_exc_info,
    too_late,
    too_late_but_caught,
    no_exc_info,
]

UNCHECKED = [
    keywords,
    subclassed_list,
    subclasses,
    called_while_called,
    changed_afterwards,
    swallowed,
    close_is_no_function,
]
UNCHECKED += [large_head, written_between, keep, use_kept, spawned, forked, allocated]
UNCHECKED += [closed_input, kept_input, look_at_kept_input]

app = dispatch(
    {handler.__name__: valid(handler) for handler in RIGHT} | named(*UNCHECKED, wrong, twice, headers, lengths)
)
