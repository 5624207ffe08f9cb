"""A Flask site: a session that counts, a form with a file, a stream, an error, a download."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator

from flask import Flask, Response, abort, jsonify, redirect, request, send_file, session, stream_with_context
from werkzeug.wrappers import Response as BaseResponse

from apps.blocks import pattern

ResponseValue = BaseResponse | str

app = Flask(__name__)
app.secret_key = "only for tests"


@app.get("/count")
def count() -> Response:
    session["count"] = session.get("count", 0) + 1
    return jsonify(count=session["count"])


@app.post("/upload")
def upload() -> Response:
    file = request.files["file"]
    content = file.read()
    return jsonify(name=file.filename, size=len(content), sha256=hashlib.sha256(content).hexdigest(), form=request.form)


@app.post("/json")
def json() -> Response:
    return jsonify(request.get_json())


@app.get("/stream/<int:blocks>")
def stream(blocks: int) -> Response:
    def generate() -> Iterator[str]:
        for number in range(blocks):
            yield f"{number} {request.args['word']}\n"

    return Response(stream_with_context(generate()), mimetype="text/plain")


@app.get("/download")
def download() -> Response:
    return send_file(io.BytesIO(pattern(300_000)), mimetype="application/octet-stream", download_name="a.bin")


@app.get("/path/<path:rest>")
def path(rest: str) -> Response:
    return jsonify(rest=rest, url=request.url, remote=request.remote_addr)


@app.get("/away")
def away() -> ResponseValue:
    return redirect("/count")


@app.get("/missing")
def missing() -> ResponseValue:
    abort(404)


@app.get("/error")
def error() -> ResponseValue:
    raise ValueError("Flask answers this itself")
