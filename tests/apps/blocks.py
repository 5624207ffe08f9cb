"""Bodies of every kind: `/kind?size=bytes&length=1&status=200` answers `pattern(size)` as a list, generator, file, ...

`length=1` adds Content-Length; `block` is the size (bytes) of the blocks of those kinds that have several.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from apps import TEXT, Environ, Handler, Headers, argument, dispatch, valid

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

FOLDER = tempfile.TemporaryDirectory()


def pattern(size: int) -> bytes:
    """`size` bytes in which no two neighbouring pages are equal (the period is a prime)."""
    period = bytes(range(251))
    return (period * (size // len(period) + 1))[:size]


def pieces(environ: Environ) -> list[bytes]:
    size, block = int(argument(environ, "size", "1000")), int(argument(environ, "block", "400"))
    data = pattern(size)
    return [data[start : start + block] for start in range(0, size, block)]


def opened(environ: Environ) -> IO[bytes]:
    size = int(argument(environ, "size", "1000"))
    path = Path(FOLDER.name, str(size))
    if not path.exists():
        path.write_bytes(pattern(size))
    return path.open("rb")


def generator(environ: Environ) -> Iterator[bytes]:
    yield from pieces(environ)


class Sequence:
    """Iterable by `__getitem__` alone, as the oldest iterables are."""

    def __init__(self, blocks: list[bytes]) -> None:
        self.blocks = blocks

    def __getitem__(self, index: int) -> bytes:
        return self.blocks[index]


VALID: dict[str, Callable[[Environ], Iterable[bytes]]] = {
    "one": lambda environ: [b"".join(pieces(environ))],
    "several": pieces,
    "with_empty": lambda environ: [b"", *pieces(environ), b""],
    "tuple": lambda environ: tuple(pieces(environ)),
    "generator": generator,
    "iterator": lambda environ: iter(pieces(environ)),
    "map": lambda environ: map(bytes, pieces(environ)),
    "file": opened,
    "bytesio": lambda environ: io.BytesIO(b"".join(pieces(environ))),
}
UNCHECKED: dict[str, Callable[[Environ], Any]] = {  # the validator wraps or refuses what these return
    "bytes": lambda environ: b"".join(pieces(environ)),
    "bare_list": lambda environ: [b"", *pieces(environ), b""],
    "bare_tuple": lambda environ: tuple(pieces(environ)),
    "bare_generator": generator,
    "sequence": lambda environ: Sequence(pieces(environ)),
    "wrapped_file": lambda environ: environ["wsgi.file_wrapper"](opened(environ)),
    "wrapped_blocks": lambda environ: environ["wsgi.file_wrapper"](opened(environ), 100_000),
    "wrapped_bytesio": lambda environ: environ["wsgi.file_wrapper"](io.BytesIO(b"".join(pieces(environ)))),
}
KINDS = [*VALID, *UNCHECKED, "write", "write_and_return"]


def head(environ: Environ) -> tuple[str, Headers]:
    status = argument(environ, "status", "200")
    headers = [] if status in ("204", "304") else [TEXT]
    if argument(environ, "length"):
        headers.append(("Content-Length", argument(environ, "size", "1000")))
    return f"{status} Whatever", headers


def answering(body: Callable[[Environ], Any]) -> Handler:
    def handler(environ: Environ, start_response: StartResponse) -> Any:
        start_response(*head(environ))
        return body(environ)

    return handler


def write(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    send = start_response(*head(environ))
    for block in pieces(environ):
        send(block)
    return []


def write_and_return(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    send = start_response(*head(environ))
    first, *rest = pieces(environ)
    send(first)
    return rest


app = dispatch(
    {name: valid(answering(body)) for name, body in VALID.items()}
    | {name: answering(body) for name, body in UNCHECKED.items()}
    | {"write": valid(write), "write_and_return": valid(write_and_return)}
)
