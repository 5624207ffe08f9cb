"""`/tighten?bytes=N` leaves the process so much address space, `/loosen` all of it; all say where the body is.

The body is read in small pieces. Linux alone tells what the process has.
"""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs


def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    path = environ["PATH_INFO"]
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if path == "/tighten":
        left = int(parse_qs(environ["QUERY_STRING"])["bytes"][0])
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + left, hard))
    elif path == "/loosen":
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    body = environ["wsgi.input"]
    size = sum(map(len, iter(lambda: body.read(10_000), b"")))
    start_response("200 OK", [])
    return [f"{type(body).__name__} {size}".encode()]
