"""Files behind `wsgi.file_wrapper`: `/part` from an offset, `/closed` tells how often it was closed, and odd ones."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps import TEXT, Environ, argument, dispatch, named
from apps.blocks import pattern

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

FOLDER = tempfile.TemporaryDirectory()
STORED = Path(FOLDER.name, "stored")
STORED.write_bytes(pattern(1000))
CLOSED: list[str] = []


class Counted(io.FileIO):
    """A file that tells when it is closed, as often as it is told to."""

    def close(self) -> None:
        if not self.closed:
            CLOSED.append("closed")
        super().close()


class ReadOnly:
    """The least that can be wrapped: `read`."""

    def __init__(self, *blocks: bytes) -> None:
        self.blocks = list(blocks)

    def read(self, size: int = -1) -> bytes:
        return self.blocks.pop(0) if self.blocks else b""


def part(environ: Environ, start_response: StartResponse) -> Any:
    CLOSED.clear()
    file = Counted(STORED)
    file.seek(int(argument(environ, "offset")))
    start_response("200 OK", [TEXT, ("Content-Length", argument(environ, "length"))])
    return environ["wsgi.file_wrapper"](file)


def closed(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [TEXT])
    return [b"%d" % len(CLOSED)]


def read_only(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT])
    return environ["wsgi.file_wrapper"](ReadOnly(b"ab", b"ab", b"abab"), 2)


def fewer(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT, ("Content-Length", "4")])
    return environ["wsgi.file_wrapper"](io.BytesIO(b"abcd"), 1)


def text_file(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT])
    return environ["wsgi.file_wrapper"](io.StringIO("text"))


def closed_file(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [TEXT])
    file = STORED.open("rb")
    file.close()
    return environ["wsgi.file_wrapper"](file)


def wrapper_called(environ: Environ, start_response: StartResponse) -> Any:
    """The wrapper is an iterable of its own, also in the hands of the application."""
    wrapper = environ["wsgi.file_wrapper"](io.BytesIO(b"abcdefghij"), 3)
    start_response("200 OK", [TEXT])
    blocks = list(wrapper)
    assert blocks == [b"abc", b"def", b"ghi", b"j"], blocks
    wrapper.close()
    return blocks


def pipe(environ: Environ, start_response: StartResponse) -> Any:
    reading, writing = os.pipe()
    os.write(writing, b"through a pipe")
    os.close(writing)
    start_response("200 OK", [TEXT, ("Content-Length", "14")])
    return environ["wsgi.file_wrapper"](os.fdopen(reading, "rb"))


class Unseekable(ReadOnly):
    """What can tell where it is, but not go elsewhere."""

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        return 7


def from_middle(environ: Environ, start_response: StartResponse) -> Any:
    """What middleware does that sends a part of a file."""
    wrapper = environ["wsgi.file_wrapper"](
        STORED.open("rb") if argument(environ, "file") else io.BytesIO(pattern(1000))
    )
    assert (wrapper.seekable(), wrapper.tell()) == (True, 0)
    assert (wrapper.seek(-100, io.SEEK_END), wrapper.tell()) == (900, 900)
    start_response("200 OK", [TEXT])
    return wrapper


def positions(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Which of the names wrappers of several files have."""
    with STORED.open("rb") as stored:
        files = {"bytesio": io.BytesIO(), "stored": stored, "read_only": ReadOnly(), "unseekable": Unseekable()}
        wrappers = {name: environ["wsgi.file_wrapper"](file) for name, file in files.items()}
        names = ("seekable", "seek", "tell", "close", "read", "fileno", "name")
        had = {key: [name for name in names if hasattr(wrapper, name)] for key, wrapper in wrappers.items()}
    try:
        wrappers["bytesio"].other  # noqa: B018
    except AttributeError as error:
        had["error"] = [str(error)]
    start_response("200 OK", [TEXT])
    return [json.dumps(had).encode()]


app = dispatch(
    named(part, closed, read_only, fewer, text_file, closed_file, wrapper_called, pipe, from_middle, positions)
)
