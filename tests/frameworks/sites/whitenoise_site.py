"""WhiteNoise before an application that answers "not static": `/file`, and `/page.css` with a compressed variant."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from wsgiref.validate import validator

from whitenoise import WhiteNoise  # type: ignore[import-untyped]

from apps import TEXT
from frameworks.sites import FILE, FOLDER

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

STATIC = Path(FOLDER.name, "static")
STATIC.mkdir()
(STATIC / "file").write_bytes(FILE.read_bytes())
STYLE = b"p { margin: 0 }\n" * 5000
(STATIC / "page.css").write_bytes(STYLE)
(STATIC / "page.css.gz").write_bytes(gzip.compress(STYLE))


def behind(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [TEXT, ("Content-Length", "10")])
    return [b"not static"]


app = WhiteNoise(behind, root=str(STATIC), max_age=60)
checked = validator(app)
