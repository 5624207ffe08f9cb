"""Where two rare things meet: each was a fault once.

Most tests serve in this process; what forks or is signalled has a process of its own.
"""

from __future__ import annotations

import contextlib
import contextvars
import gc
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import bjoern

GUARD = 60.0  # seconds: a test that hangs ends
GET = b"GET %s HTTP/1.1\r\nHost: h\r\n\r\n"
Environ = dict[str, Any]


def connect(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, timeout=GUARD)


def until_end(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(65536), b""))


def ask(server: bjoern.Server, wire: bytes) -> bytes:
    """All that comes back on a connection of its own, whose sending direction ends behind the request."""
    with contextlib.closing(connect(server.addresses[0])) as client:  # type: ignore[arg-type]
        client.sendall(wire)
        client.shutdown(socket.SHUT_WR)
        return until_end(client)


def test_write_before_a_wrapped_file(tmp_path: Path) -> None:
    """The head is out by then, and may say chunked, which the kernel cannot do."""
    path = tmp_path / "file"
    path.write_bytes(b"in the file")

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])(b"written, ")
        return environ["wsgi.file_wrapper"](path.open("rb"))

    with bjoern.Server(app, "127.0.0.1:0") as server:
        assert ask(server, GET % b"/").endswith(b"\r\n\r\n9\r\nwritten, \r\nB\r\nin the file\r\n0\r\n\r\n")


def test_a_file_that_does_not_know_its_length() -> None:
    source = Path("/proc/version")
    if not source.exists():
        source = Path(os.devnull)

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](source.open("rb"))

    with bjoern.Server(app, "127.0.0.1:0") as server:
        assert source.read_bytes() in ask(server, b"GET / HTTP/1.0\r\n\r\n")


def test_a_wrapped_file_is_closed_where_the_answer_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    files = []

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        files.append(path.open("rb"))
        return environ["wsgi.file_wrapper"](files[-1])  # without start_response

    with bjoern.Server(app, "127.0.0.1:0") as server:
        assert ask(server, GET % b"/").startswith(b"HTTP/1.1 500 ")
    assert files[0].closed


def test_crossing_streams_have_contexts_of_their_own() -> None:
    """A context variable set by one response is not seen by another that is produced meanwhile (PEP 567)."""
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name")
    both = threading.Barrier(2)

    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        token = name.set(environ["QUERY_STRING"])
        start_response("200 OK", [("Content-Type", "text/plain")])

        def body() -> Iterator[bytes]:
            try:
                for _ in range(200):
                    yield name.get().encode() * 1000
            finally:
                name.reset(token)  # fails in another context

        return body()

    def client(letter: bytes) -> None:
        both.wait()
        answers[letter] = ask(server, b"GET /?%s HTTP/1.0\r\n\r\n" % letter).partition(b"\r\n\r\n")[2]

    answers: dict[bytes, bytes] = {}
    with bjoern.Server(app, "127.0.0.1:0") as server:
        clients = [threading.Thread(target=client, args=(letter,)) for letter in (b"a", b"b")]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join(GUARD)
    assert {letter: set(body) for letter, body in answers.items()} == {b"a": set(b"a"), b"b": set(b"b")}
    assert {len(body) for body in answers.values()} == {200_000}


def test_a_request_before_the_close_of_a_unix_socket_is_served(tmp_path: Path) -> None:
    """The kernel says at once that nothing more can be sent there; what came can still be read."""
    entered, leave, seen = threading.Event(), threading.Event(), []

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/busy":
            entered.set()
            leave.wait(GUARD)
        seen.append((environ["PATH_INFO"], environ["wsgi.input"].read()))
        start_response("200 OK", [])
        return [b"ok"]

    path = str(tmp_path / "socket")
    with bjoern.Server(app, f"unix:{path}"), contextlib.ExitStack() as stack:
        busy, hook = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2))
        for client in (busy, hook):
            client.settimeout(GUARD)
            client.connect(path)
        hook.sendall(GET % b"/first")
        assert hook.recv(1000)
        busy.sendall(GET % b"/busy")
        assert entered.wait(GUARD)
        hook.sendall(b"POST /hook HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc")
        hook.close()
        leave.set()
        assert busy.recv(1000)
    assert ("/hook", b"abc") in seen


def test_body_buffer_holds_for_a_body_that_comes_with_its_head() -> None:
    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        kind = type(environ["wsgi.input"]).__name__
        return [f"{kind} {len(environ['wsgi.input'].read())}".encode()]

    with bjoern.Server(app, "127.0.0.1:0", body_buffer=10) as server:
        for length, kind in [(10, "BytesIO"), (11, "BufferedReader")]:
            wire = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % length + b"x" * length
            assert ask(server, wire).endswith(f"\r\n\r\n{kind} {length}".encode())


def test_what_cannot_be_iterated_over_is_closed() -> None:
    class Broken:
        closed = 0

        def __iter__(self) -> Iterator[bytes]:
            raise ValueError("wanted")

        def close(self) -> None:
            self.closed += 1
            raise ValueError("wanted, too")

    broken = Broken()

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return broken

    with bjoern.Server(app, "127.0.0.1:0") as server:
        assert ask(server, GET % b"/").startswith(b"HTTP/1.1 500 ")
    assert broken.closed == 1


