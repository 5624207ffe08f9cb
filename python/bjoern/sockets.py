"""Listening sockets: made from addresses, and cleared away.

Knows: bind(2), listen(2), the socket file of a unix address and who owns it.
Must not know: the engine, options, signals.
Invariant: a unix path is removed only by the process that bound it, and only while it is still that socket.
"""

from __future__ import annotations

import _thread  # threading is made of it, and costs more
import errno
import fcntl
import os
import stat

from .addresses import Address, InheritedAddress, TcpAddress, UnixAddress

DEFAULT_LISTEN_BACKLOG = 1024  # connections the kernel completes ahead of accept(2)


TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from typing import Any, Protocol

    from .privileges import Identity

    class HasFileno(Protocol):
        def fileno(self) -> int: ...

    SocketLike = int | HasFileno

# `socket` takes twice as long to import as bjoern does, so it is imported by the functions that open sockets.


class Listener:
    """A listening, non-blocking socket, and the file that was made for it, if any."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._path: str | None = None
        self._made = (0, 0, 0)  # process, device, inode
        # For those who close at once, since `socket.close` has no lock: without a GIL the descriptor would be closed
        # twice, the second time somebody else's. A signal handler may come in its own thread's way.
        self._closing = _thread.RLock()

    def made_path(self, path: str) -> None:
        """Remembers that this process has just bound the socket to `path`."""
        self._path = os.path.abspath(path)  # the working directory may change
        self._made = _identity(self._path)

    def give(self, identity: Identity) -> None:
        """Gives the socket file, if any, to the user and group that serve. Raises OSError."""
        if self._path is not None:
            identity.own(self._path)

    def remove_path(self) -> None:
        """Removes the socket file, unless another process (a parent, a successor) owns it or it is gone."""
        with self._closing:
            if self._path is None:
                return
            path, self._path = self._path, None
            try:
                # Our socket holds the inode, so an equal number is the same file.
                if self._made == _identity(path):
                    os.unlink(path)
            except FileNotFoundError:
                pass

    def close(self) -> None:
        """Removes the socket file, as `remove_path` does, and closes the socket."""
        with self._closing:
            self.remove_path()
            self.socket.close()


def bind(address: Address, *, reuse_port: bool = False, backlog: int = DEFAULT_LISTEN_BACKLOG) -> Listener:
    """A socket listening on the address.

    `reuse_port` sets SO_REUSEPORT on TCP sockets: several processes may bind the same port.
    Raises OSError with errno, cause and, as its `filename`, the address; socket.gaierror for an unknown host.
    """
    import socket

    if isinstance(address, InheritedAddress):
        return Listener(_inherit(address))
    name: Any  # what bind(2) takes depends on the family
    if isinstance(address, UnixAddress):
        sock, name = socket.socket(socket.AF_UNIX), _unix_name(address)
    else:
        sock, name = _open_tcp(address, reuse_port)
    listener = Listener(sock)
    try:
        try:
            sock.bind(name)
        except OSError as error:
            if not isinstance(address, UnixAddress) or address.is_abstract or error.errno != errno.EADDRINUSE:
                raise
            _remove_stale(address)
            sock.bind(name)
        if isinstance(address, UnixAddress) and not address.is_abstract:
            listener.made_path(address.path)
        sock.setblocking(False)
        sock.listen(backlog)
    except BaseException as error:
        listener.close()
        if isinstance(error, OSError):
            raise OSError(error.errno, _cause(error, address), str(address)) from None
        raise
    return listener


def bind_all(
    addresses: Sequence[Address], *, reuse_port: bool = False, backlog: int = DEFAULT_LISTEN_BACKLOG
) -> list[Listener]:
    """Sockets listening on all the addresses, or on none. Raises as `bind`."""
    listeners: list[Listener] = []
    try:
        for address in addresses:
            listeners.append(bind(address, reuse_port=reuse_port, backlog=backlog))
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def descriptor(sock: SocketLike) -> int:
    """The descriptor of a socket, of anything with a fileno(), or the number itself.

    Raises TypeError and ValueError in CPython's words, OSError (EBADF) where it is not open.
    """
    fcntl.fcntl(sock, fcntl.F_GETFD)  # raises what is wrong with it
    return sock if isinstance(sock, int) else sock.fileno()


def _open_tcp(address: TcpAddress, reuse_port: bool) -> tuple[socket.socket, Any]:
    import socket

    family, name = _resolved(address)
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Before listen(2): connections inherit it when they are made, not when they are accepted.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if reuse_port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if family == socket.AF_INET6:
        # "::" takes IPv4 as well, whatever the system's default (RFC 3493 section 5.3).
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(name[0] != "::"))
    return sock, name


def _resolved(address: TcpAddress) -> tuple[int, Any]:
    """The family, and what bind(2) takes."""
    import socket

    try:
        socket.inet_aton(address.host)
    except OSError:
        pass
    else:
        return socket.AF_INET, address  # nothing to look up
    try:
        found = socket.getaddrinfo(address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        cause = f"cannot resolve host {address.host!r}: {error.strerror}; check its spelling, or use an IP address"
        raise socket.gaierror(error.errno, cause) from None
    # bjoern 3 knew IPv4 only: a name that has both, as "localhost" often does, stays what it was.
    family, _, _, _, name = min(found, key=lambda info: info[0] != socket.AF_INET)
    return family, name


def _unix_name(address: UnixAddress) -> str:
    return "\0" + address.path[1:] if address.is_abstract else address.path


def _inherit(address: InheritedAddress) -> socket.socket:
    import socket

    try:
        sock = socket.socket(fileno=address.descriptor)
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            sock.detach()
            raise OSError(errno.EINVAL, None)
    except OSError as error:
        cause = "not a socket that listens; the parent process must pass one"
        raise OSError(error.errno, cause, str(address)) from None
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock


def _identity(path: str) -> tuple[int, int, int]:
    status = os.lstat(path)
    return os.getpid(), status.st_dev, status.st_ino


def _remove_stale(address: UnixAddress) -> None:
    """Removes the socket file of a server that is gone; raises OSError (EADDRINUSE) where it is something else."""
    import socket

    if not stat.S_ISSOCK(os.lstat(address.path).st_mode):
        raise OSError(errno.EADDRINUSE, "a file that is not a socket is in the way; move it, or choose another path")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(address.path)
        except ConnectionRefusedError:  # nobody listens
            os.unlink(address.path)
            return
        except OSError:  # somebody does, and has no time or another kind of socket
            pass
    raise OSError(errno.EADDRINUSE, "another server is listening there; stop it, or choose another path")


def _cause(error: OSError, address: Address) -> str:
    """What went wrong, in words that say what to do."""
    if isinstance(address, TcpAddress):
        if error.errno == errno.EADDRINUSE:
            return "address already in use by another server; stop it, or choose another port"
        if error.errno == errno.EACCES and address.port < 1024:
            return "permission denied: ports below 1024 need root or CAP_NET_BIND_SERVICE; choose a higher port"
        if error.errno == errno.EADDRNOTAVAIL:
            return "this machine does not have the address; use one of its own, or 0.0.0.0 for all"
    elif error.errno == errno.ENOENT:
        return "its directory does not exist; make it first"
    elif error.errno is None:  # Python's own check of the path's length
        return f"{error}; choose a shorter one (107 bytes at most)"
    return error.strerror or str(error)
