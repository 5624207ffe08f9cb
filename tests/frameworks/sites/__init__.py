"""One small site, built with each framework. Every module here has `app`, and `checked`: it in `wsgiref.validate`.

Each answers the same: GET `/hello/NAME`, `/stream/BLOCKS`, `/count` (a cookie counts), `/file`, `/empty` (204), `/away`
(to `/hello/away`), `/error` (it raises ValueError); POST `/upload` (a form with `file` and `word`), `/raw` (any body).
Knows: the file and the answers they share.   Must not know: any framework, the server.
"""

from __future__ import annotations

import hashlib
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
