"""A request has one thread and one context, from the call to `close()`; `threads` limits how many run at the same time.

How it works: the applications record the thread and the context of each step, and count themselves. Some clients read
slowly, or nothing; others make quick requests meanwhile.
Knows: `apps.ownership`.   Must not know: how the server divides requests among its threads.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import bjoern
from apps.blocks import pattern
from apps.ownership import STREAMS, WHOLE
from apps.ownership import app as application
from conftest import Calls, Observer, Serve
from crowd import Crowd
from server_process import TESTS, ServerProcess
from services import Service, until
from wire import Client, Closed, message

APP = "apps.ownership:app"
BODY = b"x" * 5000  # a request's body that SPOOLING puts into a file
SPOOLING = {"body_buffer": 1000}
SMALL = 4096  # bytes of a slow client's receive buffer
LARGE = 8_000_000  # bytes; more than the sockets of a connection hold
SHORT = 0.1  # seconds; what overruns it takes five seconds

CLOSING = {"file", "closing_bytes", "length", "length_of_two"}  # the kinds of WHOLE that have a close()

for_threads = pytest.mark.parametrize("threads", [1, 4], ids="{} threads".format)


def beside(server: ServerProcess, path: str = "/quick", size: int = 2) -> Crowd:
    """Clients that make quick requests one after the other."""
    return Crowd(server.inet[1], size, message("GET", path))


def steps_of(server: ServerProcess, number: int, last: str) -> list[Any]:
    """The steps of a request, once the one called `last` is among them."""
    found: list[Any] = []

    def is_over() -> bool:
        found[:] = server.ask("GET", f"/steps?id={number}").json()
        return last in [name for name, _, _ in found]

    until(is_over)
    return found


# One thread, one context ---------------------------------------------------------------------------------------------


@for_threads
@pytest.mark.parametrize("pace", ["quick", "slow"])
@pytest.mark.parametrize("kind", [*STREAMS, *WHOLE])
def test_every_step_is_in_one_thread_and_one_context(serve: Serve, threads: int, kind: str, pace: str) -> None:
    server = serve(APP, threads=threads, **SPOOLING)
    stream = kind in STREAMS
    size, blocks = (100_000, 100) if stream else (10_000_000, 1)
    with beside(server) as others, server.connect(SMALL if pace == "slow" else None) as client:
        client.send(message("POST", f"/{kind}?id=1&size={size}&blocks={blocks}", body=BODY))
        response = client.recv_head()
        assert response.status == 200
        received = 0
        if response.framing == "length":
            received = len(client.recv_exactly(size))
        else:
            while block := client.recv_block(response):
                received += len(block)
                if pace == "slow":
                    others.wait_for(1)
        assert received == size * blocks
        steps = steps_of(server, 1, "input")
    check(steps)
    names = [name for name, _, _ in steps]
    assert names[0] == "call"
    if stream:
        assert blocks - 1 <= names.count("next") <= blocks + 1  # the first by write(), or a last one without a block
    closes = stream or kind in CLOSING
    assert sorted(names[-2:] if closes else names[1:]) == (["close", "input"] if closes else ["input"])
    assert names.count("close") == (1 if closes else 0)


def check(steps: list[Any]) -> None:
    """All in one thread, and each has seen those before it."""
    assert len({thread for _, thread, _ in steps}) == 1, steps
    assert [seen for _, _, seen in steps] == list(range(1, len(steps) + 1)), steps


@for_threads
@pytest.mark.parametrize("kind", ["iterator", "app_class", "writing_class"])
def test_a_response_may_begin_in_iter(serve: Serve, threads: int, kind: str) -> None:
    """As in PEP 3333's own example. The connection is kept."""
    server = serve(APP, threads=threads)
    with server.connect() as client:
        for number in range(3):
            response = client.ask("GET", f"/{kind}?id={number}&size=10&blocks=3")
            assert (response.status, response.body) == (200, b"x" * 30)
            assert client.ask("GET", "/quick").status == 200


