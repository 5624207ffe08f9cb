"""Responses to be cut: they tell the observer (the port in `X-Observer`) when they are closed.

`/stream?blocks=3&size=10&fail=1` answers blocks of `size` bytes, without end if `blocks` is not given; `fail` is the
number of the block that raises ValueError. `/written?size=10` gives blocks without end by `write()`. `/spin` gives two
blocks, and the third never comes. `/sized?size=10` answers at once, `/hold` waits in the application for the observer.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from apps import TEXT, Environ, argument, dispatch, named
from apps.observed import Teller, hold

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse


def stream(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    teller = Teller(environ)
    start_response("200 OK", [TEXT])
    block, blocks = b"x" * int(argument(environ, "size")), argument(environ, "blocks")
    try:
        for number in range(int(blocks)) if blocks else itertools.count():
            if argument(environ, "fail") == str(number):
                raise ValueError("on purpose")
            yield block
    finally:
        teller.tell("close")


def written(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    teller = Teller(environ)
    write = start_response("200 OK", [TEXT])
    try:
        while True:
            write(b"x" * int(argument(environ, "size")))
    finally:
        teller.tell("close")


def spin(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    teller = Teller(environ)
    start_response("200 OK", [TEXT])
    try:
        yield b"first"
        yield b"second"
        while True:
            time.sleep(0)
    finally:
        teller.tell("close")


def sized(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    size = int(argument(environ, "size"))
    start_response("200 OK", [TEXT, ("Content-Length", str(size))])
    return [b"x" * size]


app = dispatch(named(stream, written, spin, sized, hold))
