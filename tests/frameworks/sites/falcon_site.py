"""The site with Falcon, and what Falcon adds: hooks before and after, a stream of known length, its middleware."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.validate import validator

import falcon

from frameworks.sites import CLOSED, FILE, ROWS, closed, digest, lines, row, who


class Stamp:
    """Middleware: what came, and that it was answered."""

    def process_request(self, request: falcon.Request, response: falcon.Response) -> None:
        response.set_header("X-Stamp", request.method)

    def process_response(
        self, request: falcon.Request, response: falcon.Response, resource: object, succeeded: bool
    ) -> None:
        response.append_header("X-Stamp", str(succeeded))


def welcome(request: falcon.Request, response: falcon.Response, resource: object, arguments: dict[str, Any]) -> None:
    arguments["greeting"] = "Hello"


def mark(request: falcon.Request, response: falcon.Response, resource: object) -> None:
    response.set_header("X-Marked", str(len(response.text or "")))


class Hello:
    @falcon.before(welcome)
    @falcon.after(mark)
    def on_get(self, request: falcon.Request, response: falcon.Response, name: str, greeting: str) -> None:
        response.content_type = falcon.MEDIA_TEXT
        response.text = f"{greeting}, {name}!"

    on_head = on_get


class Stream:
    def on_get(self, request: falcon.Request, response: falcon.Response, blocks: int) -> None:
        response.content_type = falcon.MEDIA_TEXT
        response.stream = lines(blocks)


class File:
    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        response.content_type = "application/octet-stream"
        response.set_stream(FILE.open("rb"), FILE.stat().st_size)  # by wsgi.file_wrapper

    def on_head(self, request: falcon.Request, response: falcon.Response) -> None:
        """Falcon does not close a stream that it does not send."""
        response.content_type, response.content_length = "application/octet-stream", FILE.stat().st_size


class Upload:
    def on_post(self, request: falcon.Request, response: falcon.Response) -> None:
        answer: dict[str, Any] = {}
        for part in request.get_media():
            if part.name == "file":
                answer |= digest(part.stream) | {"name": part.filename}
            else:
                answer[part.name] = part.text
        response.media = answer


class Count:
    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        number = int(request.cookies.get("count", 0)) + 1
        response.set_cookie("count", str(number), secure=False)
        response.media = number


class Raw:
    def on_post(self, request: falcon.Request, response: falcon.Response) -> None:
        response.media = digest(request.bounded_stream)


class Empty:
    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        response.status = falcon.HTTP_204


class Away:
    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        raise falcon.HTTPFound("/hello/away")


class Error:
    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        raise ValueError("on purpose")


class Export:
    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        response.content_type = falcon.MEDIA_TEXT
        response.stream = self.rows(request)

    def rows(self, request: falcon.Request) -> Iterator[bytes]:
        try:
            for number in range(ROWS):
                yield row(request.cookies["user"], number)
        finally:
            CLOSED.append(request.cookies["user"])


class Who:
    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        response.text = who(request.cookies["user"])


class Closed:
    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        response.text = closed()


RESOURCES: dict[str, Callable[[], object]] = {
    "/hello/{name}": Hello,
    "/stream/{blocks:int}": Stream,
    "/file": File,
    "/upload": Upload,
    "/count": Count,
    "/raw": Raw,
    "/empty": Empty,
    "/away": Away,
    "/error": Error,
    "/export": Export,
    "/who": Who,
    "/closed": Closed,
}

app = falcon.App(middleware=[Stamp()])
for route, resource in RESOURCES.items():
    app.add_route(route, resource())

checked = validator(app)  # type: ignore[arg-type]  # Falcon names the parameters otherwise
