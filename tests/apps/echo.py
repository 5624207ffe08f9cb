"""Tells what it was given: `app` answers every request with a JSON report of its environ and its body.

`raw` is the same without `wsgiref.validate`, for requests that the validator has no heart for (`OPTIONS *`).
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from apps import Environ, valid

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

SHOWN = 65536  # bytes of a body that the report repeats


def raw(environ: Environ, start_response: StartResponse) -> list[bytes]:
    body = environ["wsgi.input"].read(-1)
    report = {
        "method": environ["REQUEST_METHOD"],
        "environ": {key: value for key, value in environ.items() if isinstance(value, (str, bool, tuple))},
        "types": {key: type(value).__name__ for key, value in environ.items()},
        "dict": type(environ) is dict,
        "body": body[:SHOWN].decode("latin-1"),
        "size": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    environ["LEFT_BEHIND"] = environ["SCRIPT_NAME"] = "/left/behind"  # must not be seen by the next request
    answer = json.dumps(report).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]


app = valid(raw)
