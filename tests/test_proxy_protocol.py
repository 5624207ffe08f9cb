"""The PROXY protocol: connections that begin with a proxy's word on whom it speaks for.

How it works: the tests' own client is the proxy; `apps.echo` reports the environ. The tables of beginnings, good
and bad, torn in every way, are in engine/src/proxies/preface.rs and engine/tests/proxies.rs.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Any

import pytest

from conftest import Serve
from programs import Program
from server_process import ServerProcess
from wire import Client, message

ECHO = "apps.echo:app"
SHORT = 0.3  # seconds, for a timeout that is to pass
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL_COMMAND, PROXY_COMMAND = 0x20, 0x21
TCP4, TCP6, UNIX = 0x11, 0x21, 0x31


def v2(command: int, family: int, block: bytes) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(block)) + block


def addresses(source: str, port: int) -> bytes:
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    packed = socket.inet_pton(family, source)
    return packed + bytes(len(packed)) + struct.pack("!HH", port, 80)


ALPN_AND_NOTHING = b"\x01\x00\x02h2" + b"\x04\x00\x03\x00\x00\x00"

INTRODUCTIONS = [
    (b"PROXY TCP4 192.0.2.1 198.51.100.1 4660 80\r\n", "192.0.2.1", "4660"),
    (b"PROXY TCP6 2001:db8::1 ::1 4660 80\r\n", "2001:db8::1", "4660"),
    (v2(PROXY_COMMAND, TCP4, addresses("192.0.2.1", 4660)), "192.0.2.1", "4660"),
    (v2(PROXY_COMMAND, TCP6, addresses("2001:db8::1", 4660)), "2001:db8::1", "4660"),
    (v2(PROXY_COMMAND, TCP6, addresses("::ffff:192.0.2.1", 4660)), "192.0.2.1", "4660"),
    (v2(PROXY_COMMAND, TCP4, addresses("192.0.2.1", 4660) + ALPN_AND_NOTHING), "192.0.2.1", "4660"),
    (v2(PROXY_COMMAND, UNIX, b"/run/client".ljust(216, b"\0")), "", ""),
    # For itself, as health checks do, or for it does not know whom: the peer is who it is.
    (b"PROXY UNKNOWN\r\n", "127.0.0.1", "peer"),
    (v2(LOCAL_COMMAND, 0, b""), "127.0.0.1", "peer"),
    (v2(LOCAL_COMMAND, TCP4, addresses("192.0.2.1", 4660)), "127.0.0.1", "peer"),
    (v2(PROXY_COMMAND, 0, b""), "127.0.0.1", "peer"),
]

NO_INTRODUCTIONS = [
    message(),
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
    b"PROXY TCP4 192.0.2.1 198.51.100.1 4660\r\n" + message(),
    b"PROXY TCP4 192.0.2.1 198.51.100.1 4660 80\n" + message(),
    b"PROXY UNKNOWN " + b"x" * 200,
    v2(0x11, TCP4, addresses("192.0.2.1", 4660)) + message(),
    v2(PROXY_COMMAND, TCP6, addresses("192.0.2.1", 4660)) + message(),
    SIGNATURE + bytes([PROXY_COMMAND, TCP4, 0xFF, 0xFF]),
]


@pytest.fixture(scope="module")
def introduced(server_python: str) -> Any:
    server = ServerProcess(server_python, ECHO, proxy_protocol=True)
    yield server
    server.check()
    server.stop()


def who_asks(client: Client) -> tuple[str, str]:
    environ = client.recv_response().json()["environ"]
    port = environ["REMOTE_PORT"]
    return environ["REMOTE_ADDR"], "peer" if port == str(client.sock.getsockname()[1]) else port


@pytest.mark.parametrize(("introduction", "address", "port"), INTRODUCTIONS)
def test_the_client_is_whom_the_proxy_speaks_for(
    introduced: ServerProcess, introduction: bytes, address: str, port: str
) -> None:
    post = message("POST", "/", body=b"hello")
    with introduced.connect() as client:  # with the requests behind it, for all of them
        client.send(introduction + message() + post + message())
        assert [who_asks(client) for _ in range(3)] == [(address, port)] * 3
    with introduced.connect() as client:  # byte by byte
        for byte in introduction + message():
            client.send(bytes([byte]))
        assert who_asks(client) == (address, port)
        client.send(post)
        assert who_asks(client) == (address, port)


@pytest.mark.parametrize("start", NO_INTRODUCTIONS)
def test_other_connections_are_closed_without_a_word(introduced: ServerProcess, start: bytes) -> None:
    with introduced.connect() as client:
        client.send(start)
        expect_end(client)
    with introduced.connect() as client:
        client.send(INTRODUCTIONS[0][0] + message())
        assert who_asks(client) == ("192.0.2.1", "4660")


def expect_end(client: Client) -> None:
    """The connection ends, or is reset where the server has not read all, and nothing came."""
    with contextlib.suppress(ConnectionResetError):
        assert client.sock.recv(1) == b""


def test_a_second_introduction_is_no_request(introduced: ServerProcess) -> None:
    with introduced.connect() as client:
        client.send(INTRODUCTIONS[0][0] * 2)
        client.expect_refusal(400)


@pytest.mark.parametrize("sent", [b"", b"PROXY TCP4", SIGNATURE, INTRODUCTIONS[2][0][:-1], INTRODUCTIONS[0][0]])
def test_header_timeout_begins_with_the_connection(serve: Serve, sent: bytes) -> None:
    server = serve(ECHO, proxy_protocol=True, header_timeout=SHORT)
    with server.connect() as client:
        client.send(sent)
        client.expect_close()
    with server.connect() as client:
        client.send(INTRODUCTIONS[0][0] + b"GET / HTTP/1.1\r\n")
        client.expect_refusal(408)


@pytest.mark.parametrize(("trusted", "welcome"), [("127.0.0.0/8", True), ("*", True), ("192.0.2.1 unix", False)])
@pytest.mark.parametrize("introduction", [INTRODUCTIONS[0][0], INTRODUCTIONS[2][0], INTRODUCTIONS[8][0]])
def test_who_may_speak(serve: Serve, trusted: str, welcome: bool, introduction: bytes) -> None:
    """It is the peer who must be trusted, not the one it names."""
    server = serve(ECHO, proxy_protocol=True, forwarded_allow_ips=trusted)
    with server.connect() as client:
        client.send(introduction + message())
        if welcome:
            client.recv_response()
        else:
            expect_end(client)


def test_over_a_unix_socket(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> None:
    server = serve(ECHO, host=f"unix:{tmp_path_factory.mktemp('s')}/s", proxy_protocol=True, forwarded_allow_ips="unix")
    with server.connect() as client:
        client.send(INTRODUCTIONS[2][0] + message())
        environ = client.recv_response().json()["environ"]
        assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == ("192.0.2.1", "4660")
    with server.connect() as client:
        client.send(INTRODUCTIONS[8][0] + message())
        assert client.recv_response().json()["environ"]["REMOTE_ADDR"] == ""


@pytest.mark.parametrize(
    ("trusted", "introduction", "want"),
    [
        # A proxy that only passes bytes on: the fields are its client's own word.
        ("127.0.0.1", INTRODUCTIONS[2][0], ("192.0.2.1", False)),
        # Its client is a proxy itself, and trusted.
        ("127.0.0.1, 192.0.2.0/24", INTRODUCTIONS[2][0], ("203.0.113.7", True)),
        ("127.0.0.1", INTRODUCTIONS[8][0], ("203.0.113.7", True)),
        ("", INTRODUCTIONS[2][0], ("192.0.2.1", True)),
    ],
)
def test_fields_count_by_whom_the_proxy_speaks_for(
    serve: Serve, trusted: str, introduction: bytes, want: tuple[str, bool]
) -> None:
    server = serve(ECHO, proxy_protocol=True, forwarded_allow_ips=trusted)
    with server.connect() as client:
        client.send(introduction + message("GET", "/", "X-Forwarded-For: 203.0.113.7"))
        environ = client.recv_response().json()["environ"]
        assert (environ["REMOTE_ADDR"], "HTTP_X_FORWARDED_FOR" in environ) == want


def test_without_the_option_it_is_no_request(shared: Serve) -> None:
    for introduction in (INTRODUCTIONS[0][0], INTRODUCTIONS[2][0]):
        with shared(ECHO).connect() as client:
            client.send(introduction + message())
            client.expect_refusal(400)


def test_stats_count_those_that_were_closed() -> None:
    program = """
import socket
def ask(start, port):
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(start + b"GET / HTTP/1.0\\r\\n\\r\\n")
        try:
            return client.recv(12)
        except ConnectionResetError:
            return b""
for trusted, start in (("127.0.0.1", b"PROXY UNKNOWN\\r\\n"), ("127.0.0.1", b""), ("::1", b"PROXY UNKNOWN\\r\\n")):
    with bjoern.Server(app, "127.0.0.1:0", proxy_protocol=True, forwarded_allow_ips=trusted) as server:
        say(ask(start, server.addresses[0].port).decode() or "closed")
        stats = server.stats()
    say(stats["requests"], stats["bad_proxy_header"], stats["untrusted_proxy"])
"""
    with Program.of(program) as running:
        assert running.end().output.splitlines() == ["HTTP/1.1 200", "1 0 0", "closed", "0 1 0", "closed", "0 0 1"]
