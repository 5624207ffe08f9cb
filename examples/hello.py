"""The smallest application: plain WSGI (PEP 3333), no framework."""

from __future__ import annotations

from typing import TYPE_CHECKING

import bjoern

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    body = b"Hello, world!\n"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


if __name__ == "__main__":
    bjoern.run(app, "127.0.0.1", 8000)
