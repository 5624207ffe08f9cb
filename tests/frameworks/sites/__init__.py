"""One small site, built with each framework. Every module here has `app`, and `checked`: it in `wsgiref.validate`.

Each answers the same: GET `/hello/NAME`, `/stream/BLOCKS`, `/count` (a cookie counts), `/file`, `/empty` (204), `/away`
(to `/hello/away`), `/error` (it raises ValueError); POST `/upload` (a form with `file` and `word`), `/raw` (any body).
Some have users, which the cookie `user` names: `/export` streams a user's rows, `/who` tells the user and the process,
`/closed` lists the users whose exports this process has closed. CherryPy's and web.py's sites have only users.
Knows: the file and the answers they share.   Must not know: any framework, the server.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from apps.blocks import pattern

FOLDER = tempfile.TemporaryDirectory()
FILE = Path(FOLDER.name, "stored.bin")
FILE.write_bytes(pattern(300_000))


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def digest(stream: Readable) -> dict[str, Any]:
    """Size (bytes) and SHA-256 of all that a stream holds, read in blocks."""
    size, total = 0, hashlib.sha256()
    while block := stream.read(65_536):
        size += len(block)
        total.update(block)
    return {"size": size, "sha256": total.hexdigest()}


def lines(blocks: int) -> Iterator[bytes]:
    for number in range(blocks):
        yield b"%d\n" % number


# Users and their exports ---------------------------------------------------------------------------------------------

ROWS = 2000
ROW_BYTES = 2000  # the rows together are more than the sockets of a slow client hold
CLOSED: list[str] = []  # the users whose exports have been closed


def row(user: str, number: int) -> bytes:
    """A row of the user's export."""
    return f"{user} {number} ".encode().ljust(ROW_BYTES - 1, b".") + b"\n"


def who(user: str) -> str:
    """The user, and the process that answers."""
    return f"{user} {os.getpid()}"


def closed() -> str:
    """The users whose exports have been closed."""
    return " ".join(CLOSED)
