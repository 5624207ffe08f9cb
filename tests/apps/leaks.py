"""Every way through the binding, and what the process holds afterwards: `/measured` counts it.

The objects that answers are made of are shared by all requests, so that each reference to one of them can be counted.
`/leak?what=KIND` keeps something on purpose: the measures must notice.
Knows: PEP 3333, CPython's own counters, glibc's.   Must not know: bjoern.
"""

from __future__ import annotations

import ctypes
import gc
import io
import json
import os
import sys
import tempfile
import tracemalloc
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps import Environ, argument, dispatch, named

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

FOLDER = tempfile.TemporaryDirectory()
STORED = Path(FOLDER.name, "stored")
STORED.write_bytes(b"x" * 30_000)
HUGE = Path(FOLDER.name, "huge")  # more than a socket's buffers hold
with HUGE.open("wb") as file:
    file.truncate(50_000_000)


class Token:
    """Put into each environ: one that lives tells of an environ, an iterable or a traceback that does."""


class Blocks:
    """All that PEP 3333 lets an iterable have. `fail` is the block that raises, `fail_close` makes `close` raise."""

    def __init__(self, environ: Environ, start_response: StartResponse) -> None:
        self.environ, self.start_response, self.at = environ, start_response, 0
        self.fail = int(argument(environ, "fail", "-1"))

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self.at == self.fail:
            raise ValueError("on purpose")
        if self.at == 0:
            self.start_response(STATUS, HEADERS)
        if self.at == 3:
            raise StopIteration
        self.at += 1
        return BLOCK

    def close(self) -> None:
        if argument(self.environ, "fail_close"):
            raise ValueError("on purpose")


# Made at run time: what the compiler finds in the source may be immortal.
STATUS = " ".join(["200", "OK"])
FIELD = ("-".join(["X", "Shared"]), "-".join(["shared", "value"]))
HEADERS = [FIELD]
BLOCK = bytes([120]) * 10
LARGE = bytes([120]) * 100_000
FAILURE = ValueError("the same each time")
ALIVE: weakref.WeakSet[Token] = weakref.WeakSet()
TYPES: dict[str, type] = {}  # of the server's objects: each instance holds a reference to its type
KEPT: list[Any] = []


# Ways through --------------------------------------------------------------------------------------------------------


