"""A large file for everybody, in a process that SIGPIPE would end."""

from __future__ import annotations

import signal
import tempfile
from typing import Any

signal.signal(signal.SIGPIPE, signal.SIG_DFL)
FILE = tempfile.TemporaryFile()  # noqa: SIM115  it is here for as long as the process is
FILE.write(b"x" * 20_000_000)
FILE.flush()


class Kept:
    """A file that its wrapper does not close."""

    def __init__(self) -> None:
        self.file = open(FILE.fileno(), "rb", closefd=False)  # noqa: SIM115  as above


def app(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", [])
    if environ["PATH_INFO"] != "/file":
        return [b"ok"]
    file = Kept().file
    file.seek(0)
    return environ["wsgi.file_wrapper"](file)
