"""Where bodies lie while they come: what all of them may take together, and what happens where there is no room.

How it works: half a body is sent and held there; what another request gets then is looked at, and what is counted.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bjoern
from conftest import Serve
from wire import GUARD, Client, Response, message

ECHO = "apps.echo:raw"
HALF, WHOLE = 6_000, 12_000  # bytes of a body


def kind(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Answers with the type of `wsgi.input`, and how much is in it."""
    body = environ["wsgi.input"]
    text = f"{type(body).__name__} {len(body.read())}"
    start_response("200 OK", [])
    return [text.encode()]


def connect(server: bjoern.Server) -> Client:
    host, port = server.addresses[0]
    return Client((host, int(port)))


@contextlib.contextmanager
def half_sent(server: bjoern.Server) -> Iterator[Client]:
    """A connection that has sent half a body, which the server has taken."""
    with connect(server) as client:
        client.send(message("POST", "/", f"Content-Length: {WHOLE}", "Expect: 100-continue"))
        assert client.recv_exactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"x" * HALF)
        with connect(server) as other:  # the answer to a later request comes later
            assert other.ask().status == 200
        yield client


def finish(client: Client) -> Response:
    client.send(b"x" * (WHOLE - HALF))
    return client.recv_response()


def test_bodies_in_memory_have_a_bound_together() -> None:
    """What does not fit goes to a file, though it is shorter than `body_buffer`."""
    with bjoern.Server(kind, "127.0.0.1:0", max_body_memory=14_000) as server:
        with half_sent(server) as first, half_sent(server) as second, half_sent(server) as third:
            assert finish(third).body == b"BufferedReader 12000"
            assert finish(second).body == b"BufferedReader 12000"
            assert finish(first).body == b"BytesIO 12000"
        with half_sent(server) as client:
            assert finish(client).body == b"BytesIO 12000", "what is over takes nothing"


@pytest.mark.parametrize("threads", [1, 4])
def test_bodies_in_files_have_a_bound_together(threads: int) -> None:
    with bjoern.Server(kind, "127.0.0.1:0", body_buffer=10, max_body_disk=15_000, threads=threads) as server:
        with half_sent(server) as first, half_sent(server) as second:
            second.send(b"x" * (WHOLE - HALF))
            refused = second.recv_response()
            assert (refused.status, refused.get("Retry-After")) == (503, "1")
            second.expect_close()
            assert finish(first).body == b"BufferedReader 12000"
        for _ in range(3):
            with half_sent(server) as client:
                assert finish(client).body == b"BufferedReader 12000"
        with half_sent(server) as client:
            client.close()  # half a body takes nothing, either, once it is gone
        with half_sent(server) as client:
            assert finish(client).body == b"BufferedReader 12000"
        assert server.stats()["storage_full"] == 1


def test_0_bytes_on_disk_is_no_limit() -> None:
    with bjoern.Server(kind, "127.0.0.1:0", body_buffer=10, max_body_disk=0) as server, half_sent(server) as client:
        assert finish(client).body == b"BufferedReader 12000"


def test_a_body_without_a_file_for_it_is_told_once(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """503, and one line: the folder, the error, TMPDIR; and again after it has worked meanwhile."""
    folder = tmp_path / "missing"
    monkeypatch.setenv("TMPDIR", str(folder))
    server = serve(ECHO, body_buffer=10)

    def upload() -> int:
        with server.connect() as client:
            client.send(message("POST", "/", "Content-Length: 100") + b"x")
            client.send(b"x" * 99)
            return client.recv_response().status

    for times in (1, 2):
        assert [upload() for _ in range(3)] == [503] * 3
        deadline = time.monotonic() + GUARD
        lines: list[str] = []
        while len(lines) < times:
            assert time.monotonic() < deadline, server.stderr()
            lines = [line for line in server.wait_stderr("TMPDIR").splitlines() if str(folder) in line]
        assert len(lines) == times, lines
        assert "No such file or directory" in lines[-1]
        folder.mkdir()
        assert upload() == 200
        folder.rmdir()
    assert server.ask().status == 200


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells what a process has")
@pytest.mark.parametrize("left", [1_000_000, 5_000_000])
@pytest.mark.parametrize("threads", [1, 4])
def test_memory_that_the_system_refuses_is_the_matter_of_one_request(serve: Serve, left: int, threads: int) -> None:
    """Bodies go to files, or their requests are refused; the others are served, and so is everybody later."""
    limits = {"body_buffer": 1 << 30, "max_body_memory": 1 << 40}
    server = serve("apps.memory:app", threads=threads, **limits)
    size = 40_000_000  # more than a thread's part of malloc has
    tasks = Path(f"/proc/{server.pid}/task")
    while threads > 1 and len(list(tasks.iterdir())) < threads + 2:  # with the main thread and the watch: stacks, too
        server.ask()
    with server.connect() as steady, contextlib.ExitStack() as stack:
        assert steady.ask("GET", f"/tighten?bytes={left}").status == 200
        clients = [stack.enter_context(server.connect()) for _ in range(3)]
        for client in clients:
            client.send(message("POST", "/", f"Content-Length: {size}"))
            client.send(b"x" * (size - 1))
        answers = []
        for client in clients:
            client.send(b"x")
            answers.append(client.recv_response())
        assert {answer.status for answer in answers} <= {200, 500, 503}
        kinds = {answer.body for answer in answers if answer.status == 200}
        assert kinds <= {f"BufferedReader {size}".encode(), f"BytesIO {size}".encode()}
        assert f"BufferedReader {size}".encode() in kinds
        assert steady.ask("GET", "/loosen").status == 200
        assert server.ask("POST", "/", body=b"x" * 9).body == b"BytesIO 9"
    server.stderr()  # there may be the traceback of a MemoryError