@for_threads
@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_whose_client_goes_is_closed_in_its_thread_and_context(serve: Serve, threads: int, kind: str) -> None:
    server = serve(APP, threads=threads, **SPOOLING)
    with beside(server) as others:
        for number in range(5):
            client = server.connect(SMALL)
            client.send(message("POST", f"/{kind}?id={number}&size=100000&blocks=1000000", body=BODY))
            client.recv_block(client.recv_head())
            others.wait_for(10)
            client.reset()
            steps = steps_of(server, number, "input")
            assert {name for name, _, _ in steps[-2:]} == {"close", "input"}
            check(steps)


@for_threads
@pytest.mark.parametrize("kind", WHOLE)
def test_a_whole_response_is_over_though_its_client_reads_nothing(
    serve: Serve, observer: Observer, threads: int, kind: str
) -> None:
    server = serve(APP, threads=threads, **SPOOLING)
    wanted = {"call", "input"} | ({"close"} if kind in CLOSING else set())
    with server.connect(SMALL) as client:
        client.send(message("POST", f"/{kind}?id=1&size={LARGE}", observer.line, body=BODY))
        told: dict[str, str] = {}
        while told.keys() != wanted:
            step, thread = observer.next().split()
            told[step] = thread
        assert len({*told.values()}) == 1
        assert client.recv_response().body == pattern(LARGE)  # only now the client reads


# How many at the same time -------------------------------------------------------------------------------------------


@for_threads
def test_no_more_run_application_code_than_there_are_threads(serve: Serve, threads: int) -> None:
    """Streams to quick and slow clients, and quick requests. Some sleep in the application: others could run then."""
    server = serve(APP, threads=threads)

    def read(number: int) -> int:
        with server.connect(SMALL if number % 2 else None) as client:
            client.send(message("GET", "/counted?blocks=200&size=30000"))
            response, size = client.recv_head(), 0
            while block := client.recv_block(response):
                size += len(block)
            return size

    with beside(server, "/brief", 4), ThreadPoolExecutor(12) as clients:
        assert list(clients.map(read, range(24))) == [200 * 30_000] * 24
    told = server.ask("GET", "/most").json()
    assert told["multithread"] == (threads > 1)
    assert told["most"] <= threads


@for_threads
def test_streams_that_wait_for_their_clients_do_not_count(serve: Serve, threads: int) -> None:
    """As many requests as there are threads meet in the application, while more streams than that wait."""
    server = serve(APP, threads=threads)
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(server.connect(SMALL)) for _ in range(12)]
        for client in streams:
            client.send(message("GET", "/counted?blocks=100&size=100000"))
        heads = [client.recv_head() for client in streams]
        for _ in range(3):
            parties = [stack.enter_context(server.connect()) for _ in range(threads)]
            for client in parties:
                client.send(message("GET", f"/meet?parties={threads}"))
            assert [client.recv_response().body for client in parties] == [b"met"] * threads
        for client, head in zip(streams, heads, strict=True):
            assert sum(map(len, iter(lambda c=client, h=head: c.recv_block(h), b""))) == 10_000_000  # type: ignore[misc]
    told = server.ask("GET", "/most").json()
    assert told["most"] <= threads
    assert told["most"] == threads or threads == 1


# Streams that never end ----------------------------------------------------------------------------------------------


def blocks_of(server: ServerProcess) -> Any:
    return server.ask("GET", "/blocks").json()


class Viewer:
    """A client that reads an endless stream, in a thread of the test."""

    def __init__(self, server: ServerProcess, target: str) -> None:
        self.client, self.over = server.connect(), threading.Event()
        self.client.send(message("GET", target))
        self.thread = threading.Thread(target=self.read)
        self.size, self.news = 0, threading.Condition()

    def read(self) -> None:
        with contextlib.suppress(ConnectionResetError):  # by a server that ends
            while not self.over.is_set() and (data := self.client.sock.recv(65536)):
                with self.news:
                    self.size += len(data)
                    self.news.notify_all()

    def wait_for(self, more: int) -> None:
        """Until the client has received so many more bytes."""
        with self.news:
            wanted = self.size + more
            assert self.news.wait_for(lambda: self.size >= wanted, 30), "the stream does not go on"

    def __enter__(self) -> Viewer:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.client.sock.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.client.reset()


