"""How a server ends while calls run: they are answered in time, and one that never returns does not keep it.

How it works: a program serves with some threads, says its port and what its calls do, and is sent signals. A call to
/gate waits for a line on its standard input; those of NEVER never return.
Knows: signals, `graceful_timeout`, `programs`.   Must not know: how threads are left behind.
"""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from programs import Program, answer, ask, connect, get

SIGINT, SIGTERM = signal.SIGINT, signal.SIGTERM
INTERRUPTED = 10

SERVE = """
import contextlib, time

def told(what):
    os.write(1, f"called {what}\\n".encode())

def spin():
    told("spin")
    while True:
        pass

def stubborn():
    told("stubborn")
    while True:
        with contextlib.suppress(BaseException):
            while True:
                pass

def sleep():
    told("sleep")
    time.sleep(1000)

def acquire():
    lock = threading.Lock()
    lock.acquire()
    told("acquire")
    lock.acquire()

def wait():
    told("wait")
    threading.Event().wait()

class close:
    def __iter__(self):
        return iter([b"first"])
    def close(self):
        told("close")
        time.sleep(1000)

def next():
    yield b"first"
    told("next")
    time.sleep(1000)

class read:
    def read(self, size):
        told("read")
        while True:
            pass

def gated_app(environ, start_response):
    path = environ["PATH_INFO"][1:]
    if path == "gate":
        told("gate")
        os.read(0, 1)  # standard input is no place for two threads, read as text
    if path not in NEVER:
        return app({"PATH_INFO": "/" + path.replace("gate", "")}, start_response)
    start_response("200 OK", [])
    if path == "read":
        return environ["wsgi.file_wrapper"](read())
    return NEVER[path]()

NEVER = {each.__name__: each for each in (spin, stubborn, sleep, acquire, wait, close, next, read)}
options = dict(threads=int(sys.argv[2]), graceful_timeout=float(sys.argv[3]))
SETUP
server = bjoern.Server(gated_app, sys.argv[1], **options)
say(server.addresses[0].port if ":0" in sys.argv[1] else sys.argv[1])
try:
    RUN
except KeyboardInterrupt:
    say("interrupted")
    sys.exit(10)
finally:
    say("threads", *sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("bjoern")))
say("returned")
"""
LONG, SHORT = "3600", "0.3"
NEVER = ["spin", "sleep", "acquire", "wait", "close", "next", "read"]


@contextlib.contextmanager
def serving(
    threads: int, graceful: str, setup: str = "", bind: str = "127.0.0.1:0", run: str = "server.run()"
) -> Iterator[tuple[Program, str]]:
    source = SERVE.replace("SETUP", setup).replace("RUN", run)
    with Program.of(source, bind, str(threads), graceful) as program:
        yield program, program.hear()


def until_end(client: socket.socket) -> bytes:
    received = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while block := client.recv(1 << 20):
            received += block
    return bytes(received)


# Calls that return in time -------------------------------------------------------------------------------------------

STOPS = {
    "SIGTERM": ("", -SIGTERM, []),
    "SIGINT": ("", INTERRUPTED, ["interrupted", "threads"]),
    "stop": ("signal.signal(signal.SIGUSR1, lambda *_: server.stop())", 0, ["threads", "returned"]),
    "thread": (  # from a thread that is no one's
        "def stop(*_): other = threading.Thread(target=server.stop); other.start(); other.join()\n"
        "signal.signal(signal.SIGUSR1, stop)",
        0,
        ["threads", "returned"],
    ),
}


def send(program: Program, how: str) -> None:
    program.send(signal.Signals[how] if how.startswith("SIG") else signal.SIGUSR1)


@pytest.mark.parametrize("how", STOPS)
@pytest.mark.parametrize("threads", [1, 3])
def test_calls_that_run_are_answered(how: str, threads: int) -> None:
    """And say that the connection ends; those that are idle are closed, and all threads have ended."""
    setup, code, said = STOPS[how]
    with serving(threads, LONG, setup) as (program, port), contextlib.ExitStack() as stack:
        idle = stack.enter_context(connect(port))
        ask(idle)
        assert idle.recv(1)
        clients = [stack.enter_context(connect(port)) for _ in range(threads)]
        for client in clients[: max(1, threads - 1)]:
            ask(client, "/gate")
            assert program.hear() == "called gate"
        if threads == 1:
            program.wait_until_asleep()
        send(program, how)
        if threads > 1:  # a thread is free to see to it meanwhile
            answer(idle)
            with pytest.raises(ConnectionError):
                get(port)
        for _ in clients:
            program.tell()
        for client in clients[: max(1, threads - 1)]:
            response = answer(client)
            assert response.startswith(b"HTTP/1.1 200 ")
            assert response.endswith(b"\r\n\r\nok")
            assert b"\r\nConnection: close\r\n" in response
        end = program.end()
    assert (end.code, end.errors) == (code, "")
    assert end.output.splitlines() == said


