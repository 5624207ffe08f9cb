"""Users and their exports with CherryPy, whose request is thread-local."""

# CherryPy has no types of its own.
# mypy: disable-error-code="import-untyped,misc,untyped-decorator"

from __future__ import annotations

from collections.abc import Iterator
from wsgiref.validate import validator

import cherrypy

from frameworks.sites import ROWS, row, who

cherrypy.config.update({"environment": "embedded", "log.screen": False})


def user() -> str:
    return str(cherrypy.request.cookie["user"].value)


class Site:
    @cherrypy.expose
    @cherrypy.config(**{"response.stream": True})
    def export(self) -> Iterator[bytes]:
        for number in range(ROWS):
            yield row(user(), number)

    @cherrypy.expose
    def who(self) -> str:
        return who(user())


app = cherrypy.Application(Site(), "", {"/": {"tools.response_headers.on": True}})
checked = validator(app)
