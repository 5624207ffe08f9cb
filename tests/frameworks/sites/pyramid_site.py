"""The site with Pyramid: its router, a signed session, a subscriber to every response, `FileResponse`."""

# Pyramid has no types of its own.
# mypy: disable-error-code="import-untyped,untyped-decorator"

from __future__ import annotations

from wsgiref.validate import validator

from pyramid.config import Configurator
from pyramid.events import NewResponse
from pyramid.httpexceptions import HTTPFound, HTTPInternalServerError, HTTPNoContent
from pyramid.request import Request
from pyramid.response import FileResponse, Response
from pyramid.session import SignedCookieSessionFactory

from frameworks.sites import FILE, digest, lines


def hello(request: Request) -> Response:
    return Response(text=f"Hello, {request.matchdict['name']}!", content_type="text/plain")


def stream(request: Request) -> Response:
    return Response(app_iter=lines(int(request.matchdict["blocks"])), content_type="text/plain")


def count(request: Request) -> Response:
    request.session["count"] = request.session.get("count", 0) + 1
    return Response(json=request.session["count"])


def file(request: Request) -> Response:
    return FileResponse(FILE, request, content_type="application/octet-stream")


def empty(request: Request) -> Response:
    return HTTPNoContent()


def away(request: Request) -> Response:
    return HTTPFound("/hello/away")


def error(request: Request) -> Response:
    raise ValueError("on purpose")


def failed(failure: ValueError, request: Request) -> Response:
    return HTTPInternalServerError(str(failure))


def upload(request: Request) -> Response:
    content = request.POST["file"]
    with content.file, request.body_file_raw:  # WebOb's own copies, which it would leave to the garbage collector
        return Response(json=digest(content.file) | {"name": content.filename, "word": request.POST["word"]})


def raw(request: Request) -> Response:
    return Response(json=digest(request.body_file))


def mark(event: NewResponse) -> None:
    event.response.headers["X-Marked"] = event.request.method


with Configurator(session_factory=SignedCookieSessionFactory("only for tests")) as config:
    for view, pattern, methods in [
        (hello, "/hello/{name}", ("GET", "HEAD")),
        (stream, "/stream/{blocks}", "GET"),
        (count, "/count", "GET"),
        (file, "/file", ("GET", "HEAD")),
        (empty, "/empty", "GET"),
        (away, "/away", "GET"),
        (error, "/error", "GET"),
        (upload, "/upload", "POST"),
        (raw, "/raw", "POST"),
    ]:
        config.add_route(view.__name__, pattern)
        config.add_view(view, route_name=view.__name__, request_method=methods)
    config.add_exception_view(failed, context=ValueError)
    config.add_subscriber(mark, NewResponse)
    app = config.make_wsgi_app()

checked = validator(app)