def listed(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response(STATUS, HEADERS)
    return [BLOCK] * int(argument(environ, "blocks", "1"))


def single(environ: Environ, start_response: StartResponse) -> Any:
    start_response(STATUS, HEADERS)
    return BLOCK


def large(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response(STATUS, HEADERS)
    return [LARGE] * int(argument(environ, "blocks", "2"))


def generated(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response(STATUS, HEADERS)
    for _ in range(int(argument(environ, "blocks", "3"))):
        yield LARGE if argument(environ, "large") else BLOCK


def iterated(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return Blocks(environ, start_response)


def empty(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response(argument(environ, "status", "204") + " Nothing", HEADERS)
    return []


def wrapped(environ: Environ, start_response: StartResponse) -> Any:
    start_response(STATUS, HEADERS)
    return environ["wsgi.file_wrapper"]((HUGE if argument(environ, "huge") else STORED).open("rb"))


def wrapped_bytes(environ: Environ, start_response: StartResponse) -> Any:
    start_response(STATUS, HEADERS)
    return environ["wsgi.file_wrapper"](io.BytesIO(LARGE), 10_000)


def unused_wrapper(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response(STATUS, HEADERS)
    with STORED.open("rb") as file:
        return list(environ["wsgi.file_wrapper"](file))


def written(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    write = start_response(STATUS, HEADERS)
    TYPES["write"] = type(write)
    for _ in range(int(argument(environ, "blocks", "3"))):
        write(BLOCK)
    if argument(environ, "fail"):
        raise ValueError("on purpose")
    return []


def replaced(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    if argument(environ, "second"):
        start_response(STATUS, HEADERS)
    try:
        raise FAILURE
    except ValueError:
        start_response(STATUS, HEADERS, sys.exc_info())
    FAILURE.__traceback__ = None  # as often as it is raised, it grows
    return [BLOCK]


def too_late(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response(STATUS, HEADERS)
    yield BLOCK
    try:
        raise ValueError("on purpose")
    except ValueError:
        start_response(STATUS, HEADERS, sys.exc_info())


def lengths(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response(STATUS, [FIELD, ("Content-Length", argument(environ, "promised"))])
    blocks = [BLOCK] * int(argument(environ, "blocks", "1"))
    return iter(blocks) if argument(environ, "iterator") else blocks


def reading(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    stream = environ["wsgi.input"]
    TYPES[type(stream).__name__] = type(stream)
    how = argument(environ, "how")
    if how == "read":
        stream.read()
    elif how == "lines":
        list(stream)
    elif how == "part":
        stream.read(10)
        stream.readline()
    elif how == "closed":
        stream.close()
    start_response(STATUS, HEADERS)
    return [BLOCK]


def failing(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    if argument(environ, "started"):
        start_response(STATUS, HEADERS)
    raise ValueError("on purpose")


WRONG: dict[str, Any] = {"none": None, "text": "text", "list_of_text": ["text"], "late_text": [BLOCK, "text"]}


def returned(environ: Environ, start_response: StartResponse) -> Any:
    start_response(STATUS, HEADERS)
    return WRONG[argument(environ, "what")]


def silent(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return [BLOCK]


CALLS: dict[str, tuple[Any, ...]] = {
    "nothing": (),
    "status": (b"200 OK", HEADERS),
    "headers": (STATUS, (FIELD,)),
    "field": (STATUS, [FIELD, ["a", "b"]]),
    "value": (STATUS, [FIELD, ("a", "b\nc")]),
    "exc_info": (STATUS, HEADERS, 1),
}


def called_wrong(environ: Environ, start_response: Any) -> Iterable[bytes]:
    start_response(*CALLS[argument(environ, "how")])
    return [BLOCK]


def called_twice(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response(STATUS, HEADERS)
    start_response(STATUS, HEADERS)
    return [BLOCK]


# Leaks on purpose ----------------------------------------------------------------------------------------------------

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]

LEAKS: dict[str, Callable[[Environ, Any], object]] = {
    "environ": lambda environ, start_response: KEPT.append(environ),
    "start_response": lambda environ, start_response: KEPT.append(start_response),
    "wrapper": lambda environ, start_response: KEPT.append(environ["wsgi.file_wrapper"](io.BytesIO())),
    "block": lambda environ, start_response: KEPT.append(BLOCK),
    "object": lambda environ, start_response: KEPT.append([]),
    "bytes": lambda environ, start_response: KEPT.append(bytes(50)),
    "descriptor": lambda environ, start_response: KEPT.append(os.dup(0)),
    "garbage": lambda environ, start_response: gc.garbage.append(None),
    "heap": lambda environ, start_response: libc.malloc(100),
    "pages": lambda environ, start_response: KEPT.append(os.urandom(100_000)),
}


def leak(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    LEAKS[argument(environ, "what")](environ, start_response)
    start_response(STATUS, HEADERS)
    return [BLOCK]


# Measures ------------------------------------------------------------------------------------------------------------


class MallInfo(ctypes.Structure):
    """`struct mallinfo2` (mallinfo(3)), all in bytes but for the counts of chunks."""

    NAMES = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = [(name, ctypes.c_size_t) for name in NAMES]  # the name and form are ctypes'


def heap_bytes() -> int:
    """Bytes that malloc(3) has given out, to Rust and to Python; 0 where the C library does not say."""
    try:
        function = libc.mallinfo2
    except AttributeError:
        return 0
    function.restype = MallInfo
    info = function()
    return int(info.uordblks + info.hblkhd)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def measured(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Counts, after a full collection, that a request which is over must leave as they were."""
    TYPES["start_response"] = type(start_response.__self__)  # type: ignore[attr-defined]  # it is a bound method
    TYPES["wrapper"] = environ["wsgi.file_wrapper"]
    TYPES["input"] = type(environ["wsgi.input"])
    shared: dict[str, Any] = {"status": STATUS, "field": FIELD, "name": FIELD[0], "value": FIELD[1], "headers": HEADERS}
    shared |= {"block": BLOCK, "large": LARGE, "failure": FAILURE, "application": app, "errors": sys.stderr}
    shared |= {f"type of {name}": kind for name, kind in TYPES.items()}
    shared |= {f"key {key}": key for key in environ if key != "test.token"}
    shared |= {f"value of {key}": environ[key] for key in environ if key.startswith(("SERVER", "wsgi.v", "wsgi.u"))}
    found = gc.collect()
    counts = {f"references to {name}": sys.getrefcount(value) for name, value in shared.items()}
    counts |= {
        "alive": len(ALIVE) - 1,  # this request
        "descriptors": len(os.listdir("/proc/self/fd")),
        "garbage": len(gc.garbage),
        "unreachable": found,
        "objects": len(gc.get_objects()),
        "blocks": sys.getallocatedblocks(),
        "heap": heap_bytes(),
        "resident": resident_bytes(),
        "traced": tracemalloc.get_traced_memory()[0],
    }
    answer = json.dumps(counts).encode()
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]


def traced(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """From now on, tracemalloc tells of every allocation of Python's."""
    tracemalloc.start()
    start_response(STATUS, HEADERS)
    return [BLOCK]


ways = dispatch(
    named(listed, single, large, generated, iterated, empty, wrapped, wrapped_bytes, unused_wrapper, written)
    | named(replaced, too_late, lengths, reading, failing, returned, silent, called_wrong, called_twice)
    | named(leak, measured, traced)
)


def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    environ["test.token"] = token = Token()
    ALIVE.add(token)
    answer: Iterable[bytes] = ways(environ, start_response)
    return answer
