"""Addresses and listening sockets.

How it works: sockets are bound to free ports of the loopback and to paths in a temporary folder; nothing is served.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from pathlib import Path

import pytest

import bjoern
from bjoern import addresses, sockets
from bjoern.addresses import InheritedAddress, TcpAddress, UnixAddress


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: socket paths are short, pytest's folders are long."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8000", TcpAddress("127.0.0.1", 8000)),
        ("localhost:0", TcpAddress("localhost", 0)),
        (":80", TcpAddress("", 80)),
        ("[::1]:8000", TcpAddress("::1", 8000)),
        ("[::]:65535", TcpAddress("::", 65535)),
        ("unix:/run/a.sock", UnixAddress("/run/a.sock")),
        ("unix:a.sock", UnixAddress("a.sock")),
        ("unix:@name", UnixAddress("@name")),
        ("fd://3", InheritedAddress(3)),
    ],
)
def test_address_reads_and_writes(text: str, address: addresses.Address) -> None:
    assert addresses.parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    ["", "8000", "127.0.0.1", "127.0.0.1:", "a:b", "::1:80", "[::1]", "h:65536", "h:-1", "unix:", "unix:@", "fd://",
     "fd://x", "fd://-1", "http://127.0.0.1:80", "[a:1", "h:1 "],
)  # fmt: skip
def test_malformed_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not an address: |must be a number from 0 to 65535"):
        addresses.parse(text)


def test_malformed_ipv6_address_says_how_to_write_it() -> None:
    with pytest.raises(ValueError, match=r"write IPv6 in brackets, as in \[::1\]:80$"):
        addresses.parse("::1:80")


def test_tcp_socket_listens_and_does_not_block() -> None:
    with bjoern.bind_and_listen("127.0.0.1", 0) as sock:
        assert isinstance(sock, socket.socket)
        assert sock.family == socket.AF_INET
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0
        assert not sock.getblocking()
        assert not sock.get_inheritable()


def test_localhost_is_ipv4_and_empty_host_is_every_ipv4_interface() -> None:
    with bjoern.bind_and_listen("localhost", 0) as sock:
        assert sock.getsockname()[0] == "127.0.0.1"
    with bjoern.bind_and_listen("", 0) as sock:
        assert sock.getsockname()[0] == "0.0.0.0"


def test_port_may_be_numeric_text() -> None:
    with bjoern.bind_and_listen("127.0.0.1", "0") as sock:
        assert sock.getsockname()[1] > 0


@needs_ipv6
@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_ipv6(host: str) -> None:
    with bjoern.bind_and_listen(host, 0) as sock:
        assert sock.family == socket.AF_INET6
        socket.create_connection(("::1", sock.getsockname()[1])).close()


@needs_ipv6
def test_every_ipv6_interface_takes_ipv4() -> None:
    with bjoern.bind_and_listen("::", 0) as sock:
        socket.create_connection(("127.0.0.1", sock.getsockname()[1])).close()


def test_reuse_port() -> None:
    with bjoern.bind_and_listen("127.0.0.1", 0, True) as first:
        port = first.getsockname()[1]
        bjoern.bind_and_listen("127.0.0.1", port, reuse_port=True).close()
        with pytest.raises(OSError, match="already in use"):
            bjoern.bind_and_listen("127.0.0.1", port)


def test_backlog_is_passed_on() -> None:
    with bjoern.bind_and_listen("127.0.0.1", 0, listen_backlog=17) as sock:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
        assert struct.unpack_from("I", info, 28) == (17,), "tcpi_sacked of a listening socket: its longest queue"


def test_port_is_needed() -> None:
    with pytest.raises(TypeError, match=r"^'NoneType' object cannot be interpreted as an integer$"):
        bjoern.bind_and_listen("127.0.0.1")


@pytest.mark.parametrize("port", [-1, 65536, "http", "-1", ""])
def test_port_out_of_range(port: int | str) -> None:
    with pytest.raises(ValueError, match=r"^port must be a number from 0 to 65535"):
        bjoern.bind_and_listen("127.0.0.1", port)


def test_host_is_text() -> None:
    with pytest.raises(TypeError, match=r"^host must be a str, got None$"):
        bjoern.bind_and_listen(None, 80)  # type: ignore[arg-type]


def test_port_in_use() -> None:
    with bjoern.bind_and_listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(OSError, match="already in use by another server; stop it, or choose another") as caught:
            bjoern.bind_and_listen("127.0.0.1", port)
    assert caught.value.errno == errno.EADDRINUSE
    assert caught.value.filename == f"127.0.0.1:{port}"


def test_low_port_without_the_right() -> None:
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) < 2:
        pytest.skip("this system lets everybody bind port 1")
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        if os.geteuid() == 0:
            os.setuid(65534)  # nobody
        try:
            bjoern.bind_and_listen("127.0.0.1", 1)
        except OSError as error:
            os.write(writing, f"{error.errno} {error.strerror}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with open(reading) as report:
        code, _, cause = report.read().partition(" ")
    assert int(code) == errno.EACCES
    assert cause == "permission denied: ports below 1024 need root or CAP_NET_BIND_SERVICE; choose a higher port"


def test_foreign_address() -> None:
    with pytest.raises(OSError, match="this machine does not have the address") as caught:
        bjoern.bind_and_listen("192.0.2.1", 0)  # for documentation only (RFC 5737): bound by nobody
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_unknown_host() -> None:
    with pytest.raises(socket.gaierror, match=r"cannot resolve host 'nowhere.invalid'"):  # RFC 6761 section 6.4
        bjoern.bind_and_listen("nowhere.invalid", 80)


def test_unix_path(folder: Path) -> None:
    with bjoern.bind_and_listen("unix:a.sock") as sock:
        assert sock.family == socket.AF_UNIX
        assert not sock.getblocking()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect("a.sock")
    assert Path("a.sock").is_socket(), "closing alone leaves the path, as in bjoern 3"


def test_abstract_name() -> None:
    name = f"bjoern-test-{os.getpid()}"
    with bjoern.bind_and_listen(f"unix:@{name}") as sock:
        assert sock.getsockname() == b"\0" + name.encode()
        assert addresses.of_socket(sock) == UnixAddress(f"@{name}")
        with pytest.raises(OSError, match="in use") as caught:
            bjoern.bind_and_listen(f"unix:@{name}")
        assert caught.value.errno == errno.EADDRINUSE


def test_stale_path_is_bound_anew(folder: Path) -> None:
    bjoern.bind_and_listen("unix:a.sock").close()
    with bjoern.bind_and_listen("unix:a.sock"), socket.socket(socket.AF_UNIX) as client:
        client.connect("a.sock")


@pytest.mark.parametrize("backlog", [0, 1024])
def test_live_path_is_refused(folder: Path, backlog: int) -> None:
    with bjoern.bind_and_listen("unix:a.sock", listen_backlog=backlog), socket.socket(socket.AF_UNIX) as client:
        client.connect("a.sock")  # with a backlog of 0 the queue is full now
        with pytest.raises(OSError, match="another server is listening there; stop it, or choose another") as caught:
            bjoern.bind_and_listen("unix:a.sock")
        assert caught.value.errno == errno.EADDRINUSE
    assert Path("a.sock").is_socket()


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_socket_is_left_alone(folder: Path, kind: str) -> None:
    path = folder / "a.sock"
    match kind:
        case "file":
            path.write_text("precious")
        case "folder":
            path.mkdir()
        case _:
            path.symlink_to("elsewhere")
    with pytest.raises(OSError, match="not a socket is in the way; move it, or choose another") as caught:
        bjoern.bind_and_listen("unix:a.sock")
    assert caught.value.errno == errno.EADDRINUSE
    assert os.path.lexists(path)


def test_unix_path_is_removed_when_listening_fails(folder: Path) -> None:
    with pytest.raises(TypeError):
        bjoern.bind_and_listen("unix:a.sock", listen_backlog="many")  # type: ignore[arg-type]
    assert not Path("a.sock").exists()


def test_unix_path_in_no_folder(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="its directory does not exist; make it first"):
        bjoern.bind_and_listen("unix:missing/a.sock")


def test_unix_path_too_long(folder: Path) -> None:
    with pytest.raises(OSError, match="too long; choose a shorter one"):
        bjoern.bind_and_listen("unix:" + "x" * 200)


def listener(path: str) -> contextlib.closing[sockets.Listener]:
    return contextlib.closing(sockets.bind(UnixAddress(path)))


def test_remove_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with listener("a.sock") as sock:
        (folder / "elsewhere").mkdir()
        monkeypatch.chdir(folder / "elsewhere")
        sock.remove_path()
        assert not (folder / "a.sock").exists()
        sock.remove_path()  # once more does no harm


def test_path_of_a_successor_is_left_alone(folder: Path) -> None:
    with listener("a.sock") as first:
        os.unlink("a.sock")
        with listener("a.sock") as second:
            first.remove_path()
            assert Path("a.sock").is_socket()
            second.remove_path()
            assert not Path("a.sock").exists()


def test_path_that_is_gone(folder: Path) -> None:
    with listener("a.sock") as sock:
        os.unlink("a.sock")
        sock.remove_path()


def test_forked_child_leaves_the_path_alone(folder: Path) -> None:
    with listener("a.sock") as sock:
        child = os.fork()
        if not child:
            sock.remove_path()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert Path("a.sock").is_socket()
        sock.remove_path()
        assert not Path("a.sock").exists()


def test_all_or_none(folder: Path) -> None:
    with bjoern.bind_and_listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="already in use"):
            sockets.bind_all([UnixAddress("a.sock"), TcpAddress("127.0.0.1", port)])
        assert not Path("a.sock").exists()
    first, second = sockets.bind_all([UnixAddress("a.sock"), TcpAddress("127.0.0.1", port)])
    first.close()
    second.close()


def test_inherited_descriptor() -> None:
    original = bjoern.bind_and_listen("127.0.0.1", 0)
    original.set_inheritable(True)
    name = original.getsockname()
    with sockets.bind(InheritedAddress(original.detach())).socket as sock:
        assert sock.getsockname() == name
        assert not sock.get_inheritable()


def test_inherited_descriptor_that_does_not_listen() -> None:
    with socket.socket() as sock:
        with pytest.raises(OSError, match="not a socket that listens; the parent process must pass one") as caught:
            sockets.bind(InheritedAddress(sock.fileno()))
        os.fstat(sock.fileno())  # left open: it is not ours
    assert caught.value.errno == errno.EINVAL


def test_inherited_descriptor_that_is_not_open() -> None:
    reading, writing = os.pipe()
    with pytest.raises(OSError, match="not a socket that listens; the parent process must pass one") as caught:
        sockets.bind(InheritedAddress(reading))
    assert caught.value.errno == errno.ENOTSOCK
    os.close(reading)
    os.close(writing)
    with pytest.raises(OSError, match="not a socket that listens") as caught:
        sockets.bind(InheritedAddress(writing))
    assert caught.value.errno == errno.EBADF
