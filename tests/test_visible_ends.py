"""A client sees whether a response is whole: one that was cut never ends in order, and a whole one is sent to its end.

How it works: streams are cut in every way, while their clients read and while they do not. In HTTP/1.0 the end of the
connection is the end of the body, so the cut must be a reset; in HTTP/1.1 the last chunk is missing.
Knows: `apps.cuts`.   Must not know: which part of the server cuts.
"""

from __future__ import annotations

import contextlib
import json
import select
import signal
import socket
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from conftest import Observer, Serve
from programs import Program
from server_process import TESTS
from wire import GUARD, Client, message

APP = "apps.cuts:app"
SMALL = 4096  # bytes of a slow client's receive buffer
SHORT = 0.3  # seconds
REQUESTS = 14

PROGRAM = """
import json
from apps.cuts import app

server = bjoern.Server(app, "127.0.0.1:0", **json.loads(sys.argv[1]))
signal.signal(signal.SIGUSR1, lambda *_: server.stop(graceful=False))
say(server.addresses[0].port)
server.run()
"""

for_threads = pytest.mark.parametrize("threads", [1, 4], ids="{} threads".format)


class Cut(NamedTuple):
    """A way to cut a stream: the request, the server's options, what the test does then, whether the server ends."""

    target: str
    options: dict[str, float]
    does: Callable[[Program, Client], None] = lambda program, idle: None
    ends_server: bool = False


def send_once(number: signal.Signals) -> Callable[[Program, Client], None]:
    return lambda program, idle: program.send(number)


def send_twice(program: Program, idle: Client) -> None:
    program.send(signal.SIGTERM)
    idle.expect_close()  # the server has heard the first
    program.send(signal.SIGTERM)


ENDLESS, WRITTEN = "/stream?size=65536", "/written?size=65536"
CUTS = {
    "write_timeout": Cut(ENDLESS, {"write_timeout": SHORT}),
    "graceful_timeout": Cut(ENDLESS, {"graceful_timeout": SHORT}, send_once(signal.SIGTERM), True),
    "second signal": Cut(ENDLESS, {"graceful_timeout": 3600}, send_twice, True),
    "stop at once": Cut(ENDLESS, {}, send_once(signal.SIGUSR1), True),
    "write_timeout of write()": Cut(WRITTEN, {"write_timeout": SHORT}),
    "graceful_timeout in write()": Cut(WRITTEN, {"graceful_timeout": SHORT}, send_once(signal.SIGTERM), True),
    "stop at once in write()": Cut(WRITTEN, {}, send_once(signal.SIGUSR1), True),
    "exception": Cut("/stream?size=1000&fail=5", {}),
    "timeout": Cut("/spin", {"timeout": SHORT}),
}
# Not write_timeout while the client reads: it never passes.
WAYS = [(how, reads) for how in CUTS for reads in (True, False) if not (reads and how.startswith("write_timeout"))]
for_ways = pytest.mark.parametrize(
    ("how", "reads"), WAYS, ids=[f"{how}, {'read' if reads else 'not read'}" for how, reads in WAYS]
)


@contextlib.contextmanager
def cut(how: str, threads: int, reads: bool, observer: Observer, version: str) -> Iterator[Client]:
    """The client of a stream; the server is about to cut it if the client `reads`, else has cut it."""
    way = CUTS[how]
    options = json.dumps({**way.options, "threads": threads})
    with Program.of(PROGRAM, options, cwd=TESTS) as program:
        address = ("127.0.0.1", int(program.hear()))
        with Client(address) as idle, Client(address, None if reads else SMALL) as client:
            assert idle.ask("GET", "/sized?size=2").body == b"xx"
            client.send(message("GET", way.target, observer.line, "Connection: close", version=version))
            assert select.select([client.sock], [], [], GUARD)[0]  # the response has begun
            way.does(program, idle)
            if not reads:
                if way.ends_server:
                    program.end()
                else:
                    assert observer.next() == "close"
            yield client
            if way.ends_server:
                program.end()