def test_a_stop_during_the_call_is_said_in_its_answer() -> None:
    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        server.stop()
        start_response("200 OK", [])
        return [b"ok"]

    with bjoern.Server(app, "127.0.0.1:0") as server:
        assert b"\r\nConnection: close\r\n" in ask(server, GET % b"/")


def test_a_server_in_a_circle_with_its_application_is_collected() -> None:
    def serve() -> None:
        def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
            start_response("200 OK", [])
            return [str(server.options.max_head).encode()]

        with bjoern.Server(app, "127.0.0.1:0") as server:
            assert ask(server, GET % b"/").endswith(b"65536")

    serve()
    gc.collect()
    before = len(os.listdir("/dev/fd"))
    for _ in range(5):
        serve()
    gc.collect()
    assert len(os.listdir("/dev/fd")) <= before


def served(code: str, options: str = "") -> subprocess.Popen[str]:
    """A process that serves `app` of this code, prints its port, and says on stdout what `app` prints."""
    server = f"server = bjoern.Server(app, '127.0.0.1:0', graceful_timeout=1, {options})"
    program = f"import bjoern, os, sys, time\n{code}\n{server}\n"
    program += "server.run(ready=lambda: print(server.addresses[0].port, flush=True))\n"
    return subprocess.Popen([sys.executable, "-c", program], stdout=PIPE, stderr=subprocess.DEVNULL, text=True)


FORKING = """
children = []
def app(environ, start_response):
    if environ["PATH_INFO"] == "/fork":
        read, write = os.pipe()
        if os.fork() == 0:
            os.close(write)
            os.read(read, 1)  # until the server ends
            os._exit(0)
        os.close(read)
        children.append(write)
    body = environ["wsgi.input"].read()
    start_response("200 OK", [])
    return [b"%d" % len(body)]
"""


def test_a_forked_child_that_holds_a_connection_harms_no_other() -> None:
    """Its end is seen by the client, and its late events do not reach the connection that has its place."""
    with served(FORKING) as process:
        assert process.stdout is not None
        address = ("127.0.0.1", int(process.stdout.readline()))
        first = connect(address)
        first.sendall(GET % b"/")
        assert first.recv(1000)  # the poller knows it from now on
        first.sendall(b"GET /fork HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert until_end(first).endswith(b"\r\n\r\n0")
        second = connect(address)
        second.sendall(b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n")
        assert second.recv(1000).startswith(b"HTTP/1.1 100 ")
        first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        first.close()  # a reset
        third = connect(address)
        third.sendall(GET % b"/")
        assert third.recv(1000)  # the loop has been round
        second.sendall(b"0123456789")
        assert second.recv(1000).endswith(b"\r\n\r\n10")
        second.close()
        third.close()
        process.send_signal(signal.SIGINT)


WRITING = """
import signal
signal.signal(signal.SIGINT, lambda *_: print("heard", flush=True))
def app(environ, start_response):
    write = start_response("200 OK", [])
    try:
        while True:
            write(b"x" * (8 << 20))
    except BaseException as error:
        print(type(error).__name__, flush=True)
        raise
"""


def test_write_to_a_client_that_does_not_read_hears_signals() -> None:
    with served(WRITING, "threads=1") as process:  # the main thread is told
        assert process.stdout is not None
        with contextlib.closing(connect(("127.0.0.1", int(process.stdout.readline())))) as client:
            client.sendall(GET % b"/")
            assert client.recv(1000)
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "heard\n"
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "KeyboardInterrupt\n"
            process.wait(GUARD)


def test_second_interrupt_in_the_handler_of_the_first_is_heard() -> None:
    again = 'signal.signal(signal.SIGINT, lambda *_: (print("heard", flush=True), signal.raise_signal(signal.SIGINT)))'
    program = "\n".join([again if line.startswith("signal.signal") else line for line in WRITING.splitlines()])
    with served(program, "threads=1") as process:
        assert process.stdout is not None
        with contextlib.closing(connect(("127.0.0.1", int(process.stdout.readline())))) as client:
            client.sendall(GET % b"/")
            assert client.recv(1000)
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "heard\n"
            assert process.stdout.readline() == "KeyboardInterrupt\n"
            process.wait(GUARD)


EXITING = """
def app(environ, start_response):
    if environ["PATH_INFO"] == "/exit":
        raise SystemExit(3)
    start_response("200 OK", [])
    def body():
        while True:
            yield b"x"
            time.sleep(0.01)
    return body()
"""


def test_nobody_queues_for_a_server_that_its_application_ends() -> None:
    with served(EXITING) as process:
        assert process.stdout is not None
        address = ("127.0.0.1", int(process.stdout.readline()))
        with contextlib.closing(connect(address)) as streaming, contextlib.closing(connect(address)) as ending:
            streaming.sendall(GET % b"/")
            assert streaming.recv(1000)
            ending.sendall(GET % b"/exit")
            assert until_end(ending).startswith(b"HTTP/1.1 500 ")
            with contextlib.suppress(ConnectionRefusedError):
                while True:  # who came before the drain is answered, who comes in it is refused: nobody waits in vain
                    with contextlib.closing(connect(address)) as late:
                        late.sendall(GET % b"/")
                        assert late.recv(1000).startswith(b"HTTP/1.1 200 ")
            assert process.wait(GUARD) == 3
