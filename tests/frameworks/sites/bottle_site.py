"""The site with Bottle. Run as a program, it is served by Bottle's own adapter: `bottle_site.py HOST PORT`."""

# Bottle has no types of its own.
# mypy: disable-error-code="import-untyped,untyped-decorator"

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any
from wsgiref.validate import validator

from bottle import Bottle, redirect, request, response, static_file

from frameworks.sites import CLOSED, FILE, ROWS, closed, digest, lines, row, who

app = Bottle()


@app.get("/hello/<name>")
def hello(name: str) -> str:
    response.content_type = "text/plain; charset=utf-8"
    return f"Hello, {name}!"


@app.get("/stream/<blocks:int>")
def stream(blocks: int) -> Iterator[bytes]:
    response.content_type = "text/plain"
    return lines(blocks)


@app.get("/count")
def count() -> str:
    number = int(request.get_cookie("count", "0", secret="only for tests")) + 1
    response.set_cookie("count", str(number), secret="only for tests")
    return str(number)


@app.get("/file")
def file() -> Any:
    return static_file(FILE.name, root=str(FILE.parent))


@app.get("/empty")
def empty() -> None:
    response.status = 204


@app.get("/away")
def away() -> None:
    redirect("/hello/away", 302)


@app.get("/error")
def error() -> None:
    raise ValueError("on purpose")


@app.post("/upload")
def upload() -> dict[str, Any]:
    content = request.files.file
    return digest(content.file) | {"name": content.raw_filename, "word": request.forms.word}


@app.post("/raw")
def raw() -> dict[str, Any]:
    return digest(request.body)


# Users and their exports ---------------------------------------------------------------------------------------------


def user() -> str:
    """The user of Bottle's global request, which is thread-local."""
    return str(request.get_cookie("user"))


@app.get("/export")
def export() -> Iterator[bytes]:
    try:
        for number in range(ROWS):
            yield row(user(), number)
    finally:
        CLOSED.append(user())


@app.get("/who")
def tell_who() -> str:
    return who(user())


@app.get("/closed")
def tell_closed() -> str:
    return closed()


# A lock that is held from the first row to the last ------------------------------------------------------------------


class Held:
    """A lock, and whether an export is between its first and its last row."""

    def __init__(self, lock: Any) -> None:
        self.lock, self.by_export = lock, False


LOCKS = {"Lock": Held(threading.Lock()), "RLock": Held(threading.RLock())}


@app.get("/export_with/<kind>")
def export_with(kind: str) -> Iterator[bytes]:
    held = LOCKS[kind]
    with held.lock:
        held.by_export = True
        for number in range(ROWS):
            yield row(user(), number)
        held.by_export = False


@app.get("/take/<kind>")
def take(kind: str) -> str:
    """Takes the lock, and tells whether an export was in the middle of its rows."""
    with LOCKS[kind].lock:
        return "together" if LOCKS[kind].by_export else "alone"


checked = validator(app)

if __name__ == "__main__":
    app.run(server="bjoern", host=sys.argv[1], port=int(sys.argv[2]))