@for_threads
@pytest.mark.parametrize("kind", ["endless", "endless_generator"])
@pytest.mark.parametrize("reads", [True, False], ids=["read", "not read"])
def test_others_are_served_beside_an_endless_stream(serve: Serve, threads: int, kind: str, reads: bool) -> None:
    server = serve(APP, threads=threads)
    target = f"/{kind}?id=it&size=10000"
    with contextlib.ExitStack() as stack:
        if reads:
            stack.enter_context(Viewer(server, target)).wait_for(1)
        else:
            client = stack.enter_context(server.connect(SMALL))
            client.send(message("GET", target))
            client.recv_head()
        with server.connect() as kept:
            for _ in range(50):
                assert kept.ask("GET", "/quick").status == 200
                assert server.ask("GET", "/quick").status == 200
    until(lambda: blocks_of(server)["closed"].get("it") is not None)


@for_threads
def test_streams_with_slow_blocks_and_other_requests_take_turns(serve: Serve, threads: int) -> None:
    """Two cameras, 33 ms a block. Other requests are answered between their blocks, and both streams go on."""
    server = serve(APP, threads=threads)
    with Viewer(server, "/endless?id=a&pause=33") as one, Viewer(server, "/endless?id=b&pause=33") as other:
        one.wait_for(3000)
        other.wait_for(3000)
        before = sum(blocks_of(server)["given"].values())
        for _ in range(10):
            assert server.ask("GET", "/quick").status == 200
        # A turn for each makes two or three blocks a request. The bound leaves room for a test that is slow to ask.
        assert sum(blocks_of(server)["given"].values()) - before < 11 * 15
        one.wait_for(3000)
        other.wait_for(3000)
        with beside(server, size=4) as others:  # clients that ask without pause leave the streams their turns
            one.wait_for(10_000)
            other.wait_for(10_000)
            others.wait_for(50)


@for_threads
@pytest.mark.parametrize(("kind", "end"), [("endless", "close"), ("endless_generator", "GeneratorExit")])
def test_an_endless_stream_that_is_not_read_ends_with_write_timeout(
    serve: Serve, threads: int, kind: str, end: str
) -> None:
    """The stream is closed, has been asked for few blocks, and the thread is given back, again and again."""
    server = serve(APP, threads=threads, write_timeout=1)
    tasks = []
    for wave in range(3):
        names = [f"{wave}.{number}" for number in range(6)]
        with contextlib.ExitStack() as stack:
            for name in names:
                client = stack.enter_context(server.connect(SMALL))
                client.send(message("GET", f"/{kind}?id={name}&size=50000"))
                client.recv_head()
            with server.connect() as kept:
                until(lambda: kept.ask("GET", "/blocks").json()["closed"].keys() >= {*names})  # noqa: B023
                tasks.append(len(list(Path(f"/proc/{server.pid}/task").iterdir())))
                for _ in range(20):
                    assert kept.ask("GET", "/quick").status == 200
        told = blocks_of(server)
        assert {told["closed"][name] for name in names} == {end}
        assert max(told["given"][name] for name in names) * 50_000 < 16_000_000
    assert tasks[2] - tasks[0] < 6, tasks  # fewer than the streams of one wave


# Deadlines -----------------------------------------------------------------------------------------------------------


def ends_of(server: ServerProcess, count: int) -> list[str]:
    """How the calls that take seconds have ended, once so many have."""
    found: list[str] = []

    def are_over() -> bool:
        found[:] = server.ask("GET", "/ends").json()
        return len(found) >= count

    until(are_over)
    return found


@for_threads
def test_timeout_is_for_iter_too(serve: Serve, threads: int) -> None:
    server = serve(APP, timeout=SHORT, threads=threads)
    for number in range(1, 4):
        response = server.ask("GET", "/spin_in?where=iter")
        assert (response.status, response.get("Retry-After"), response.closes) == (503, "1", True)
        assert ends_of(server, number) == ["iter RequestTimeout"] * number
    assert "in __iter__\n" in server.wait_stderr("longer than timeout=")
    assert server.stderr().count("longer than timeout=") == 3


