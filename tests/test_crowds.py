"""Many connections at once, and none: slow ones, too many, no descriptors or disk left, nothing to do.

Each test serves in this process, so that the server's own counters can be asked.
"""

from __future__ import annotations

import contextlib
import http.client
import resource
import select
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

import pytest

import bjoern

SLOW_CLIENTS = 2000
GUARD = 60.0  # seconds: a test that hangs ends
SEVERAL_LOOPS = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))  # see docs/concurrency.md


def hello(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def get(server: bjoern.Server) -> bytes:
    """One request on a connection of its own."""
    host, port = server.addresses[0]
    client = http.client.HTTPConnection(host, int(port), timeout=GUARD)
    with contextlib.closing(client):
        client.request("GET", "/")
        return client.getresponse().read()


def connect(server: bjoern.Server) -> socket.socket:
    host, port = server.addresses[0]
    return socket.create_connection((host, int(port)), timeout=GUARD)


@pytest.fixture
def many_files() -> Iterator[None]:
    """As many descriptors as this test needs, both ends of a connection being in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * SLOW_CLIENTS + 500
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"needs {needed} descriptors, and the hard limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_two_thousand_slow_clients_cost_the_others_nothing(many_files: None) -> None:
    """They send a byte a second; others are served meanwhile; after `header_timeout` all of them are gone."""
    request = b"GET / HTTP/1.1\r\nHost: slow.example\r\n\r\n"
    with bjoern.Server(hello, "127.0.0.1:0", header_timeout=4.0, max_connections=SLOW_CLIENTS + 100) as server:
        slow = [connect(server) for _ in range(SLOW_CLIENTS)]
        told: dict[socket.socket, bytes] = {}
        pulse = threading.Event()
        try:
            for byte in request:  # far longer than the timeout, at this pace
                for client in slow:
                    if client not in told:
                        with contextlib.suppress(OSError):
                            client.sendall(bytes([byte]))
                assert [get(server) for _ in range(20)] == [b"hello"] * 20
                poll = select.poll()
                waiting = {client.fileno(): client for client in slow if client not in told}
                for descriptor in waiting:
                    poll.register(descriptor, select.POLLIN)
                for descriptor, _ in poll.poll(0):
                    told[waiting[descriptor]] = waiting[descriptor].recv(1000)
                if len(told) == SLOW_CLIENTS:
                    break
                pulse.wait(1.0)  # the pace of the slow clients
        finally:
            for client in slow:
                client.close()
        assert len(told) == SLOW_CLIENTS, "all are gone before they could finish"
        assert {answer[:12] for answer in told.values()} == {b"HTTP/1.1 408"}
        assert server.stats()["header_timeout"] == SLOW_CLIENTS
        assert get(server) == b"hello"


def test_past_max_connections_others_wait_and_are_served_when_one_ends() -> None:
    with bjoern.Server(hello, "127.0.0.1:0", max_connections=3) as server:
        held = [connect(server) for _ in range(3)]
        for client in held:
            client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\nGET / HT")  # and half a request
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
        waiting = connect(server)
        waiting.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert server.stats()["connections"] == 3
        assert not select.select([waiting], [], [], 0.2)[0], "it waits in the queue"
        held.pop().close()
        assert waiting.recv(1000).startswith(b"HTTP/1.1 200")
        assert (server.stats()["connections"], server.stats()["gave_way"]) == (4, 0)
        for client in [*held, waiting]:
            client.close()


@pytest.mark.parametrize(
    "threads", [1, pytest.param(4, marks=pytest.mark.skipif(SEVERAL_LOOPS, reason="each loop has a share: see below"))]
)
def test_past_max_connections_the_longest_idle_one_gives_way(threads: int) -> None:
    request = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
    with bjoern.Server(hello, "127.0.0.1:0", max_connections=3, threads=threads) as server:
        clients = [connect(server) for _ in range(3)]
        for client in [*clients, clients[0]]:  # the second has been idle for longest now
            client.sendall(request)
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
            select.select([], [], [], 0.05)
        fresh = connect(server)
        fresh.sendall(request)
        assert fresh.recv(1000).startswith(b"HTTP/1.1 200")
        assert clients[1].recv(1000) == b""
        for client in [clients[0], clients[2], fresh]:
            client.sendall(request)
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
        assert server.stats()["gave_way"] == 1
        for client in [*clients, fresh]:
            client.close()


@pytest.mark.skipif(not SEVERAL_LOOPS, reason="with a GIL the threads have one loop")
def test_past_its_share_of_max_connections_a_loop_closes_one_that_is_idle() -> None:
    """Whichever loop a new connection comes to: it is served at once, and all loops together stay below the maximum."""
    with bjoern.Server(hello, "127.0.0.1:0", max_connections=8, threads=4) as server:
        clients = []
        for _ in range(30):
            clients.append(connect(server))
            clients[-1].sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert clients[-1].recv(1000).startswith(b"HTTP/1.1 200")
        stats = server.stats()
        assert stats["open"] <= 8
        assert stats["gave_way"] == 30 - stats["open"]
        for client in clients:
            client.close()


def test_uploads_do_not_take_the_descriptors_of_accept() -> None:
    """Where `max_connections` is what open files allow, those of bodies count: so accept never fails."""
    code = """
import bjoern, resource
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
def app(environ, start_response):
    size = len(environ["wsgi.input"].read())
    start_response("200 OK", [])
    return [b"%d" % size]
server = bjoern.Server(app, "127.0.0.1:0", body_buffer=10)
try:
    server.run(ready=lambda: print(server.addresses[0].port, flush=True))
except KeyboardInterrupt:
    stats = server.stats()
    print(stats["accept_errors"], stats["storage_unavailable"], stats["failed"])
"""
    head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n"
    with subprocess.Popen([sys.executable, "-c", code], stdout=PIPE, stderr=DEVNULL, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        clients = [socket.create_connection(("127.0.0.1", port), timeout=GUARD) for _ in range(120)]
        for client in clients:
            client.sendall(head)
        for client in clients:
            select.select([], [], [], 0.002)
            client.sendall(b"x" * 99)
        answers = []
        for client in clients:
            client.sendall(b"x")
            answers.append(client.recv(1000)[9:12])
            client.close()
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "0 0 0\n"
    assert set(answers) <= {b"200", b"503"}
    assert answers.count(b"200") >= 8, "those who have their files"


def test_out_of_descriptors_it_rests_and_recovers() -> None:
    """EMFILE on accept: those who are connected are served, the others when descriptors are free again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with bjoern.Server(hello, "127.0.0.1:0", max_connections=10_000) as server:
        early = connect(server)
        early.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert early.recv(1000).startswith(b"HTTP/1.1 200")
        late = socket.socket()
        late.settimeout(GUARD)
        fillers: list[socket.socket] = []
        try:
            # No descriptor above the last, and none free below it: accept(2) fails, while what is open goes on.
            resource.setrlimit(resource.RLIMIT_NOFILE, (late.fileno() + 1, hard))
            with contextlib.suppress(OSError):
                while True:
                    fillers.append(socket.socket())
            host, port = server.addresses[0]
            late.connect((host, int(port)))
            late.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            while not server.stats()["accept_errors"]:
                assert not select.select([late], [], [], 0.05)[0]
            early.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert early.recv(1000).startswith(b"HTTP/1.1 200")
            before = server.stats()["accept_errors"]
            assert not select.select([late], [], [], 0.5)[0], "it waits in the queue"
            assert server.stats()["accept_errors"] - before < 50, "a loop that spins fails thousands of times"
        finally:
            for filler in fillers:
                filler.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert late.recv(1000).startswith(b"HTTP/1.1 200")
        early.close()
        late.close()


def test_a_body_that_cannot_be_stored_is_answered_503(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is not the client's fault, and no reason to end: RFC 9110 section 15.6.4."""
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    with bjoern.Server(hello, "127.0.0.1:0", body_buffer=10) as server:
        with contextlib.closing(connect(server)) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 100\r\n\r\n")
            assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.sendall(b"x" * 100)
            assert client.recv(1000).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert server.stats()["storage_unavailable"] == 1
        assert get(server) == b"hello"


def test_an_idle_server_does_not_wake_up_and_lets_other_threads_run() -> None:
    """With an idle connection too: nothing is polled for, and the interpreter is not held while it waits."""
    code = """
import bjoern, threading
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"hello"]
server = bjoern.Server(app, "127.0.0.1:0")
def count():
    for _ in range(100_000):
        pass
    print("counted", flush=True)
threading.Thread(target=lambda: (input(), count()), daemon=True).start()
server.run(ready=lambda: print(server.addresses[0].port, flush=True))
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=PIPE, stdout=PIPE, stderr=DEVNULL, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        port = int(process.stdout.readline())
        with contextlib.closing(socket.create_connection(("127.0.0.1", port), timeout=GUARD)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
            status = Path(f"/proc/{process.pid}/task/{process.pid}/status")
            if status.exists():  # Linux
                switches = settled(status)
                select.select([], [], [], 1.0)  # long enough for ten looks a second, as bjoern 3 had them
                assert waits(status) == switches
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "counted\n", "while the server waits, the interpreter is free"
        process.send_signal(signal.SIGINT)


def settled(status: Path) -> str:
    """How often it has, once that stays as it is: the answer comes before the server is back at its wait."""
    before, now = "", waits(status)
    deadline = time.monotonic() + GUARD
    while before != now:
        assert time.monotonic() < deadline, "the server goes on waking up"
        select.select([], [], [], 0.05)
        before, now = now, waits(status)
    return now


def waits(status: Path) -> str:
    """How often the main thread has gone to sleep so far."""
    return next(line for line in status.read_text().splitlines() if line.startswith("voluntary_ctxt_switches"))
