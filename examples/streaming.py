"""A response made while it is sent: each block goes out before the next one is asked for.

Without a Content-Length, bjoern sends an HTTP/1.1 client chunks, and so can keep the connection open.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import bjoern

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    for number in range(1, 1001):
        yield b"%d: %d\n" % (number, number * number)


if __name__ == "__main__":
    bjoern.run(app, "127.0.0.1", 8000)