def last_bytes(client: Client) -> tuple[bytes, bool]:
    """The last bytes until the end of the connection, and whether that is a reset."""
    last = bytes(client.buffer)
    try:
        while data := client.sock.recv(1 << 20):
            last = (last + data)[-100:]
    except ConnectionResetError:
        return last, True
    return last, False


@for_threads
@for_ways
def test_http_1_0_is_reset(how: str, reads: bool, threads: int, observer: Observer) -> None:
    with cut(how, threads, reads, observer, "1.0") as client:
        assert last_bytes(client)[1], "the connection ended in order, as it does after a whole body"


@for_threads
@for_ways
def test_http_1_1_misses_its_last_chunk(how: str, reads: bool, threads: int, observer: Observer) -> None:
    """The client has asked for `Connection: close`; the response is chunked nevertheless."""
    with cut(how, threads, reads, observer, "1.1") as client:
        try:
            response = client.recv_head()
        except ConnectionResetError:
            return  # it destroyed the head
        assert (response.get("Transfer-Encoding"), response.closes) == ("chunked", True)
        last, is_reset = last_bytes(client)
        assert is_reset or not last.endswith(b"0\r\n\r\n")


@for_threads
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_stream_that_is_whole_ends_in_order(serve: Serve, threads: int, version: str) -> None:
    """The client reads slowly, and the server is asked to end meanwhile."""
    server = serve(APP, threads=threads)
    with server.connect() as idle, server.connect(SMALL) as client:
        assert idle.ask("GET", "/sized?size=2").body == b"xx"
        client.send(message("GET", "/stream?size=65536&blocks=150", "Connection: close", version=version))
        response = client.recv_head()
        assert response.framing == ("close" if version == "1.0" else "chunked")
        server.process.send_signal(signal.SIGINT)
        idle.expect_close()
        response.chunks = list(iter(lambda: client.recv_block(response), b""))
        assert len(response.body) == 150 * 65536
        client.expect_close()
    assert server.wait() == 0


# Nothing that waits to be sent is thrown away ------------------------------------------------------------------------


def room(receive_buffer: int) -> int:
    """How many bytes the sockets of a connection hold while the client reads nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener, Client(listener.getsockname(), receive_buffer):
        connection, _ = listener.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setblocking(False)
            sent = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    sent += connection.send(b"x" * 65536)
            return sent


@for_threads
def test_all_answers_reach_a_client_that_has_ended_its_sending_side(serve: Serve, threads: int) -> None:
    """The server reads the requests and the end at once; others wait behind; the sockets do not hold all answers.

    In each of ten trials the first answer leaves a little less room for the others.
    """
    server = serve(APP, threads=threads)
    for trial in range(10):
        with contextlib.ExitStack() as stack:
            client, *others = [stack.enter_context(server.connect(SMALL)) for _ in range(4)]
            for one in (client, *others):
                assert one.ask("GET", "/sized?size=2").body == b"xx"
            # While all threads are in the application, everything arrives.
            holders = [stack.enter_context(contextlib.closing(Observer())) for _ in range(threads)]
            held = [stack.enter_context(server.connect()) for _ in range(threads)]
            for holder, one in zip(holders, held, strict=True):
                one.send(message("GET", "/hold", holder.line))
                assert holder.next() == "call"
            first = room(SMALL) - 2500 * (trial + 1)
            sizes = [first, *[2000] * (REQUESTS - 1)]
            client.send(b"".join(message("GET", f"/sized?size={size}") for size in sizes))
            client.half_close()
            for one in others:
                one.send(message("GET", "/sized?size=2"))
            for holder in holders:
                holder.go()
            for one in held:
                assert one.recv_response().body == b"held"
            for one in others:
                assert one.recv_response().body == b"xx"
            assert [len(client.recv_response().body) for _ in sizes] == sizes
            client.expect_close()
