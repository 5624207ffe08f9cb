"""Signals: what SIGINT, SIGTERM and others do to a server, and how its process ends.

How it works: a program listens and says its port; it is asked something, sent signals, and watched until it ends.
A request to /gate is at hand until the test says a line; a response to /large is at hand until the test reads it.
A program's exit code says how run() ended: RETURNED, INTERRUPTED (KeyboardInterrupt) or RAISED (ValueError).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from programs import End, Program, answer, ask, connect, get
from services import until

SIGINT, SIGTERM, SIGUSR1 = signal.SIGINT, signal.SIGTERM, signal.SIGUSR1

LARGE = 32_000_000  # bytes of the response to /large: more than the sockets' buffers hold

RETURNED, INTERRUPTED, RAISED = 0, 10, 11

SERVE = """
def outcome(function):
    try:
        function()
    except KeyboardInterrupt:
        sys.exit(10)
    except ValueError as error:
        say("raised", error)
        sys.exit(11)

def raising(number, frame):
    say("handled")
    raise ValueError("from a handler")

def quiet(number, frame):
    say("handled")

HOST = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1"
SETUP
sock = bjoern.listen(app, HOST, 0, graceful_timeout=3600.0)
say(sock.getsockname()[1])
outcome(bjoern.run)
say("returned")
"""


@contextlib.contextmanager
def serving(setup: str = "") -> Iterator[tuple[Program, int]]:
    """A program that serves with what `setup` prepared, and its port."""
    with Program.of(SERVE.replace("SETUP", setup)) as program:
        yield program, int(program.hear())


def ended(program: Program) -> End:
    end = program.end()
    assert "Traceback" not in end.errors, end.errors
    return end


@contextlib.contextmanager
def draining(program: Program, port: int, number: signal.Signals) -> Iterator[socket.socket]:
    """Sends the signal while a response waits for its reader, who is yielded once the drain has begun."""
    with connect(port) as idle, connect(port) as slow:
        ask(idle)
        assert idle.recv(1)  # the rest may follow or not; the connection is known to the server
        ask(slow, "/large")
        assert slow.recv(1)
        program.send(number)
        answer(idle)  # closed by the drain
        yield slow


# One signal


@pytest.mark.parametrize(
    ("setup", "number", "code"),
    [
        ("", SIGINT, INTERRUPTED),
        ("signal.signal(signal.SIGINT, raising)", SIGINT, RAISED),
        ("signal.signal(signal.SIGINT, quiet)", SIGINT, RETURNED),
        ("signal.signal(signal.SIGINT, signal.SIG_IGN)", SIGINT, RETURNED),
        ("signal.signal(signal.SIGINT, signal.SIG_DFL)", SIGINT, -SIGINT),
        ("", SIGTERM, -SIGTERM),
        ("signal.signal(signal.SIGTERM, raising)", SIGTERM, RAISED),
        ("signal.signal(signal.SIGTERM, signal.default_int_handler)", SIGTERM, INTERRUPTED),
        ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))", SIGTERM, 7),
        ("signal.signal(signal.SIGUSR1, raising)", SIGUSR1, RAISED),
    ],
)
def test_signal_ends_an_idle_server(setup: str, number: signal.Signals, code: int) -> None:
    with serving(setup) as (program, port), connect(port) as idle:
        ask(idle)
        assert idle.recv(1)
        program.send(number)
        answer(idle)  # an idle connection is closed
        end = ended(program)
    assert end.code == code
    assert ("handled" in end.output) == ("raising" in setup or "quiet" in setup)


@pytest.mark.parametrize(
    ("setup", "number", "code"),
    [
        ("", SIGINT, INTERRUPTED),
        ("signal.signal(signal.SIGINT, raising)", SIGINT, RAISED),
        ("signal.signal(signal.SIGINT, quiet)", SIGINT, RETURNED),
        ("", SIGTERM, -SIGTERM),
        ("signal.signal(signal.SIGTERM, raising)", SIGTERM, RAISED),
    ],
)
def test_request_at_hand_is_answered(setup: str, number: signal.Signals, code: int) -> None:
    """The signal arrives inside the application, in the main thread, which must not notice."""
    with serving(setup) as (program, port), connect(port) as client:
        ask(client, "/gate")
        assert program.hear() == "called"
        program.wait_until_asleep()
        program.send(number)
        if setup:
            assert program.hear() == "handled", "a handler runs at once, not after the request"
        program.tell()
        response = answer(client)
        end = ended(program)
    assert response.startswith(b"HTTP/1.1 200 ")
    assert response.endswith(b"ok")
    assert end.code == code


@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
def test_slow_reader_is_waited_for(number: signal.Signals) -> None:
    with serving() as (program, port), draining(program, port, number) as slow:
        assert len(answer(slow)) >= LARGE
        assert ended(program).code in (INTERRUPTED, -SIGTERM)


def test_nobody_is_accepted_while_draining() -> None:
    with serving() as (program, port), draining(program, port, SIGTERM) as slow:
        with pytest.raises(ConnectionError):  # refused, or reset where the queue was closed
            if not get(port):
                raise ConnectionResetError
        answer(slow)
        assert ended(program).code == -SIGTERM


# Handlers that let the server go on


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_handler_that_returns_runs_at_once_and_the_server_goes_on(name: str) -> None:
    with serving(f"signal.signal(signal.{name}, quiet)") as (program, port):
        for _ in range(3):
            program.send(signal.Signals[name])
            assert program.hear() == "handled"
            assert get(port).endswith(b"ok")
        program.send(SIGINT)
        assert ended(program).code == INTERRUPTED


def test_ignored_sigterm_stays_ignored() -> None:
    with serving("signal.signal(signal.SIGTERM, signal.SIG_IGN)") as (program, port):
        program.send(SIGTERM)
        assert get(port).endswith(b"ok")
        program.send(SIGINT)
        assert ended(program).code == INTERRUPTED


def test_handler_may_stop_the_server() -> None:
    source = """
