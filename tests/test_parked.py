"""Threads that wait for the client of a stream: how many there may be, and what becomes of one more.

How it works: clients ask for an endless stream and read nothing, one after the other; the application says which of its
streams have been closed.
Knows: `max_parked`, `apps.ownership`.   Must not know: how the server divides requests among its threads.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

import bjoern
from apps.ownership import app as application
from conftest import Serve
from programs import Program, answer, ask, connect
from server_process import ServerProcess
from services import until
from wire import Client, Closed, Response, message

APP = "apps.ownership:app"
SMALL = 4096  # bytes of a client's receive buffer
SIZE = 200_000  # bytes of a block: the sockets of a connection hold some of them

for_threads = pytest.mark.parametrize("threads", [1, 4], ids="{} threads".format)


def begin(client: Client, name: str) -> Response:
    """Asks for an endless stream, and reads no more of it than its head."""
    client.send(message("GET", f"/endless?id={name}&size={SIZE}"))
    return client.recv_head()


def is_idle(server: ServerProcess, before: dict[str, int], name: str) -> bool:
    """Whether the stream has been asked for no block since the last look."""
    given = server.ask("GET", "/blocks").json()["given"].get(name, 0)
    was, before[name] = before.get(name), given
    return given > 0 and was == given


@for_threads
def test_past_the_bound_the_stream_that_is_idle_for_longest_is_cut(serve: Serve, threads: int) -> None:
    server = serve(APP, threads=threads, max_parked=2)
    seen: dict[str, int] = {}
    with contextlib.ExitStack() as stack:
        clients = []
        for name in ("first", "second", "third"):
            client = stack.enter_context(server.connect(SMALL))
            clients.append((client, begin(client, name)))
            until(lambda name=name: is_idle(server, seen, name))  # type: ignore[misc]
        until(lambda: server.ask("GET", "/blocks").json()["closed"].keys() == {"first"})
        client, response = clients[0]
        with pytest.raises((Closed, ConnectionError)):
            while client.recv_block(response):
                pass
        assert server.ask("GET", "/blocks").json()["closed"].keys() == {"first"}
        for _ in range(10):
            assert server.ask("GET", "/quick").status == 200


def test_what_was_cut_is_counted() -> None:
    with bjoern.Server(application, "127.0.0.1:0", max_parked=1) as server, contextlib.ExitStack() as stack:
        for name in ("one", "two", "three"):
            client = stack.enter_context(Client(server.addresses[0], SMALL))  # type: ignore[arg-type]
            begin(client, name)
        until(lambda: server.stats()["parked_cut"] == 2)


def test_without_another_thread_a_stream_keeps_its_turn_while_it_waits() -> None:
    """As in other servers with one thread: the others wait until its client has taken what there is, and are served."""
    source = """
bjoern.Server._add_thread = lambda server: False
def app(environ, start_response):
    start_response("200 OK", [])
    if environ["PATH_INFO"] == "/":
        return [b"quick"]
    return (b"x" * 100_000 for _ in range(100))
with bjoern.Server(app, "127.0.0.1:0", threads=1) as server:
    say(server.addresses[0].port)
    sys.stdin.readline()
    say(server.stats()["parked_cut"])
"""
    with Program.of(source) as program:
        port = int(program.hear())
        with connect(port) as slow, connect(port) as quick:
            ask(slow, "/stream")
            end = slow.recv(1)
            ask(quick, "/", "Connection: close")
            while not end.endswith(b"0\r\n\r\n"):
                end = end[-5:] + slow.recv(1 << 20)
            assert answer(quick).endswith(b"quick")
        program.tell()
        assert program.hear() == "0"


def test_threads_that_came_for_streams_leave(serve: Serve) -> None:
    server = serve(APP)
    tasks = Path(f"/proc/{server.pid}/task")
    with contextlib.ExitStack() as stack:
        for number in range(30):
            begin(stack.enter_context(server.connect(SMALL)), str(number))
        until(lambda: len(list(tasks.iterdir())) >= 30)
    until(lambda: server.ask("GET", "/quick").status == 200 and len(list(tasks.iterdir())) < 12)
