"""The site with Werkzeug alone: its router, its request and its response."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from wsgiref.validate import validator

from werkzeug.exceptions import HTTPException, InternalServerError
from werkzeug.routing import Map, Rule
from werkzeug.utils import redirect, send_file
from werkzeug.wrappers import Request, Response

from frameworks.sites import FILE, digest, lines

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def json(value: Any) -> Response:
    import json

    return Response(json.dumps(value), mimetype="application/json")


def hello(request: Request, name: str) -> Response:
    return Response(f"Hello, {name}!", mimetype="text/plain")


def stream(request: Request, blocks: int) -> Response:
    return Response(lines(blocks), mimetype="text/plain")


def count(request: Request) -> Response:
    number = int(request.cookies.get("count", 0)) + 1
    response = json(number)
    response.set_cookie("count", str(number), httponly=True, samesite="Lax")
    return response


def file(request: Request) -> Response:
    return send_file(FILE, request.environ)


def empty(request: Request) -> Response:
    response = Response(status=204)
    del response.headers["Content-Type"]  # of nothing; the checker minds
    return response


def away(request: Request) -> Any:
    return redirect("/hello/away")


def error(request: Request) -> Response:
    raise ValueError("on purpose")


def upload(request: Request) -> Response:
    content = request.files["file"]
    return json(digest(content.stream) | {"name": content.filename, "word": request.form["word"]})


def raw(request: Request) -> Response:
    return json(digest(request.stream))


ROUTES = Map(
    [
        Rule("/hello/<name>", endpoint=hello, methods=["GET"]),
        Rule("/stream/<int:blocks>", endpoint=stream, methods=["GET"]),
        *[Rule(f"/{view.__name__}", endpoint=view, methods=["GET"]) for view in (count, file, empty, away, error)],
        *[Rule(f"/{view.__name__}", endpoint=view, methods=["POST"]) for view in (upload, raw)],
    ]
)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    request = Request(environ)
    response: Any
    try:
        endpoint, arguments = ROUTES.bind_to_environ(environ).match()
        response = endpoint(request, **arguments)
    except HTTPException as failure:
        response = failure
    except ValueError as failure:
        response = InternalServerError(original_exception=failure)
    with request:  # closes uploaded files
        answer: Iterable[bytes] = response(environ, start_response)
    return answer


checked = validator(app)
