"""The site with Bottle. Run as a program, it is served by Bottle's own adapter: `bottle_site.py HOST PORT`."""

# Bottle has no types of its own.
# mypy: disable-error-code="import-untyped,untyped-decorator"

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any
from wsgiref.validate import validator

from bottle import Bottle, redirect, request, response, static_file

from frameworks.sites import FILE, digest, lines

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


checked = validator(app)

if __name__ == "__main__":
    app.run(server="bjoern", host=sys.argv[1], port=int(sys.argv[2]))