@pytest.mark.parametrize("threads", [2, 4])
def test_all_threads_in_calls(threads: int) -> None:
    """Nobody is there to hear of the stop until one is back."""
    with serving(threads, LONG) as (program, port), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(port)) for _ in range(threads)]
        for client in clients:
            ask(client, "/gate")
            assert program.hear() == "called gate"
        program.send(SIGTERM)
        program.wait_until_asleep()
        for _ in clients:
            program.tell()
        assert [answer(client)[-2:] for client in clients] == [b"ok"] * threads
        end = program.end()
    assert (end.code, end.errors) == (-SIGTERM, "")


@pytest.mark.parametrize("threads", [1, 2])
def test_what_the_application_raises_ends_all_threads(threads: int) -> None:
    """Also the one that raised it, and those that rest."""
    with serving(threads, LONG) as (program, port):
        with connect(port) as client:
            ask(client, "/exit")
            assert answer(client).startswith(b"HTTP/1.1 500 ")
        end = program.end()
    assert (end.code, end.output, end.errors) == (5, "threads\n", "")


@pytest.mark.parametrize("threads", [1, 4])
def test_context_in_a_background_thread(threads: int) -> None:
    run = """
    with server:
        assert get() == get() == b"ok"
        say("served")
    say([thread for thread in threading.enumerate() if thread.name.startswith("bjoern")])"""
    setup = """
from urllib.request import urlopen
def get():
    with urlopen(server.url) as response:
        return response.read()
"""
    with serving(threads, LONG, setup, run=run) as (program, _):
        assert program.hear() == "served"
        assert program.hear() == "[]"
        end = program.end()
    assert (end.code, end.output, end.errors) == (0, "threads\nreturned\n", "")


# The second signal ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", NEVER)
@pytest.mark.parametrize("threads", [1, 4])
def test_second_sigint_ends_it_at_once(threads: int, what: str) -> None:
    # Two that are pending at once are one, and one that comes while the handler runs is another matter.
    setup = """
def heard(number, frame):
    threading.Timer(0.2, os.write, (1, b"heard\\n")).start()
    raise KeyboardInterrupt
signal.signal(signal.SIGINT, heard)
"""
    with serving(threads, LONG, setup) as (program, port), contextlib.ExitStack() as stack:
        for _ in range(threads):
            ask(stack.enter_context(connect(port)), f"/{what}")
            assert program.hear() == f"called {what}"
        if threads > 1 or what not in {"spin", "read"}:
            program.wait_until_asleep()  # where it waits: see there
        program.send(SIGINT)
        assert program.hear() == "heard"
        program.send(SIGINT)
        end = program.end()
    assert end.code == INTERRUPTED, end.errors
    assert end.output.startswith("interrupted\n")
    if threads > 1:
        assert (
            end.errors == f"bjoern: warning: ended without an answer to GET /{what}: it was not waited for\n" * threads
        )


# Calls that never return ---------------------------------------------------------------------------------------------


def unfinished(what: str, threads: int) -> str:
    # A single thread keeps no book of its request, which is found where the call's frames have the environ.
    request = "a request" if threads == 1 and what in ("close", "next", "read") else f"GET /{what}"
    return (
        f"bjoern: warning: ended without an answer to {request}: it took longer than graceful_timeout=0.3\n" * threads
    )


@pytest.mark.parametrize("what", NEVER)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
def test_calls_that_never_return_do_not_keep_the_process(
    tmp_path: Path, number: signal.Signals, threads: int, what: str
) -> None:
    path = tmp_path / "s"
    with serving(threads, SHORT, bind=f"unix:{path}") as (program, where), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(where)) for _ in range(threads)]
        for client in clients:
            ask(client, f"/{what}")
            assert program.hear() == f"called {what}"
        program.send(number)
        end = program.end()
        for client in clients:
            whole = until_end(client).endswith(b"0\r\n\r\n")
            assert whole == (what == "close"), "a response is whole before its close() runs"
    expected = -number if number == SIGTERM else INTERRUPTED
    assert end.code == (128 + number if threads == 1 else expected), end.errors
    assert end.errors == unfinished(what, threads)
    assert not path.exists()


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
def test_a_call_that_cannot_be_interrupted_at_all(number: signal.Signals) -> None:
    with serving(2, SHORT) as (program, port), connect(port) as client:
        ask(client, "/stubborn")
        assert program.hear() == "called stubborn"
        program.send(number)
        end = program.end()
    assert end.code == (-SIGTERM if number == SIGTERM else INTERRUPTED), end.errors
    assert end.errors == unfinished("stubborn", 1)