@for_threads
@pytest.mark.parametrize(("where", "status"), [("iter", 503), ("close", 200)])
def test_what_took_too_long_is_counted_once(
    capfd: pytest.CaptureFixture[str], threads: int, where: str, status: int
) -> None:
    with bjoern.Server(application, "127.0.0.1:0", timeout=SHORT, threads=threads) as server:
        for number in range(1, 4):
            with Client(server.addresses[0]) as client:  # type: ignore[arg-type]
                response = client.ask("GET", f"/spin_in?where={where}")
                body = b"blockblock" if status == 200 else b"503 Service Unavailable\n"
                assert (response.status, response.body) == (status, body)
            with Client(server.addresses[0]) as client:  # type: ignore[arg-type]
                assert client.ask("GET", "/quick").status == 200
                until(lambda: server.stats()["timed_out"] >= number)  # noqa: B023
    assert [server.stats()[name] for name in ("timed_out", "failed", "open")] == [3, 0, 0]
    assert capfd.readouterr().err.count("longer than timeout=") == 3


@for_threads
def test_a_close_that_takes_too_long_is_interrupted(serve: Serve, threads: int) -> None:
    server = serve(APP, timeout=SHORT, threads=threads)
    for number in range(1, 3):
        with server.connect() as client:
            client.send(message("GET", "/spin_in?where=close"))
            assert client.recv_response().body == b"blockblock"  # before close() begins
            assert ends_of(server, number) == ["close RequestTimeout"] * number
    assert "in close\n" in server.wait_stderr("longer than timeout=")


@for_threads
def test_slow_request_is_for_iter_too(serve: Serve, calls: Calls, threads: int) -> None:
    server = serve(APP, slow_request=SHORT, threads=threads)
    with server.connect() as client:
        client.send(message("GET", "/gated_iter?a=b", calls.line))
        call = calls.at("iter")
        log = server.wait_stderr("longer than slow_request=")
        call.go()
        assert client.recv_response().body == b"gone on"
    assert "in __iter__\n" in log
    assert "GET /gated_iter?a=b has been running for " in log
    assert server.stderr().count("longer than slow_request=") == 1


@for_threads
def test_a_stream_that_waits_is_not_timed(serve: Serve, threads: int) -> None:
    """Neither while it waits for its client, nor while it waits for its turn."""
    server = serve(APP, timeout=5 * SHORT, slow_request=3 * SHORT, threads=threads)
    with server.connect(SMALL) as client:
        client.send(message("GET", "/generator?id=1&size=100000&blocks=100"))
        response = client.recv_head()
        received = len(client.recv_block(response))
        assert server.ask("GET", "/spin?1").status == 503  # meanwhile `timeout` has passed
        with server.connect() as other:
            other.send(message("GET", "/spin?2"))
            while block := client.recv_block(response):
                received += len(block)
            assert other.recv_response().status == 503
    assert received == 10_000_000
    assert ends_of(server, 2) == ["call RequestTimeout"] * 2
    log = server.wait_stderr("/spin?2 has been running")
    assert "/generator" not in log
    assert log.count("longer than timeout=") == 2


def test_worker_timeout_does_not_count_the_time_of_a_client() -> None:
    """A slow client keeps `write()` waiting for three times as long, and takes a little all the time."""
    arguments = ["-b", "127.0.0.1:0", "-w", "1", "--worker-timeout", "1s", APP]
    with Service(*arguments, cwd=TESTS) as service:
        worker = int(service.get("/quick"))
        host, _, port = service.address.removeprefix("http://").rpartition(":")
        with Client((host, int(port)), SMALL) as client:
            client.send(message("GET", f"/written?size={LARGE}"))
            response = client.recv_head()
            assert response.get("X-Process") == str(worker)
            end = time.monotonic() + 3
            while time.monotonic() < end:
                client.buffer += client.sock.recv(SMALL)
                time.sleep(0.02)
            response.chunks = list(iter(lambda: client.recv_block(response), b""))
            assert response.body == pattern(LARGE)
        assert int(service.get("/quick")) == worker
        service.stop()
        assert service.lines[1:] == []


