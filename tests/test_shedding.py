"""`max_queue`: requests that would have to wait for a thread.

How it works: calls of `apps.gated` keep all threads; others come meanwhile, and wait, or are refused, or leave.
Knows: what clients see.   Must not know: who reads requests while all threads are out.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from typing import Any

import pytest

import bjoern
from conftest import Calls, Serve
from server_process import ServerProcess
from wire import GUARD, Client, message

APP = "apps.gated:app"
QUEUE = 3


class Busy:
    """A server all of whose threads are in the application."""

    def __init__(self, serve: Serve, calls: Calls, threads: int, **options: int) -> None:
        self.server: ServerProcess = serve(APP, threads=threads, **options)
        self.clients = [self.server.connect() for _ in range(threads)]
        for number, client in enumerate(self.clients):
            client.send(message("GET", f"/called?id={number}", calls.line))
        self.gates = [calls.at(f"call {number}") for number in range(threads)]

    def go(self) -> None:
        for gate, client in zip(self.gates, self.clients, strict=True):
            gate.go()
            assert client.recv_response().status == 200
            client.close()


def ask_quick(server: ServerProcess, number: int) -> Client:
    client = server.connect()
    client.send(message("GET", f"/quick?id={number}"))
    return client


def is_refused(client: Client) -> None:
    client.expect_refusal(503)
    client.close()


def is_served(client: Client, number: int) -> None:
    assert client.recv_response().json()["id"] == str(number)
    client.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_so_many_wait_and_the_rest_is_refused_at_once(serve: Serve, calls: Calls, threads: int) -> None:
    busy = Busy(serve, calls, threads, max_queue=QUEUE)
    clients = [ask_quick(busy.server, number) for number in range(QUEUE + 4)]
    # Those that come first wait; they come one after the other, but are not looked at one by one.
    answered = 0
    waiting: list[tuple[int, Client]] = []
    late = ask_quick(busy.server, 100)
    is_refused(late)  # behind it all others have been looked at
    for number, client in enumerate(clients):
        client.sock.settimeout(0.0)
        try:
            there = bool(client.sock.recv(1, 2))  # MSG_PEEK
        except BlockingIOError:
            there = False
        client.sock.settimeout(30.0)
        if there:
            is_refused(client)
            answered += 1
        else:
            waiting.append((number, client))
    assert (answered, len(waiting)) == (4, QUEUE)
    busy.go()
    for number, client in waiting:
        is_served(client, number)


def test_a_connection_that_is_kept_waits_too(serve: Serve, calls: Calls) -> None:
    server = serve(APP, threads=1, max_queue=1)
    kept = server.connect()
    kept.send(message("GET", "/quick?id=1"))
    assert kept.recv_response().status == 200
    first = server.connect()
    first.send(message("GET", "/called?id=0", calls.line))
    gate = calls.at("call 0")
    kept.send(message("GET", "/quick?id=2"))
    while (refused := ask_quick(server, 3)) and refused.recv_response().status != 503:
        refused.close()
    gate.go()
    is_served(kept, 2)
    assert first.recv_response().status == 200
    for client in (first, refused):
        client.close()


@pytest.mark.parametrize("chunked", [False, True])
def test_uploads_are_taken_in_while_they_wait(serve: Serve, calls: Calls, chunked: bool) -> None:
    busy = Busy(serve, calls, 1, max_queue=1)
    body = b"u" * 30_000_000  # more than the sockets' buffers hold: who has sent it knows that it is being received
    upload = busy.server.connect()
    if chunked:
        upload.send(message("POST", "/upload?id=7", calls.line, chunks=[body[:100], body[100:]]))
    else:
        upload.send(message("POST", "/upload?id=7", calls.line, body=body))
    busy.go()
    calls.at("upload 7").go()
    assert upload.recv_response().body == hashlib.sha256(body).hexdigest().encode()
    upload.close()


def test_who_has_gone_is_not_served_and_leaves_its_place(serve: Serve, calls: Calls) -> None:
    busy = Busy(serve, calls, 1, max_queue=1)
    for number in range(8, 12):
        gone = busy.server.connect()
        gone.send(message("GET", f"/called?id={number}", calls.line))  # would be heard of
        is_refused(ask_quick(busy.server, 1))  # behind it: so it waits
        gone.half_close()  # taken for leaving, while it waits
        gone.expect_close()
        gone.close()
    waits = ask_quick(busy.server, 2)
    is_refused(ask_quick(busy.server, 3))
    busy.go()
    is_served(waits, 2)
    assert not calls.has_news()


def test_0_is_no_limit(serve: Serve, calls: Calls) -> None:
    busy = Busy(serve, calls, 2)
    clients = [ask_quick(busy.server, number) for number in range(50)]
    busy.go()
    for number, client in enumerate(clients):
        is_served(client, number)


def test_nothing_is_refused_while_a_thread_is_free(serve: Serve, calls: Calls) -> None:
    server = serve(APP, threads=2, max_queue=1)
    with server.connect() as client, server.connect() as other:
        client.send(message("GET", "/called?id=0", calls.line))
        gate = calls.at("call 0")
        for number in range(200):
            assert other.ask("GET", f"/quick?id={number}").json()["id"] == str(number)
        gate.go()
        assert client.recv_response().status == 200


@pytest.mark.parametrize("threads", [1, 2])
def test_what_waited_in_vain_is_counted(threads: int) -> None:
    """Also who resets the connection while its request waits."""
    gate, entered = threading.Event(), threading.Semaphore(0)

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        entered.release()
        gate.wait()
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    def wait_for(name: str, count: int) -> None:
        end = time.monotonic() + GUARD
        while server.stats()[name] != count:
            assert time.monotonic() < end, server.stats()

    with bjoern.Server(app, "127.0.0.1:0", threads=threads, max_queue=2) as server, contextlib.ExitStack() as stack:

        def ask() -> Client:
            client = stack.enter_context(Client(server.addresses[0]))  # type: ignore[arg-type]
            client.send(message())
            return client

        busy = [ask() for _ in range(threads)]
        assert all(entered.acquire(timeout=GUARD) for _ in busy)
        waiting = []
        for number in range(3):
            waiting.append(ask())
            wait_for("connections", threads + number + 1)
        is_refused(waiting.pop())
        wait_for("overloaded", 1)
        waiting.pop().reset()
        wait_for("gone", 1)
        waiting.pop().close()
        wait_for("gone", 2)
        wait_for("open", threads)
        gate.set()
        assert [client.recv_response().body for client in busy] == [b"ok"] * threads
        assert server.stats()["requests"] == threads
