"""A Flask page. Knows: Flask.   Must not know: which server runs it."""

from __future__ import annotations

from flask import Flask

app = Flask(__name__)


@app.get("/")
def hello() -> str:
    return "Hello, world!"