server = bjoern.Server(app, "127.0.0.1:0")
signal.signal(signal.SIGTERM, lambda *_: server.stop())
say(server.addresses[0].port)
server.run()
say("returned")
"""
    with Program.of(source) as program:
        port = int(program.hear())
        assert get(port).endswith(b"ok")
        program.send(SIGTERM)
        assert ended(program) == End(0, "returned\n", "")


# The second signal of a kind


def test_second_sigint_frees_an_application_that_hangs() -> None:
    with serving() as (program, port), connect(port) as client:
        ask(client, "/gate")
        assert program.hear() == "called"
        program.wait_until_asleep()
        program.send(SIGINT)
        program.wait_until_asleep()
        program.send(SIGINT)
        assert ended(program).code == INTERRUPTED
        assert b"ok" not in answer_or_reset(client)


@pytest.mark.parametrize(
    ("number", "setup", "code"),
    [
        (SIGINT, "", INTERRUPTED),
        (SIGINT, "signal.signal(signal.SIGINT, raising)", RAISED),
        (SIGINT, "signal.signal(signal.SIGINT, quiet)", RETURNED),
        (SIGTERM, "", -SIGTERM),
        (SIGTERM, "signal.signal(signal.SIGTERM, raising)", RAISED),
    ],
)
def test_second_signal_cuts_the_drain_short(number: signal.Signals, setup: str, code: int) -> None:
    with serving(setup) as (program, port), draining(program, port, number) as slow:
        program.send(number)
        assert ended(program).code == code
        assert len(answer_or_reset(slow)) < LARGE


def answer_or_reset(client: socket.socket) -> bytes:
    received = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while block := client.recv(1 << 20):
            received += block
    return bytes(received)


@pytest.mark.parametrize(("first", "second", "code"), [(SIGINT, SIGTERM, INTERRUPTED), (SIGTERM, SIGINT, -SIGTERM)])
def test_first_of_two_kinds_decides(first: signal.Signals, second: signal.Signals, code: int) -> None:
    """And the second is no hurry: a supervisor's SIGTERM may follow the SIGINT of a terminal."""
    with serving() as (program, port), draining(program, port, first) as slow:
        program.send(second)
        program.wait_until_asleep()
        assert len(answer(slow)) >= LARGE
        assert ended(program).code == code


# What is left behind


def test_sigterm_removes_the_unix_path_and_flushes(tmp_path: Path) -> None:
    path = tmp_path / "s"
    source = """
bjoern.listen(app, sys.argv[1])
say("listening")
print("not flushed", end="")
bjoern.run()
"""
    with Program.of(source, f"unix:{path}") as program:
        assert program.hear() == "listening"
        assert get(f"unix:{path}").endswith(b"ok")
        program.send(SIGTERM)
        assert ended(program) == End(-SIGTERM, "not flushed", "")
    assert not path.exists()


