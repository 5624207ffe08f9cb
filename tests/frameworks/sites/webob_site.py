"""The site with WebOb alone: one function by `wsgify`, conditional responses by WebOb's `app_iter_range`."""

# WebOb has no types of its own.
# mypy: disable-error-code="import-untyped,untyped-decorator"

from __future__ import annotations

from wsgiref.validate import validator

from webob import Request, Response
from webob.dec import wsgify
from webob.exc import HTTPFound, HTTPInternalServerError, HTTPNoContent, HTTPNotFound
from webob.static import FileApp

from frameworks.sites import FILE, digest, lines


@wsgify
def app(request: Request) -> Response:
    where, _, rest = request.path_info.strip("/").partition("/")
    match request.method, where:
        case (("GET" | "HEAD"), "hello") if rest:
            return Response(text=f"Hello, {rest}!", content_type="text/plain", charset="utf-8")
        case "GET", "stream":
            return Response(app_iter=lines(int(rest)), content_type="text/plain")
        case "GET", "count":
            number = int(request.cookies.get("count", 0)) + 1
            response = Response(json=number)
            response.set_cookie("count", str(number), samesite="lax")
            return response
        case (("GET" | "HEAD"), "file"):
            return FileApp(FILE)  # by wsgi.file_wrapper, where it sends all of the file
        case "GET", "empty":
            return HTTPNoContent()
        case "GET", "away":
            return HTTPFound(location="/hello/away")
        case "GET", "error":
            return HTTPInternalServerError("on purpose")
        case "POST", "upload":
            content = request.POST["file"]
            with content.file, request.body_file_raw:  # WebOb's own copies; it leaves them to the garbage collector
                return Response(json=digest(content.file) | {"name": content.filename, "word": request.POST["word"]})
        case "POST", "raw":
            return Response(json=digest(request.body_file))
    return HTTPNotFound()


checked = validator(app)
