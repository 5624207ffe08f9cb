"""Applications that the tests serve. Each module's docstring says what its paths do.

Knows: PEP 3333; `wsgiref.validate` around every application that keeps the rules.   Must not know: bjoern, the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs
from wsgiref.validate import validator

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication

Environ = dict[str, Any]
Headers = list[tuple[str, str]]
Handler = Callable[[Environ, "StartResponse"], Any]

TEXT = ("Content-Type", "text/plain")


def valid(handler: Handler) -> Handler:
    """The handler between two checkers: of what the server does to it, and of what it does to the server."""
    checked: WSGIApplication = validator(handler)
    return checked


def argument(environ: Environ, name: str, default: str = "") -> str:
    """The first value of `name` in the query."""
    values: list[str] = parse_qs(environ["QUERY_STRING"]).get(name, [default])
    return values[0]


def dispatch(table: Mapping[str, Handler]) -> Handler:
    """An application that calls the handler named by the path: `/name`."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        handler = table.get(environ["PATH_INFO"].strip("/"))
        if handler is None:
            start_response("404 Not Found", [TEXT, ("Content-Length", "0")])
            return []
        answer: Iterable[bytes] = handler(environ, start_response)
        return answer

    return app


def named(*handlers: Handler) -> dict[str, Handler]:
    """A table for `dispatch`: each handler under its function's name."""
    return {handler.__name__: handler for handler in handlers}
