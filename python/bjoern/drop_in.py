"""bjoern 3's functions, and the one global server behind them.

Knows: the names, arguments and error texts that programs written for bjoern 3 rely on.
Must not know: how an address is bound, how a server runs.
"""

from __future__ import annotations

import os

import bjoern

from . import addresses, messages, sockets
from ._bjoern import features
from .options import HANDOVER, OPTIONS, SCOPES, Options, check_names, misspelt
from .server import Server, check_callable
from .sockets import DEFAULT_LISTEN_BACKLOG

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping
    from typing import Any, SupportsIndex

    from _typeshed.wsgi import WSGIApplication

    from .sockets import SocketLike

    Port = SupportsIndex | str | None

# The server behind `bjoern._default_instance`.
_default_server: Server | None = None


def bind_and_listen(
    host: str, port: Port = None, reuse_port: bool = False, listen_backlog: int = DEFAULT_LISTEN_BACKLOG
) -> socket.socket:
    """A non-blocking socket that listens on an address.

    `host` is an IPv4 or IPv6 address, a host name, "" for all IPv4 interfaces, "unix:/path" or "unix:@name"; the last
    two need no `port`. Port 0 is a free one. `reuse_port` sets SO_REUSEPORT, `listen_backlog` counts connections.
    Raises OSError where the address is in use or cannot be had, TypeError or ValueError where it is malformed.
    """
    address = addresses.from_pair(host, port)
    return sockets.bind(address, reuse_port=reuse_port, backlog=listen_backlog).socket


def listen(
    wsgi_app: WSGIApplication,
    host: str,
    port: Port = None,
    reuse_port: bool = False,
    listen_backlog: int = DEFAULT_LISTEN_BACKLOG,
    **options: Any,
) -> socket.socket:
    """Makes the global server: binds as `bind_and_listen` does and returns the socket; `run()` then serves.

    Between the two the process may fork; each child that calls `run()` serves the same socket.
    The options are the fields of `bjoern.Options`. Raises as `bind_and_listen` and `Options`; TypeError where the
    application is not callable; RuntimeError where there is a global server already.
    """
    global _default_server
    if bjoern._default_instance:
        raise RuntimeError("Only one global server instance possible")
    check_names("listen", options)
    address = addresses.from_pair(host, port)
    server = Server(wsgi_app, address, reuse_port=reuse_port, backlog=listen_backlog, **options)
    sock = server.listeners[0].socket
    bjoern._default_instance, _default_server = (sock, wsgi_app), server
    return sock


def run(*args: Any, statsd: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
    """Serves until a signal or the application ends it: `run(wsgi_app, host, ...)`, or `run()` after `listen`.

    The arguments are those of `listen`, and the options about processes: with `workers=4` this process watches four
    others that serve. At the end the socket is closed and its unix path removed.
    Raises as `listen` and `Server.run`: KeyboardInterrupt after SIGINT; RuntimeError for `run()` without `listen`;
    SystemExit with code 3 where no worker can be started.
    """
    global _default_server
    _ignore_statsd(statsd)
    if args or kwargs:
        scopes = {option.name: option.scope for option in OPTIONS if option.scope in SCOPES["run"]}
        options = Options.resolve("run", {name: kwargs[name] for name in kwargs if name in scopes}, scope="run")
        messages.configure(options.log_level, options.log_format)
        for warning in misspelt(os.environ, "run"):
            messages.warning(warning)
        if options.umask is not None:
            os.umask(options.umask)
        others = {name: value for name, value in kwargs.items() if scopes.get(name) != "run"}
        if options.watched or HANDOVER in os.environ:
            _supervise(options, *args, **others)
            return
        listen(*args, **others)
    if not bjoern._default_instance or not _default_server:
        raise RuntimeError(
            "Must call bjoern.listen(wsgi_app, host, ...) before calling bjoern.run() without arguments."
        )
    try:
        _default_server.run()
    finally:
        bjoern._default_instance = _default_server = None


def _supervise(
    options: Options,
    wsgi_app: WSGIApplication,
    host: str,
    port: Port = None,
    reuse_port: bool = False,
    listen_backlog: int = DEFAULT_LISTEN_BACKLOG,
    **server_options: Any,
) -> None:
    if bjoern._default_instance:
        raise RuntimeError("Only one global server instance possible")
    check_callable(wsgi_app)
    check_names("listen", server_options)
    address = addresses.from_pair(host, port)
    from .supervisor import serve, starting_directory

    serve(
        lambda: wsgi_app,
        options,
        lambda: sockets.bind_all([address], reuse_port=reuse_port, backlog=listen_backlog),
        starting_directory(),
    )


def server_run(
    sock: SocketLike,
    wsgi_app: WSGIApplication,
    statsd: Mapping[str, Any] | None = None,
    *,
    enable_statsd: bool = False,
    **options: Any,
) -> None:
    """Serves on a socket, or a descriptor, that listens already; it is left open. Otherwise as `run`."""
    _ignore_statsd(statsd or enable_statsd)
    check_names("server_run", options)
    Server(wsgi_app, sockets=[sock], **options).run()


def _ignore_statsd(wanted: Mapping[str, Any] | bool | None) -> None:
    if wanted and not isinstance(wanted, bool):
        wanted = bool(wanted.get("enable", True))
    if wanted and not features["has_statsd"]:
        import warnings

        warnings.warn(
            "statsd= is accepted but nothing is sent: this bjoern has no statsd support", RuntimeWarning, stacklevel=3
        )