def test_everything_is_put_back() -> None:
    source = """
reading, writing = os.pipe()
os.set_blocking(writing, False)
signal.set_wakeup_fd(writing)
signal.signal(signal.SIGTERM, mine := lambda *_: None)
sock = bjoern.listen(app, "127.0.0.1", 0)
say(sock.getsockname()[1])
try:
    bjoern.run()
except KeyboardInterrupt:
    say(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    say(signal.getsignal(signal.SIGTERM) is mine)
    say(signal.set_wakeup_fd(-1) == writing)
    say(sock.fileno())
"""
    with Program.of(source) as program:
        get(int(program.hear()))
        program.send(SIGINT)
        assert ended(program) == End(0, "True\nTrue\nTrue\n-1\n", "")


def test_everything_is_put_back_when_nothing_could_be_served() -> None:
    source = """
reading, writing = os.pipe()
try:
    bjoern.server_run(reading, app)
except OSError as error:
    say(error.errno)
say(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
say(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
say(signal.set_wakeup_fd(-1))
"""
    with Program.of(source) as program:
        assert ended(program).output.splitlines()[1:] == ["True", "True", "-1"]


def test_handler_that_was_replaced_meanwhile_stays() -> None:
    source = """
def mine(number, frame):
    say("mine")

def app(environ, start_response):
    signal.signal(signal.SIGTERM, mine)
    start_response("200 OK", [])
    return [b"ok"]

sock = bjoern.listen(app, "127.0.0.1", 0, threads=1)  # handlers are for the main thread to change
say(sock.getsockname()[1])
try:
    bjoern.run()
except KeyboardInterrupt:
    say(signal.getsignal(signal.SIGTERM) is mine)
"""
    with Program.of(source) as program:
        assert get(int(program.hear())).endswith(b"ok")
        program.send(SIGTERM)
        assert program.hear() == "mine"
        program.send(SIGINT)
        assert ended(program) == End(0, "True\n", "")


def test_forked_child_of_the_application_is_killed_by_its_own_signal() -> None:
    source = """
def app(environ, start_response):
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, b"x")
        while True:  # sleeping could miss a signal that comes just before
            pass
    os.read(reading, 1)  # CPython forgets signals that come while it forks
    os.kill(child, signal.SIGTERM)
    status = os.waitpid(child, 0)[1]
    start_response("200 OK", [])
    return [b"%d" % os.WTERMSIG(status)]

sock = bjoern.listen(app, "127.0.0.1", 0)
say(sock.getsockname()[1])
bjoern.run()
"""
    with Program.of(source) as program:
        port = int(program.hear())
        assert get(port).endswith(b"\r\n\r\n15")
        assert get(port).endswith(b"\r\n\r\n15"), "the parent goes on"
        program.send(SIGTERM)
        assert ended(program).code == -SIGTERM


# When the application takes Python's wakeup descriptor

ASYNCIO = """
import asyncio

async def heeds_a_signal():
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR2, str)
    loop.remove_signal_handler(signal.SIGUSR2)  # which sets it to -1

async def does_not_take_it_away():
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, str)

_app = app
def app(environ, start_response):
    if environ["PATH_INFO"] == "/asyncio":
        asyncio.run(heeds_a_signal())
    if environ["PATH_INFO"] == "/set":
        signal.set_wakeup_fd(foreign)
    return _app(environ, start_response)

foreign_end, foreign = os.pipe()
os.set_blocking(foreign, False)
def main_thread(number, frame):
    asyncio.run(heeds_a_signal())
    say("handled")
signal.signal(signal.SIGUSR1, main_thread)
"""


@pytest.mark.parametrize(("number", "code"), [(SIGTERM, -SIGTERM), (SIGINT, INTERRUPTED)])
@pytest.mark.parametrize("path", ["/asyncio", "/set"])
def test_idle_server_hears_signals_without_the_descriptor(path: str, number: signal.Signals, code: int) -> None:
    """Where the one thread that serves runs the application, which may set another or none."""
    with Program.of(SERVE.replace("SETUP", ASYNCIO), environ={"BJOERN_THREADS": "1"}) as program:
        port = int(program.hear())
        assert get(port, path).endswith(b"ok")
        program.wait_until_asleep()
        program.send(SIGUSR1)
        assert program.hear() == "handled"
        program.wait_until_asleep()
        program.send(number)
        assert ended(program).code == code


