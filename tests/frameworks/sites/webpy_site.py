"""Users and their exports with web.py, whose request is thread-local."""

# web.py has no types of its own.
# mypy: disable-error-code="import-untyped"

from __future__ import annotations

from collections.abc import Iterator
from wsgiref.validate import validator

import web

from frameworks.sites import ROWS, row, who

web.config.debug = False


def user() -> str:
    return str(web.cookies().user)


class Export:
    def GET(self) -> Iterator[bytes]:
        web.header("Content-Type", "text/plain")
        for number in range(ROWS):
            yield row(user(), number)


class Who:
    def GET(self) -> bytes:
        told = who(user()).encode()
        web.header("Content-Type", "text/plain")
        web.header("Content-Length", str(len(told)))
        return told


app = web.application(("/export", "Export", "/who", "Who"), globals()).wsgifunc()
checked = validator(app)
