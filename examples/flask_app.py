"""A Flask application. Needs `pip install flask`."""

from __future__ import annotations

from flask import Flask, request

import bjoern

app = Flask(__name__)


@app.get("/")
def hello() -> str:
    return "Hello from Flask!\n"


@app.post("/echo")
def echo() -> dict[str, str]:
    return request.form.to_dict()


if __name__ == "__main__":
    bjoern.run(app, "127.0.0.1", 8000)