@pytest.mark.parametrize(("number", "code"), [(SIGTERM, -SIGTERM), (SIGINT, INTERRUPTED)])
def test_idle_server_of_threads_hears_signals_without_the_descriptor(number: signal.Signals, code: int) -> None:
    """There only a signal handler runs where it can be set."""
    with Program.of(SERVE.replace("SETUP", ASYNCIO), environ={"BJOERN_THREADS": "4"}) as program:
        port = int(program.hear())
        assert get(port).endswith(b"ok")
        for _ in range(3):
            program.wait_until_asleep()
            program.send(SIGUSR1)
            assert program.hear() == "handled"
        assert get(port).endswith(b"ok")
        program.wait_until_asleep()
        program.send(number)
        assert ended(program).code == code


def test_second_signal_is_heard_without_the_descriptor() -> None:
    with Program.of(SERVE.replace("SETUP", ASYNCIO), environ={"BJOERN_THREADS": "1"}) as program:
        port = int(program.hear())
        assert get(port, "/asyncio").endswith(b"ok")
        with draining(program, port, SIGTERM) as slow:
            program.send(SIGTERM)
            assert ended(program).code == -SIGTERM
            assert len(answer_or_reset(slow)) < LARGE


# SIGPIPE, which the application may have at its default


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("unix", [False, True])
def test_a_file_for_a_client_that_has_left_raises_no_sigpipe(tmp_path: Path, unix: bool, threads: int) -> None:
    source = """
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
def files(environ, start_response):
    start_response("200 OK", [])
    if environ["PATH_INFO"] == "/file":
        return environ["wsgi.file_wrapper"](open(sys.argv[1], "rb"))
    return [str((signal.SIGPIPE in signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.sigpending())).encode()]
server = bjoern.Server(files, sys.argv[2], threads=int(sys.argv[3]))
server.run(ready=lambda: say(server.url))
"""
    (tmp_path / "large").write_bytes(bytes(LARGE))
    bind = f"unix:{tmp_path}/s" if unix else "127.0.0.1:0"
    with Program.of(source, str(tmp_path / "large"), bind, str(threads)) as program:
        address = program.hear()
        for _ in range(20):
            with connect(address) as client:
                ask(client, "/file")
                assert client.recv(1)
                client.shutdown(socket.SHUT_WR)  # what is not taken makes the close a reset
            assert get(address).endswith(b"(False, set())")
        with connect(address) as client:
            ask(client, "/file", "Connection: close")
            assert len(answer(client)) > LARGE
        program.send(SIGTERM)
        assert ended(program).code == -SIGTERM


# What is registered for the end of the process

ENDING = """
import atexit, concurrent.futures, time
gate = threading.Event()
pool = concurrent.futures.ThreadPoolExecutor(1)
pool.submit(lambda: (gate.wait(), say("pool")))
threading.Thread(target=lambda: (gate.wait(), time.sleep(0.1), say("thread"))).start()

@atexit.register
def registered():
    say("registered")
    print("not flushed", end="")

_app = app
def app(*request):
    gate.set()
    return _app(*request)
"""


@pytest.mark.parametrize("threads", ["1", "4"])
def test_sigterm_runs_what_is_registered_for_the_end(threads: str) -> None:
    """And the process has died of it all the same."""
    with Program.of(SERVE.replace("SETUP", ENDING), environ={"BJOERN_THREADS": threads}) as program:
        assert get(int(program.hear())).endswith(b"ok")
        program.send(SIGTERM)
        end = ended(program)
    assert end.code == -SIGTERM
    assert sorted(end.output.splitlines()[:2]) == ["pool", "thread"]
    assert end.output.splitlines()[2:] == ["registered", "not flushed"]
    assert end.errors == ""


def test_a_second_signal_does_not_wait_for_what_is_registered() -> None:
    setup = "import atexit, time; atexit.register(lambda: (say('registered'), time.sleep(1000)))"
    with serving(setup) as (program, port):
        assert get(port).endswith(b"ok")
        program.send(SIGTERM)
        assert program.hear() == "registered"
        program.send(SIGTERM)
        assert ended(program).code == -SIGTERM


