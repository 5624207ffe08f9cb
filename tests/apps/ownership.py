"""Requests that record their steps: the thread of each step, and how many steps its context has seen.

`/KIND?id=1&blocks=40&size=50000` answers in the way that its name says, see STREAMS and WHOLE. Its steps are `call`,
`iter`, `next`, `close` and `input` (the close of a body that is in a file). `/steps?id=1` lists them; the port in
`X-Observer` gets a line for each.
`/counted` and `/brief` count how many of them run application code at the same time, `/most` tells the count, `/meet`
answers when `parties` requests have met. `/endless` and `/endless_generator` never end; `/blocks` tells how many blocks
each has given, and which are closed. `/spin`, `/spin_in` and `/starts_threads` take seconds if nothing interrupts them;
`/ends` tells how they ended. `/gated_iter` waits for the port in `X-Calls`, `/written` gives its body by `write()`.
`/exits`, `/raises`, `/closes_its_socket` and `/asks_its_server` do that in the middle of a stream. `/quick` answers at
once.
"""

from __future__ import annotations

import contextlib
import contextvars
import http.client
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps import TEXT, Environ, argument, dispatch, named
from apps.blocks import pattern

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

FOLDER = tempfile.TemporaryDirectory()


def answer(start_response: StartResponse, body: bytes) -> Iterable[bytes]:
    start_response("200 OK", [TEXT, ("Content-Length", str(len(body)))])
    return [body]


