"""bjoern: a small, fast WSGI server (PEP 3333).

`bjoern.run(app, "127.0.0.1", 8000)` serves until interrupted; `bjoern.Server` is the same as an object.
Knows: the public names, and which module has each.
Must not know: how any of it is done.
Invariant: importing it costs next to nothing; a name's module is imported when the name is first used (PEP 562).
"""

from __future__ import annotations

from . import _bjoern  # noqa: F401  # programs written for bjoern 3 find it here, as they do os and socket
from ._bjoern import features, version

TYPE_CHECKING = False  # typing's own is not worth its import
if TYPE_CHECKING:
    import os as os
    import socket as socket

    from _typeshed.wsgi import WSGIApplication

    from .drop_in import bind_and_listen, listen, run, server_run
    from .options import Options
    from .server import Server
    from .sockets import DEFAULT_LISTEN_BACKLOG

__version__ = ".".join(map(str, version))
__all__ = [
    "DEFAULT_LISTEN_BACKLOG",
    "Options",
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

_HOMES = {
    "DEFAULT_LISTEN_BACKLOG": ".sockets",
    "Options": ".options",
    "Server": ".server",
    "bind_and_listen": ".drop_in",
    "listen": ".drop_in",
    "run": ".drop_in",
    "server_run": ".drop_in",
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in _HOMES:
        value = globals()[name] = getattr(import_module(_HOMES[name], __name__), name)
        return value
    if name in ("os", "socket"):
        return import_module(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
