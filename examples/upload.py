"""An upload: POST or PUT any bytes, `curl -T FILE http://127.0.0.1:8000/`, and learn their size and SHA-256.

The body is whole before the application is called: in memory up to `body_buffer`, then in a temporary file.
A browser gets a page that sends the chosen file as it is, so that no form encoding has to be undone here.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import bjoern

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

BLOCK = 64 * 1024  # bytes

PAGE = b"""<!doctype html>
<meta charset="utf-8">
<title>Upload</title>
<form>
  <input type="file" required> <button>Upload</button>
  <pre></pre>
</form>
<script>
  const form = document.querySelector("form");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const file = form.querySelector("input").files[0];
    const answer = await fetch("/", { method: "POST", body: file });
    form.querySelector("pre").textContent = await answer.text();
  });
</script>
"""


def app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    if environ["REQUEST_METHOD"] in ("POST", "PUT"):
        return receive(environ, start_response)
    start_response("200 OK", [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(PAGE)))])
    return [PAGE]


def receive(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    digest, size = hashlib.sha256(), 0
    while block := environ["wsgi.input"].read(BLOCK):
        digest.update(block)
        size += len(block)
    body = json.dumps({"size": size, "sha256": digest.hexdigest()}).encode() + b"\n"
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


if __name__ == "__main__":
    bjoern.run(app, "127.0.0.1", 8000, max_body=8 << 30)  # bytes