def quick(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    SEEN.set(-1_000_000)  # a stream that sees this runs in a context that is not its own
    return answer(start_response, b"%d" % os.getpid())


# Steps ---------------------------------------------------------------------------------------------------------------

SEEN: contextvars.ContextVar[int] = contextvars.ContextVar("SEEN")
STEPS: dict[str, list[tuple[str, int, int]]] = {}


class Story:
    """The steps of one request: name, thread, and the number of steps that the context of each has seen."""

    def __init__(self, environ: Environ) -> None:
        self.size, self.blocks = int(argument(environ, "size", "10")), int(argument(environ, "blocks", "3"))
        self.steps = STEPS[argument(environ, "id")] = []
        port = environ.get("HTTP_X_OBSERVER")
        self.observer = socket.create_connection(("127.0.0.1", int(port))) if port else None
        SEEN.set(0)
        self.note("call")
        if environ["REQUEST_METHOD"] == "POST":
            self.watch("input", environ["wsgi.input"])

    def note(self, step: str) -> None:
        SEEN.set(SEEN.get(-1_000_000) + 1)
        self.steps.append((step, threading.get_ident(), SEEN.get()))
        if self.observer:
            self.observer.sendall(f"{step} {threading.get_ident()}\n".encode())

    def watch(self, step: str, file: Any) -> None:
        """Notes the step when the file is closed."""
        close = file.close

        def noted() -> None:
            if not file.closed:
                self.note(step)
            close()

        file.close = noted

    def __del__(self) -> None:
        if self.observer:
            self.observer.close()

    @property
    def block(self) -> bytes:
        return b"x" * self.size

    @property
    def body(self) -> bytes:
        return pattern(self.size)


def steps(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return answer(start_response, json.dumps(STEPS.get(argument(environ, "id"), [])).encode())


# Streams


def generator(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    def blocks() -> Iterator[bytes]:
        try:
            for _ in range(story.blocks):
                story.note("next")
                yield story.block
        finally:
            story.note("close")

    story = Story(environ)
    start_response("200 OK", [TEXT])
    return blocks()


class Blocks:
    """An iterator that begins its response with its first block."""

    def __init__(self, environ: Environ, start_response: StartResponse) -> None:
        self.story, self.start_response, self.at = Story(environ), start_response, 0

    def __iter__(self) -> Iterator[bytes]:
        self.story.note("iter")
        return self

    def __next__(self) -> bytes:
        self.story.note("next")
        if self.at == 0:
            self.start_response("200 OK", [TEXT])
        if self.at == self.story.blocks:
            raise StopIteration
        self.at += 1
        return self.story.block

    def close(self) -> None:
        self.story.note("close")


class AppClass:
    """PEP 3333's application class. `__iter__` begins the response, and is a function, not a generator."""

    def __init__(self, environ: Environ, start_response: StartResponse) -> None:
        self.story, self.start = Story(environ), start_response

    def __iter__(self) -> Iterator[bytes]:
        self.story.note("iter")
        self.start("200 OK", [TEXT])
        return self.produce(self.story.blocks)

    def produce(self, blocks: int) -> Iterator[bytes]:
        for _ in range(blocks):
            self.story.note("next")
            yield self.story.block

    def close(self) -> None:
        self.story.note("close")


class WritingClass(AppClass):
    """Its `__iter__` gives the first block by `write()`."""

    def __iter__(self) -> Iterator[bytes]:
        self.story.note("iter")
        write = self.start("200 OK", [TEXT])
        write(self.story.block)
        return self.produce(self.story.blocks - 1)


class Reading:
    """An object for `file_wrapper` that has `read()` but no descriptor."""

    def __init__(self, story: Story) -> None:
        self.story, self.at = story, 0

    def read(self, size: int = -1) -> bytes:
        self.story.note("next")
        self.at += 1
        return self.story.block if self.at <= self.story.blocks else b""

    def close(self) -> None:
        self.story.note("close")


def reading(environ: Environ, start_response: StartResponse) -> Any:
    story = Story(environ)
    start_response("200 OK", [TEXT])
    return environ["wsgi.file_wrapper"](Reading(story), story.size)


STREAMS: dict[str, Callable[..., Any]] = {
    "generator": generator,
    "iterator": Blocks,
    "app_class": AppClass,
    "writing_class": WritingClass,
    "reading": reading,
}


# Whole responses


class Closing:
    """An iterable that records its `close()`."""

    def __init__(self, story: Story, *blocks: bytes) -> None:
        self.story, self.blocks = story, blocks

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.blocks)

    def close(self) -> None:
        self.story.note("close")


class ClosingBytes(bytes):
    story: Story

    def close(self) -> None:
        self.story.note("close")


def closing_bytes(story: Story) -> ClosingBytes:
    body = ClosingBytes(story.body)
    body.story = story
    return body


def opened(environ: Environ, story: Story) -> Any:
    path = Path(FOLDER.name, str(story.size))
    if not path.exists():
        path.write_bytes(story.body)
    file = path.open("rb")
    story.watch("close", file)
    return environ["wsgi.file_wrapper"](file)


# Responses that need nothing more of the application; the names with "length" announce a Content-Length.
WHOLE: dict[str, Callable[[Environ, Story], Any]] = {
    "one": lambda environ, story: [story.body],
    "many": lambda environ, story: [story.body[at : at + 100_000] for at in range(0, story.size, 100_000)],
    "tuple": lambda environ, story: (story.body[:1], story.body[1:]),
    "bytes": lambda environ, story: story.body,
    "closing_bytes": lambda environ, story: closing_bytes(story),
    "file": opened,
    "length": lambda environ, story: Closing(story, story.body),
    "length_of_two": lambda environ, story: Closing(story, story.body[:1], story.body[1:]),
}


def whole(kind: str) -> Callable[..., Any]:
    def handler(environ: Environ, start_response: StartResponse) -> Any:
        story = Story(environ)
        length = [("Content-Length", str(story.size))] if kind.startswith("length") else []
        start_response("200 OK", [TEXT, *length])
        return WHOLE[kind](environ, story)

    return handler


# How many at the same time -------------------------------------------------------------------------------------------


class Inside:
    """Counts the threads in application code, and the most so far. Every seventh time it sleeps for a millisecond."""

    def __init__(self) -> None:
        self.lock, self.now, self.most, self.entered = threading.Lock(), 0, 0, 0

    def __enter__(self) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.entered += 1
            is_seventh = self.entered % 7 == 0
        if is_seventh:
            time.sleep(0.001)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.now -= 1


INSIDE = Inside()


class Counted:
    """A stream that is counted in the call, in `__iter__`, in each block and in `close()`."""

    def __init__(self, environ: Environ, start_response: StartResponse) -> None:
        with INSIDE:
            self.left, self.block = int(argument(environ, "blocks")), b"x" * int(argument(environ, "size"))
            start_response("200 OK", [TEXT])

    def __iter__(self) -> Iterator[bytes]:
        with INSIDE:
            return self

    def __next__(self) -> bytes:
        with INSIDE:
            if self.left == 0:
                raise StopIteration
            self.left -= 1
            return self.block

    def close(self) -> None:
        with INSIDE:
            pass


def brief(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    with INSIDE:
        return answer(start_response, b"ok")


def most(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    told = {"most": INSIDE.most, "now": INSIDE.now, "multithread": environ["wsgi.multithread"]}
    return answer(start_response, json.dumps(told).encode())


MEETINGS: dict[str, threading.Barrier] = {}
MEETINGS_LOCK = threading.Lock()


def meet(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    with INSIDE:
        parties = argument(environ, "parties")
        with MEETINGS_LOCK:
            meeting = MEETINGS.setdefault(parties, threading.Barrier(int(parties)))
        meeting.wait(30)
        return answer(start_response, b"met")


# Streams that never end ----------------------------------------------------------------------------------------------

GIVEN: Counter[str] = Counter()
CLOSED: dict[str, str] = {}


class Endless:
    """Blocks without end; it sleeps for `pause` milliseconds before each."""

    def __init__(self, environ: Environ, start_response: StartResponse) -> None:
        self.id, self.block = argument(environ, "id"), b"x" * int(argument(environ, "size", "1000"))
        self.pause = int(argument(environ, "pause", "0")) / 1000
        start_response("200 OK", [TEXT])

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self.pause:
            time.sleep(self.pause)
        GIVEN[self.id] += 1
        return self.block

    def close(self) -> None:
        CLOSED[self.id] = "close"


def endless_generator(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [TEXT])
    name, block = argument(environ, "id"), b"x" * int(argument(environ, "size", "1000"))
    try:
        while True:
            GIVEN[name] += 1
            yield block
    except GeneratorExit:
        CLOSED[name] = "GeneratorExit"
        raise


def blocks(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return answer(start_response, json.dumps({"given": GIVEN, "closed": CLOSED}).encode())


# What takes long -----------------------------------------------------------------------------------------------------

ENDS: list[str] = []


def spin_for_seconds(where: str) -> None:
    end = time.monotonic() + 5
    try:
        while time.monotonic() < end:
            time.sleep(0)
    except BaseException as error:
        ENDS.append(f"{where} {type(error).__name__}")
        raise
    ENDS.append(f"{where} by itself")


def spin(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    spin_for_seconds("call")
    return answer(start_response, b"too late")


class SpinIn:
    """Two blocks; `where` says which of `__iter__` and `close()` takes seconds."""

    def __init__(self, environ: Environ, start_response: StartResponse) -> None:
        self.where = argument(environ, "where")
        self.start_response = start_response
        self.left = 2

    def __iter__(self) -> Iterator[bytes]:
        self.spin("iter")
        return self

    def __next__(self) -> bytes:
        if self.left == 2:
            self.start_response("200 OK", [TEXT])
        if self.left == 0:
            raise StopIteration
        self.left -= 1
        return b"block"

    def close(self) -> None:
        self.spin("close")

    def spin(self, where: str) -> None:
        if self.where == where:
            spin_for_seconds(where)


class GatedIter:
    def __init__(self, environ: Environ, start_response: StartResponse) -> None:
        self.port = int(environ["HTTP_X_CALLS"])
        start_response("200 OK", [TEXT])

    def __iter__(self) -> Iterator[bytes]:
        with socket.create_connection(("127.0.0.1", self.port)) as gate:
            gate.sendall(b"iter\n")
            gate.recv(10)
        return iter([b"gone ", b"on"])


def ends(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return answer(start_response, json.dumps(ENDS).encode())


def starts_threads(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Is in `Thread.start()` most of the time, where CPython 3.10 and 3.11 give a new thread its creator's number."""
    end = time.monotonic() + 5
    try:
        while time.monotonic() < end:
            threading.Thread(target=time.sleep, args=(0,), daemon=True).start()
            time.sleep(0.0001)
    finally:
        ENDS.append("starts_threads")
    return answer(start_response, b"too late")


signal.signal(signal.SIGUSR1, lambda *_: None)  # a signal that interrupts system calls, and nothing else


def written(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    write = start_response("200 OK", [TEXT, ("X-Process", str(os.getpid()))])
    try:
        write(pattern(int(argument(environ, "size"))))
    except BaseException as error:
        if port := environ.get("HTTP_X_OBSERVER"):
            with socket.create_connection(("127.0.0.1", int(port))) as observer:
                observer.sendall(type(error).__name__.encode() + b"\n")
        raise
    return []


# What goes wrong in the middle of a stream ---------------------------------------------------------------------------


def exits(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [TEXT])
    yield b"first"
    sys.exit(7)


def raises(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [TEXT])
    yield b"first"
    raise ValueError("on purpose")


def closes_its_socket(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [TEXT])
    yield b"first"
    os.close(descriptor_of(int(environ["REMOTE_PORT"])))
    try:
        yield b"second"
        yield b"third"
    finally:
        CLOSED[argument(environ, "id")] = "close"


def descriptor_of(peer: int) -> int:
    """The descriptor of the server's connection with this port at its other end."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(name))) as found:
            if found.family == socket.AF_INET and found.getpeername()[1] == peer:
                return int(name)
    raise LookupError(peer)


def asks_its_server(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [TEXT])
    for _ in range(int(argument(environ, "blocks"))):
        connection = http.client.HTTPConnection("127.0.0.1", int(environ["SERVER_PORT"]), timeout=30)
        connection.request("GET", "/quick")
        yield connection.getresponse().read() + b"\n"
        connection.close()


FUNCTIONS: list[Callable[..., Any]] = [quick, steps, brief, most, meet, endless_generator, blocks, spin, ends, written]
FUNCTIONS += [starts_threads, exits, raises, closes_its_socket, asks_its_server]
CLASSES = {"counted": Counted, "endless": Endless, "spin_in": SpinIn, "gated_iter": GatedIter}
app = dispatch(named(*FUNCTIONS) | STREAMS | {kind: whole(kind) for kind in WHOLE} | CLASSES)
