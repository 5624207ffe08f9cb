"""The site with Flask, and what Flask adds: a conditional download, a stream that reads request and session."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from wsgiref.validate import validator

import werkzeug.utils
from flask import (
    Flask,
    Response,
    copy_current_request_context,
    flash,
    get_flashed_messages,
    jsonify,
    redirect,
    request,
    send_file,
    session,
    stream_with_context,
)
from werkzeug.wrappers import Response as BaseResponse

from frameworks.sites import CLOSED, FILE, ROWS, closed, digest, lines, row, who

app = Flask(__name__)
app.secret_key = "only for tests"


@app.get("/hello/<name>")
def hello(name: str) -> Response:
    return Response(f"Hello, {name}!", mimetype="text/plain")


@app.get("/stream/<int:blocks>")
def stream(blocks: int) -> Response:
    return Response(lines(blocks), mimetype="text/plain")


@app.get("/count")
def count() -> Response:
    session["count"] = session.get("count", 0) + 1
    return jsonify(session["count"])


@app.get("/file")
def file() -> BaseResponse:
    return send_file(FILE, as_attachment="attachment" in request.args, download_name="größe.bin")


@app.get("/empty")
def empty() -> Response:
    response = Response(status=204)
    del response.headers["Content-Type"]  # of nothing; the checker minds
    return response


@app.get("/away")
def away() -> BaseResponse:
    return redirect("/hello/away")


@app.get("/error")
def error() -> Response:
    raise ValueError("on purpose")


@app.post("/upload")
def upload() -> Response:
    content = request.files["file"]
    return jsonify(digest(content.stream) | {"name": content.filename, "word": request.form["word"]})


@app.post("/raw")
def raw() -> Response:
    return jsonify(digest(request.stream))


# Flask's own ---------------------------------------------------------------------------------------------------------


LARGE = FILE.parent / "large"
LARGE_BYTES = 1 << 30


class CountedFile(io.BufferedReader):
    """Counts how often files are read from."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        CountedFile.reads += 1
        return super().read(size)


def open_counted(path: str, mode: str) -> IO[bytes]:
    return CountedFile(io.FileIO(path)) if Path(path) == LARGE else open(path, mode)


@app.get("/large")
def large() -> BaseResponse:
    """A GiB without a block on the disk."""
    if not LARGE.exists():
        LARGE.touch()
        os.truncate(LARGE, LARGE_BYTES)
    vars(werkzeug.utils)["open"] = open_counted  # where send_file looks for it
    CountedFile.reads = 0
    return send_file(LARGE)


@app.get("/reads")
def reads() -> Response:
    return jsonify(CountedFile.reads)


@app.get("/in_context/<int:blocks>")
def in_context(blocks: int) -> Response:
    """A stream that needs the request and the session after the view has returned; each block is its own write."""

    def generate() -> Iterator[str]:
        for number in range(blocks):
            yield f"{number} {request.args['word']} {session.get('count', 0)}\n"

    return Response(stream_with_context(generate()), mimetype="text/plain")


@app.get("/broken_stream")
def broken_stream() -> Response:
    def generate() -> Iterator[str]:
        yield "first\n"
        raise ValueError(f"in the stream of {request.path}")

    return Response(stream_with_context(generate()), mimetype="text/plain")


@app.get("/flash")
def set_flash() -> BaseResponse:
    flash("seen once")
    return redirect("/flashed")


@app.get("/flashed")
def flashed() -> Response:
    return jsonify(get_flashed_messages())


# Users and their exports ---------------------------------------------------------------------------------------------


@app.get("/export")
def export() -> Response:
    def generate() -> Iterator[bytes]:
        try:
            for number in range(ROWS):
                yield row(request.cookies["user"], number)
        finally:
            CLOSED.append(request.cookies["user"])

    return Response(stream_with_context(generate()), mimetype="text/plain")


@app.get("/copied_export")
def copied_export() -> Response:
    """Each row, and the end of the export, enter a copy of the request's context."""

    @copy_current_request_context
    def user() -> str:
        return request.cookies["user"]

    def generate() -> Iterator[bytes]:
        try:
            for number in range(ROWS):
                yield row(user(), number)
        finally:
            CLOSED.append(user())

    return Response(generate(), mimetype="text/plain")


@app.get("/who")
def tell_who() -> Response:
    return Response(who(request.cookies["user"]), mimetype="text/plain")


@app.get("/closed")
def tell_closed() -> Response:
    return Response(closed(), mimetype="text/plain")


checked = validator(app)
