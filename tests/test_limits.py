"""Limits and timeouts, with small values: what happens past each of them, never how long it takes.

Knows: the options by name.   Must not know: how they are enforced.
"""

from __future__ import annotations

import contextlib
import http.client
import select
from typing import Any

import pytest

from conftest import Observer, Serve
from server_process import ServerProcess
from wire import GUARD, Client, chunked, message

ECHO, OBSERVED = "apps.echo:app", "apps.observed:app"
SHORT = 0.3  # seconds: a timeout that the tests wait for
CHUNKED = message("POST", "/", "Transfer-Encoding: chunked")


def refuses(server: ServerProcess, wire: bytes, *statuses: int) -> None:
    with server.connect() as client:
        client.send(wire)
        client.expect_refusal(*statuses)
    assert server.ask().status == 200


# Sizes ---------------------------------------------------------------------------------------------------------------


def test_max_head(serve: Serve) -> None:
    server = serve(ECHO, max_head=1000)
    assert server.ask("GET", "/" + "a" * 900).status == 200
    assert server.ask("GET", "/", "A: " + "b" * 900).status == 200
    refuses(server, message("GET", "/" + "a" * 1000), 414)
    refuses(server, message("GET", "/", "A: " + "b" * 1000), 431)
    refuses(server, message("GET", "/", *["A: b"] * 80, "C: " + "d" * 700), 431)
    refuses(server, b"GET /" + b"a" * 2000, 414)  # without waiting for the end of a line that is too long already
    refuses(server, b"GET / HTTP/1.1\r\nA: " + b"b" * 2000, 431)
    refuses(server, b"G" * 2000, 501)  # RFC 9112 section 3: longer than any method


def test_max_head_byte_by_byte(serve: Serve) -> None:
    server = serve(ECHO, max_head=300)
    with server.connect() as client:
        for byte in message("GET", "/", "A: " + "b" * 250)[:270]:
            client.send(bytes([byte]))
        client.send(b"b" * 200)
        client.expect_refusal(431)


def test_the_default_head_holds_64_kib(shared: Serve) -> None:
    server = shared(ECHO)
    assert server.ask("GET", "/", "A: " + "b" * 65_000).status == 200
    refuses(server, message("GET", "/", "A: " + "b" * 66_000), 431)
    refuses(server, message("GET", "/" + "a" * 66_000), 414)


@pytest.mark.parametrize(("options", "most"), [({}, 100), ({"max_fields": 5}, 5)])
def test_max_fields(serve: Serve, options: dict[str, Any], most: int) -> None:
    server = serve(ECHO, **options)
    with server.connect() as client:
        assert client.ask("GET", "/", *["A: b"] * (most - 1)).status == 200  # and Host
        client.send(message("GET", "/", *["A: b"] * most))
        client.expect_refusal(431)


@pytest.mark.parametrize("spilled", [False, True])
def test_max_body(serve: Serve, spilled: bool) -> None:
    server = serve(ECHO, max_body=1000, **({"body_buffer": 10} if spilled else {}))
    with server.connect() as client:
        assert client.ask("POST", "/", body=b"x" * 1000).json()["size"] == 1000
        assert client.ask("POST", "/", chunks=[b"x" * 500] * 2).json()["size"] == 1000
    refuses(server, message("POST", "/", "Content-Length: 1001"), 413)  # before one byte of it is there
    refuses(server, message("POST", "/", "Content-Length: 1001", "Expect: 100-continue"), 413)  # and none is invited
    refuses(server, message("POST", "/", body=b"x" * 1_000_000), 413)
    refuses(server, CHUNKED + b"3e9\r\n", 413)
    refuses(server, CHUNKED + chunked(b"x" * 1000)[:-5] + b"1\r\n", 413)
    refuses(server, CHUNKED + b"1\r\nx\r\n" * 1001, 413)


def test_max_body_0_is_no_limit(serve: Serve) -> None:
    server = serve(ECHO, max_body=0)
    with server.connect() as client:
        client.send(message("POST", "/", "Content-Length: 99999999999", "Expect: 100-continue"))
        assert client.recv_exactly(12) == b"HTTP/1.1 100"
    assert server.ask("POST", "/", body=b"x" * 3_000_000).json()["size"] == 3_000_000


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_whoever_reads_only_when_all_is_sent_gets_its_413(serve: Serve, framing: str) -> None:
    """As `http.client` does; of a body that is far larger than what sockets hold."""
    server = serve(ECHO, max_body=1 << 20)
    client = http.client.HTTPConnection(*server.inet, timeout=GUARD)
    with contextlib.closing(client):
        blocks = iter([b"x" * (1 << 20)] * 60)
        fields = {"Content-Length": str(60 << 20)} if framing == "length" else {}
        client.request("POST", "/", blocks, fields, encode_chunked=framing == "chunked")
        assert client.getresponse().status == 413
    assert server.ask().status == 200