@pytest.mark.parametrize(
    "setup",
    [
        "atexit.register(time.sleep, 1000)",
        "threading.Thread(target=time.sleep, args=(1000,)).start()",
        "concurrent.futures.ThreadPoolExecutor(1).submit(time.sleep, 1000)",
    ],
)
def test_what_is_registered_has_a_limit(setup: str) -> None:
    source = SERVE.replace("SETUP", f"import atexit, concurrent.futures, time; {setup}").replace("3600.0", "0.2")
    with Program.of(source) as program:
        assert get(int(program.hear())).endswith(b"ok")
        program.send(SIGTERM)
        end = program.end()
    assert end.code == -SIGTERM
    assert end.errors.endswith(
        "bjoern: warning: ended though threads or atexit functions were still at work: "
        "it took longer than graceful_timeout\n"
    )


# Other threads


def test_other_thread_leaves_signals_alone() -> None:
    source = """
server = bjoern.Server(app, "127.0.0.1:0")
thread = threading.Thread(target=server.run)
thread.start()
try:
    say(server.addresses[0].port)
    sys.stdin.readline()
except KeyboardInterrupt:
    say("interrupted")
sys.stdin.readline()
say(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
server.stop()
thread.join()
"""
    with Program.of(source) as program:
        port = int(program.hear())
        assert get(port).endswith(b"ok")
        program.wait_until_asleep()
        program.send(SIGINT)
        assert program.hear() == "interrupted"
        assert get(port).endswith(b"ok"), "the server's thread goes on"
        program.tell()
        assert ended(program) == End(0, "True\n", "")


# What the application raises


def test_system_exit_of_the_application_ends_the_server(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Program.of("bjoern.listen(app, sys.argv[1]); say('up'); bjoern.run()", f"unix:{path}") as program:
        assert program.hear() == "up"
        with connect(f"unix:{path}") as client:
            ask(client, "/exit")
            answer_or_reset(client)
        assert ended(program).code == 5
    assert not path.exists()


# Process 1, as in a container: what is left to its default does nothing to it


def _why_no_namespace() -> str:
    """Why no process 1 can be made here, or ""."""
    try:
        tried = subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True, text=True)
    except OSError as error:
        return f"unshare: {error}"
    return f"a process id namespace cannot be made here: {tried.stderr.strip()}" if tried.returncode else ""


NO_NAMESPACE = _why_no_namespace()
needs_namespace = pytest.mark.skipif(bool(NO_NAMESPACE), reason=NO_NAMESPACE)

IMPORTING = """
import atexit, os, time
atexit.register(lambda: os.write(1, b"registered\\n"))
os.write(1, b"importing\\n")
if os.path.exists("slow"):
    time.sleep(60)
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"%d" % os.getpid()]
"""


@contextlib.contextmanager
def first_process(folder: Path, *arguments: str) -> Iterator[tuple[Program, int]]:
    """The command as process 1 of a namespace, and its process id outside of it."""
    (folder / "module.py").write_text(IMPORTING)
    command = ["--pid", "--fork", "--kill-child", sys.executable, "-m", "bjoern", "-b", "127.0.0.1:0", *arguments]
    with Program(*command, "module:app", cwd=folder, python="unshare") as program:
        children = Path(f"/proc/{program.process.pid}/task/{program.process.pid}/children")
        until(lambda: bool(children.read_text()))
        assert program.hear() == "importing"
        yield program, int(children.read_text())


@needs_namespace
def test_sigterm_ends_process_1_while_it_imports(tmp_path: Path) -> None:
    (tmp_path / "slow").touch()
    with first_process(tmp_path) as (program, pid):
        os.kill(pid, SIGTERM)
        end = program.end()
    assert (end.code, end.errors) == (143, "")


@needs_namespace
@pytest.mark.parametrize("workers", [[], ["-w", "1"]])
def test_sigterm_ends_process_1(tmp_path: Path, workers: list[str]) -> None:
    with first_process(tmp_path, *workers) as (program, pid):
        where = program.announced().split(" on ")[1].split(" ")[0]
        assert (get(where).endswith(b"\r\n1")) == (not workers)
        os.kill(pid, SIGTERM)
        end = program.end()
    assert (end.code, end.output, end.errors) == (143, "registered\n", "")


def test_sigterm_ends_any_other_while_it_imports(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(IMPORTING)
    (tmp_path / "slow").touch()
    with Program("-m", "bjoern", "-b", "127.0.0.1:0", "module:app", cwd=tmp_path) as program:
        assert program.hear() == "importing"
        program.send(SIGTERM)
        assert program.end() == (-SIGTERM, "", "")
