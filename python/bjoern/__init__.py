"""bjoern: a small, fast WSGI server (PEP 3333).

`bjoern.run(app, "127.0.0.1", 8000)` serves until interrupted; `bjoern.Server` is the same as an object.
Knows: the public names, and which module has each.
Must not know: how any of it is done.
"""

from __future__ import annotations

import os  # noqa: F401  # programs written for bjoern 3 find os, socket and _bjoern here

from . import _bjoern  # noqa: F401
from ._bjoern import RequestTimeout, features, version
from .drop_in import bind_and_listen, listen, run, server_run
from .options import Options
from .server import Server
from .sockets import DEFAULT_LISTEN_BACKLOG

# Importing bjoern imports no module of the standard library that is not there already, or small: each name that a
# function alone needs is imported in that function, and what only annotations need, not at all. Type checkers take
# TYPE_CHECKING for true, whoever defines it.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    from _typeshed.wsgi import WSGIApplication

__version__ = ".".join(map(str, version))
__all__ = [
    "DEFAULT_LISTEN_BACKLOG",
    "Options",
    "RequestTimeout",
    "Server",
    "bind_and_listen",
    "features",
    "listen",
    "run",
    "server_run",
    "version",
]

# The global server's socket and application, between `listen` and the end of `run`.
_default_instance: tuple[socket.socket, WSGIApplication] | None = None


def __getattr__(name: str) -> Any:
    if name == "socket":  # takes twice as long to import as bjoern
        import socket

        return socket
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
