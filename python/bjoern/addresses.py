"""Addresses to listen on: their text forms, read and written.

Knows: `HOST:PORT`, `[IPV6]:PORT`, `unix:/PATH`, `unix:@NAME`, `fd://N`, and bjoern 3's pair of host and port.
Must not know: how an address is bound; it opens nothing and resolves no names.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import SupportsIndex


# Tuples with names made by hand: the import of typing or collections for NamedTuple costs as much as that of bjoern.
# For the same reason modules are imported here where they are needed.


class TcpAddress(tuple[str, int]):
    """An IP address or host name, empty for every IPv4 interface, and a port, 0 for a free one."""

    __slots__ = ()

    def __new__(cls, host: str, port: int) -> TcpAddress:
        return super().__new__(cls, (host, port))

    @property
    def host(self) -> str:
        return self[0]

    @property
    def port(self) -> int:
        return self[1]

    def __getnewargs__(self) -> tuple[str, int]:  # for copies and pickles
        return self.host, self.port

    def __repr__(self) -> str:
        return f"TcpAddress(host={self.host!r}, port={self.port!r})"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class UnixAddress(tuple[str]):
    """A path in the file system or, after an "@", a name in Linux's abstract namespace (unix(7))."""

    __slots__ = ()

    def __new__(cls, path: str) -> UnixAddress:
        return super().__new__(cls, (path,))

    @property
    def path(self) -> str:
        return self[0]

    @property
    def is_abstract(self) -> bool:
        return self.path.startswith("@")

    def __getnewargs__(self) -> tuple[str]:
        return (self.path,)

    def __repr__(self) -> str:
        return f"UnixAddress(path={self.path!r})"

    def __str__(self) -> str:
        return f"unix:{self.path}"


class InheritedAddress(tuple[int]):
    """A descriptor that already listens, inherited from the process that started this one."""

    __slots__ = ()

    def __new__(cls, descriptor: int) -> InheritedAddress:
        return super().__new__(cls, (descriptor,))

    @property
    def descriptor(self) -> int:
        return self[0]

    def __getnewargs__(self) -> tuple[int]:
        return (self.descriptor,)

    def __repr__(self) -> str:
        return f"InheritedAddress(descriptor={self.descriptor!r})"

    def __str__(self) -> str:
        return f"fd://{self.descriptor}"


Address = TcpAddress | UnixAddress | InheritedAddress


def parse(text: str) -> Address:
    """The address that a text stands for. Raises ValueError saying what an address looks like."""
    import re

    if text.startswith("unix:"):
        return _unix(text)
    if match := re.fullmatch(r"fd://([0-9]{1,9})", text):
        return InheritedAddress(int(match[1]))
    if match := re.fullmatch(r"(?:\[([^\[\]]+)\]|([^:\[\]/]*)):([0-9]+)", text):
        return TcpAddress(match[1] or match[2], port_number(match[3]))
    if text.count(":") > 1 and re.fullmatch(r"[0-9A-Fa-f:.]+", text):
        host, _, port = text.rpartition(":")
        raise ValueError(f"{text!r} is not an address: write IPv6 in brackets, as in [{host}]:{port or 8000}")
    raise ValueError(f"{text!r} is not an address: use HOST:PORT, [IPV6]:PORT, unix:/PATH, unix:@NAME or fd://N")


def from_pair(host: str, port: SupportsIndex | str | None) -> Address:
    """The address of bjoern 3's `listen(app, host, port)`; a "unix:" host needs no port.

    Raises TypeError where host is no str or port is missing, ValueError where port is no port number.
    """
    if not isinstance(host, str):
        raise TypeError(f"host must be a str, got {host!r}")
    if host.startswith("unix:"):
        return _unix(host)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return TcpAddress(host, port_number(port))


def port_number(port: SupportsIndex | str | None) -> int:
    """A port number, which may be written as text. Raises TypeError or ValueError."""
    if isinstance(port, str):
        if not (port.isascii() and port.isdigit()):
            raise ValueError(f"port must be a number from 0 to 65535, got {port!r}")
        port = int(port)
    import operator

    number = operator.index(port)  # type: ignore[arg-type]  # None: the TypeError is bjoern 3's
    if not 0 <= number <= 65535:
        raise ValueError(f"port must be a number from 0 to 65535, got {number}")
    return number


def of_socket(sock: socket.socket) -> Address:
    """The address a socket is bound to. Raises OSError where it is none."""
    import socket

    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        # Linux gives abstract names as bytes with a leading NUL, and paths as str.
        return UnixAddress("@" + name[1:].decode(errors="replace") if isinstance(name, bytes) else name)
    return TcpAddress(name[0], name[1])


def _unix(text: str) -> UnixAddress:
    path = text[len("unix:") :]
    if path in ("", "@"):
        raise ValueError(f"{text!r} is not an address: use unix:/PATH or unix:@NAME")
    return UnixAddress(path)