@pytest.mark.parametrize(
    "flood",
    [
        b"5;" + b"a" * 2_000_000,
        b"0" * 2_000_000,
        b"0\r\n" + b"A: b\r\n" * 300_000,
        b"0\r\nA: " + b"b" * 2_000_000,
    ],
    ids=["extension", "zeros", "trailers", "trailer"],
)
def test_chunks_without_end(serve: Serve, flood: bytes) -> None:
    """Framing that brings no content is bounded too."""
    server = serve(ECHO)
    with server.connect() as client:
        client.send(CHUNKED + flood)
        client.half_close()
        client.expect_refusal(400, 413, 431)
    assert server.ask().status == 200


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 5000])
def test_body_buffer(serve: Serve, size: int) -> None:
    """On either side of it the application sees the same; the file it may be in is nobody's business."""
    server = serve("apps.echo:raw", body_buffer=100)
    framings: list[dict[str, Any]] = [{"body": b"x" * size}, {"chunks": [b"x"] * size}]
    for framing in framings:
        with server.connect() as client:
            report = client.ask("POST", "/", **framing).json()
            assert (report["size"], report["environ"]["CONTENT_LENGTH"]) == (size, str(size))
    assert (report["types"]["wsgi.input"] == "BytesIO") == (size <= 100)


# Times ---------------------------------------------------------------------------------------------------------------


def pause(seconds: float) -> None:
    """Lets time pass: it is what a timeout is about."""
    select.select([], [], [], seconds)


def trickle(client: Client, byte: bytes) -> None:
    """Sends a byte now and then, until the server says something."""
    while not select.select([client.sock], [], [], SHORT / 5)[0]:
        client.send(byte)


@pytest.mark.parametrize("sent", [b"G", b"GET / HTTP/1.1\r\n", message()[:-1]])
def test_header_timeout(serve: Serve, sent: bytes) -> None:
    server = serve(ECHO, header_timeout=SHORT)
    with server.connect() as client:
        client.send(sent)
        client.expect_refusal(408)
    with server.connect() as client:  # also for the second request of a connection
        assert client.ask().status == 200
        client.send(sent)
        client.expect_refusal(408)
    assert server.ask().status == 200


def test_header_timeout_is_for_the_whole_head(serve: Serve) -> None:
    server = serve(ECHO, header_timeout=SHORT)
    with server.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nA: ")
        trickle(client, b"b")
        client.expect_refusal(408)


def test_a_connection_that_says_nothing_is_closed_without_a_word(serve: Serve) -> None:
    server = serve(ECHO, header_timeout=SHORT)
    with server.connect() as client:
        client.expect_close()
    assert server.ask().status == 200


@pytest.mark.parametrize(
    "sent",
    [message("POST", "/", "Content-Length: 5"), message("POST", "/", "Content-Length: 5") + b"abcd", CHUNKED + b"5"],
)
def test_body_timeout(serve: Serve, sent: bytes) -> None:
    server = serve(ECHO, body_timeout=SHORT)
    with server.connect() as client:
        client.send(sent)
        client.expect_refusal(408)
    assert server.ask().status == 200


def test_body_timeout_is_from_byte_to_byte(serve: Serve) -> None:
    """A body that comes slowly, but comes, is waited for, however long it takes as a whole."""
    server = serve(ECHO, body_timeout=2.0, header_timeout=2.0)
    with server.connect() as client:
        client.send(message("POST", "/", "Content-Length: 10"))
        for _ in range(10):
            assert not select.select([client.sock], [], [], 0.25)[0]  # together more than two seconds
            client.send(b"x")
        assert client.recv_response().json()["body"] == "x" * 10


def test_keep_alive_is_for_idle_connections(serve: Serve) -> None:
    server = serve(ECHO, keep_alive=SHORT)
    with server.connect() as client:
        assert not client.ask().closes
        client.expect_close()  # without a word
    assert server.ask().status == 200


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_keep_alive_0_is_one_request_per_connection(serve: Serve, version: str) -> None:
    server = serve(ECHO, keep_alive=0)
    with server.connect() as client:
        client.send(message("GET", "/", "Connection: keep-alive", version=version) * 2)
        assert client.recv_response().closes
        client.expect_close()


def test_write_timeout(serve: Serve, observer: Observer) -> None:
    server = serve(OBSERVED, write_timeout=SHORT)
    with server.connect(receive_buffer=4096) as client:
        client.send(message("GET", "/iterate?blocks=1000000&size=65536", observer.line))
        while observer.next() != "close":  # and it does so without a byte being read
            pass
    assert server.ask("GET", "/history").json().count("close") == 1


def test_write_timeout_of_one_large_block(serve: Serve, observer: Observer) -> None:
    server = serve(OBSERVED, write_timeout=SHORT)
    with server.connect(receive_buffer=4096) as client:
        client.send(message("GET", "/iterate?blocks=1&size=50000000&length=50000000", observer.line))
        while observer.next() != "close":
            pass