@pytest.mark.parametrize("threads", [1, 2])
def test_with_a_queue(threads: int) -> None:
    """Somebody stands in for the loop then, and must see the end, too."""
    setup = "options['max_queue'] = 5"
    with serving(threads, SHORT, setup) as (program, port), contextlib.ExitStack() as stack:
        for _ in range(threads):
            ask(stack.enter_context(connect(port)), "/sleep")
            assert program.hear() == "called sleep"
        waiting = stack.enter_context(connect(port))
        ask(waiting)
        program.send(SIGTERM)
        end = program.end()
        until_end(waiting)
    assert end.code == (128 + SIGTERM if threads == 1 else -SIGTERM)
    assert end.errors == unfinished("sleep", threads)


def test_others_are_served_until_the_end() -> None:
    """A response under way, and a call that comes back in time, beside one that does not."""
    with serving(4, "1.5") as (program, port), contextlib.ExitStack() as stack:
        never, slow, reader = (stack.enter_context(connect(port)) for _ in range(3))
        ask(never, "/sleep")
        assert program.hear() == "called sleep"
        ask(slow, "/gate")
        assert program.hear() == "called gate"
        ask(reader, "/large")
        assert reader.recv(1)
        program.send(SIGTERM)
        with contextlib.suppress(ConnectionError):
            while True:
                get(port)  # until it drains
        program.tell()
        assert answer(slow).endswith(b"ok")
        assert len(answer(reader)) > 32_000_000
        end = program.end()
        assert until_end(never) == b""
    assert end.code == -SIGTERM
    assert end.errors == unfinished("sleep", 1).replace("0.3", "1.5")


@pytest.mark.parametrize("what", ["close", "next"])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_client_of_a_call_that_never_returns_is_gone(threads: int, what: str) -> None:
    with serving(threads, SHORT) as (program, port):
        with connect(port) as client:
            ask(client, f"/{what}")
            assert program.hear() == f"called {what}"
        program.send(SIGTERM)
        end = program.end()
    assert end.code == (128 + SIGTERM if threads == 1 else -SIGTERM)


ABANDONED = """
import itertools
class Close:
    def __iter__(self): return itertools.repeat(b"x" * 65536)
    def close(self):
        told("close")
        time.sleep(1000)
NEVER["close"] = Close
"""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
def test_close_of_a_response_that_nobody_reads_never_returns(threads: int, number: signal.Signals) -> None:
    """Here close() is no part of a call: the client goes in the middle of its response."""
    with serving(threads, SHORT, ABANDONED) as (program, port):
        with connect(port) as client:
            ask(client, "/close")
            assert client.recv(1)
        assert program.hear() == "called close"
        program.send(number)
        end = program.end()
    if threads == 1:
        assert end.code == 128 + number
    else:
        assert end.code == (-SIGTERM if number == SIGTERM else INTERRUPTED)


@pytest.mark.parametrize("threads", [1, 2])
def test_stopped_in_a_background_thread(threads: int) -> None:
    """`with Server(...)` ends, though its call does not."""
    run = """
    with server:
        client = socket.create_connection(server.addresses[0])
        client.sendall(b"GET /sleep HTTP/1.1\\r\\nHost: h\\r\\n\\r\\n")
        time.sleep(0.2)
    say("left")"""
    with serving(threads, SHORT, "import socket", run=run) as (program, _):
        assert program.hear() == "called sleep"
        assert program.hear() == "left"
        end = program.end()
    assert end.code == 0
    assert end.errors == unfinished("sleep", 1)


@pytest.mark.parametrize("threads", [2, 4])
def test_stop_at_once_leaves_calls_behind(threads: int) -> None:
    setup = "signal.signal(signal.SIGUSR1, lambda *_: server.stop(graceful=False))"
    with serving(threads, LONG, setup) as (program, port), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(port)) for _ in range(threads)]
        for client in clients:
            ask(client, "/sleep")
            assert program.hear() == "called sleep"
        program.send(signal.SIGUSR1)
        end = program.end()
        for client in clients:
            assert not until_end(client)
    assert end.code == 0
    assert end.errors == "bjoern: warning: ended without an answer to GET /sleep: it was not waited for\n" * threads


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "spin.py").write_text(
        "def app(environ, start_response):\n    print('called', flush=True)\n    while True:\n        pass\n"
    )
    arguments = ["--bind", "127.0.0.1:0", "--threads", "2", "--graceful-timeout", "300ms", "spin:app"]
    for number, code in ((SIGINT, 130), (SIGTERM, -SIGTERM)):
        with Program("-m", "bjoern", *arguments, cwd=tmp_path) as program:
            client = connect(program.announced().split(" on ")[1].split(" ")[0])
            ask(client)
            assert program.hear() == "called"
            program.send(number)
            end = program.end()
            client.close()
        assert end.code == code
        assert end.errors == unfinished("", 1)
