"""Reads `wsgi.input` as the request says: `X-Operations` is a JSON list of `[method, *arguments]`.

The answer are their results. `iterate` is `list(input)`, `next` is `next(input, b"end")`; bytes are shown
as latin-1 text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from apps import TEXT, Environ

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse


def perform(stream: Any, operations: list[list[Any]]) -> list[Any]:
    """What each operation on `stream` gives. Also run by the tests, on an `io.BytesIO`."""
    special: dict[str, Callable[[], Any]] = {
        "iterate": lambda: list(stream),
        "next": lambda: next(iter(stream), b"end"),
        "iter_is_self": lambda: iter(stream) is stream,
    }
    return [
        shown(special[name]() if name in special else getattr(stream, name)(*arguments))
        for name, *arguments in operations
    ]


def shown(value: Any) -> Any:
    if isinstance(value, list):
        return [shown(item) for item in value]
    return value.decode("latin-1") if isinstance(value, bytes) else value


def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    results = perform(environ["wsgi.input"], json.loads(environ["HTTP_X_OPERATIONS"]))
    answer = json.dumps(results).encode()
    start_response("200 OK", [TEXT, ("Content-Length", str(len(answer)))])
    return [answer]