def test_write_timeout_is_from_byte_to_byte(serve: Serve) -> None:
    """A client that reads slowly, but reads, gets everything, however long it takes as a whole."""
    server = serve("apps.blocks:app", write_timeout=1.0, header_timeout=SHORT, body_timeout=SHORT)
    with server.connect(receive_buffer=65536) as client:
        client.send(message("GET", "/generator?size=12000000&block=50000&length=1"))
        client.recv_head()
        for _ in range(48):
            assert client.recv_exactly(250_000)
            pause(0.05)
        assert client.ask("GET", "/one").status == 200


def test_the_next_head_has_time_while_an_answer_is_on_its_way(serve: Serve) -> None:
    server = serve("apps.blocks:app", header_timeout=SHORT)
    wire = message("GET", "/one")
    with server.connect(receive_buffer=4096) as client:
        client.send(message("GET", "/generator?size=8000000&block=50000") + wire[:10])
        response = client.recv_head()
        pause(2 * SHORT)
        assert sum(len(block) for block in iter(lambda: client.recv_block(response), b"")) == 8_000_000
        client.expect_refusal(408)


@pytest.mark.parametrize("cut", [0, 10, -3], ids=["idle", "in the head", "in the body"])
def test_time_that_the_application_takes_is_not_the_clients(serve: Serve, observer: Observer, cut: int) -> None:
    """What came while the application held the loop has come in time, however late it is read."""
    server = serve(OBSERVED, header_timeout=SHORT, body_timeout=SHORT, keep_alive=SHORT, write_timeout=SHORT)
    wire = message("POST", "/history", body=b"hello")
    with server.connect() as holding, server.connect() as client, server.connect() as fresh:
        assert client.ask("GET", "/history").status == 200
        client.send(wire[:cut] if cut else b"")
        holding.send(message("GET", "/hold", observer.line))
        assert observer.next() == "call"
        client.send(wire[cut:])
        fresh.send(wire)
        pause(2 * SHORT)
        observer.go()
        assert holding.recv_response().body == b"held"
        assert client.recv_response().status == 200
        assert fresh.recv_response().status == 200


# Connections ---------------------------------------------------------------------------------------------------------


def test_max_connections(serve: Serve) -> None:
    """Those above the limit wait, and are served when others go."""
    server = serve(ECHO, max_connections=3)
    clients = [server.connect() for _ in range(6)]
    for number, client in enumerate(clients):
        client.send(message("GET", f"/{number}"))
    for client in clients:
        assert client.recv_response().status == 200
        client.close()
    assert server.ask().status == 200


def test_require_host_can_be_switched_off(serve: Serve) -> None:
    server = serve(ECHO, require_host=False)
    with server.connect() as client:
        assert client.ask(host=None).status == 200
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        client.expect_refusal(400)


# Rates ---------------------------------------------------------------------------------------------------------------


def test_least_rates(serve: Serve) -> None:
    """Peers that keep a connection by a byte now and then: each is told, or cut so that it sees it. All at once."""
    rates: dict[str, Any] = {"min_body_rate": 1000, "min_send_rate": 2_000_000}
    server = serve("apps.blocks:app", threads=4, body_timeout=1.2, write_timeout=1.2, **rates)
    with server.connect() as sender, contextlib.ExitStack() as stack:
        readers = [stack.enter_context(server.connect(receive_buffer=65536)) for _ in range(4)]
        for reader, kind, version in zip(readers, ["one", "generator"] * 2, ["1.0", "1.0", "1.1", "1.1"], strict=True):
            reader.send(message("GET", f"/{kind}?size=50000000&block=50000", version=version))
            reader.recv_head()
        sender.send(message("POST", "/one", "Content-Length: 100000"))
        while not select.select([sender.sock], [], [], SHORT)[0]:
            sender.send(b"x")
            for reader in readers:
                reader.sock.recv(1000)
        sender.expect_refusal(408)
        for number, reader in enumerate(readers):
            received = 0
            try:
                while data := reader.sock.recv(1 << 20):
                    received += len(data)
            except ConnectionResetError:
                pass
            else:
                assert number >= 2, "in HTTP/1.0 an orderly end is the end of the body"
            assert received < 40_000_000
    assert server.ask("GET", "/one").status == 200


def test_whoever_keeps_the_least_rate_is_served(serve: Serve) -> None:
    """For longer than a window."""
    server = serve("apps.echo:app", min_body_rate=1000, min_send_rate=1000)
    size, steps = 30_000, 24
    with server.connect() as client:
        client.send(message("POST", "/", f"Content-Length: {size}"))
        for _ in range(steps):
            client.send(b"x" * (size // steps))
            pause(0.25)
        assert client.recv_response().json()["size"] == size