@for_threads
def test_signals_do_not_switch_write_timeout_off(serve: Serve, observer: Observer, threads: int) -> None:
    server = serve(APP, threads=threads, write_timeout=1)
    over = threading.Event()

    def send_signals() -> None:
        while not over.wait(0.2):  # more often than once a second
            server.process.send_signal(signal.SIGUSR1)

    sender = threading.Thread(target=send_signals)
    with server.connect(SMALL) as client:
        client.send(message("GET", f"/written?size={LARGE}", observer.line))
        client.recv_head()
        sender.start()
        try:
            assert observer.next() == "TimeoutError"
        finally:
            over.set()
            sender.join()
    assert server.ask("GET", "/quick").status == 200


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="a new thread never has its creator's number there")
@for_threads
def test_an_interruption_does_not_meet_a_thread_that_the_call_starts(serve: Serve, threads: int) -> None:
    """Such a thread would leave its creator waiting for it for ever."""
    server = serve(APP, threads=threads, timeout=SHORT / 2)
    for number in range(60 // threads):
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(server.connect()) for _ in range(threads)]
            for client in clients:
                client.send(message("GET", "/starts_threads"))
            assert [client.recv_response().status for client in clients] == [503] * threads
        assert len(ends_of(server, (number + 1) * threads)) == (number + 1) * threads
    server.wait_stderr("longer than timeout=")


# What goes wrong in the middle of a stream ---------------------------------------------------------------------------


@contextlib.contextmanager
def slow_streams(server: ServerProcess) -> Iterator[None]:
    """Three slow clients have begun to read streams; at the end they have them whole."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.connect(SMALL)) for _ in range(3)]
        for number, client in enumerate(clients):
            client.send(message("GET", f"/generator?id={number}&size=100000&blocks=100"))
        heads = [client.recv_head() for client in clients]
        yield
        for client, head in zip(clients, heads, strict=True):
            assert sum(map(len, iter(lambda c=client, h=head: c.recv_block(h), b""))) == 10_000_000  # type: ignore[misc]


@for_threads
def test_a_stream_that_raises_harms_no_other(serve: Serve, threads: int) -> None:
    server = serve(APP, threads=threads)
    with slow_streams(server):
        for _ in range(5):
            with server.connect() as client:
                client.send(message("GET", "/raises"))
                response = client.recv_head()
                assert client.recv_block(response) == b"first"
                with pytest.raises(Closed):
                    client.recv_block(response)
            assert server.ask("GET", "/quick").status == 200
    server.wait_stderr("ValueError: on purpose")


@for_threads
def test_a_stream_that_exits_ends_the_server_after_the_others(serve: Serve, threads: int) -> None:
    server = serve(APP, threads=threads)
    with slow_streams(server), server.connect() as client:
        client.send(message("GET", "/exits"))
        response = client.recv_head()
        assert client.recv_block(response) == b"first"
        with pytest.raises(Closed):
            client.recv_block(response)
    assert server.wait() == 7


@for_threads
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="open files are listed in /proc")
def test_a_stream_that_closes_its_own_socket_harms_no_other(serve: Serve, threads: int) -> None:
    server = serve(APP, threads=threads)
    with server.connect() as kept, slow_streams(server), server.connect() as client:
        assert kept.ask("GET", "/quick").status == 200
        client.send(message("GET", "/closes_its_socket?id=it"))
        wire, _ = client.recv_until_end()
        assert b"third" not in wire
        # Not on new connections, which might get the number of the descriptor.
        until(lambda: kept.ask("GET", "/blocks").json()["closed"].get("it") == "close")
        for _ in range(20):
            assert kept.ask("GET", "/quick").status == 200


def test_streams_that_ask_their_own_server(serve: Serve) -> None:
    """Three of four threads ask at the same time, and the fourth answers, block by block."""
    server = serve(APP, threads=4)

    def read(number: int) -> bytes:
        with server.connect(SMALL if number % 2 else None) as client:
            return client.ask("GET", "/asks_its_server?blocks=30").body

    with ThreadPoolExecutor(3) as clients:
        assert set(clients.map(read, range(9))) == {b"%d\n" % server.pid * 30}
