"""Processes that the application forks: none of them is the server, and the server and its clients notice nothing.

How it works: a view forks. The child goes a way of its own, and where that leads back to the server it ends; its parent
waits for it and answers with its exit code. Then others are served, and the server stops as ever.
A child of /outlive says its process, and lives until the test ends.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from programs import GUARD, Program, answer, ask, connect, get
from services import Service, is_gone, until

SIGHUP, SIGINT, SIGKILL, SIGTERM = signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGTERM

FORKING = """
import contextlib, multiprocessing, os, signal, subprocess, sys, time

def exits(start_response):
    print("not flushed", end="")
    sys.exit(3)

def exits_with_text(start_response):
    sys.exit("a reason")

def exits_with_nothing(start_response):
    sys.exit()

def raises(start_response):
    1 / 0

def returns(start_response):
    start_response("200 OK", [("Content-Length", "5")])
    return [b"child"]

def is_interrupted(start_response):
    raise KeyboardInterrupt

def leaves_hard(start_response):
    os._exit(5)

def becomes_another(start_response):
    os.execv(sys.executable, [sys.executable, "-c", "raise SystemExit(6)"])

def writes(start_response):
    try:
        start_response("200 OK", [])(b"child")
    except RuntimeError as error:
        sys.exit(7 if "forked" in str(error) else 8)

def stops(start_response):
    for server in servers:
        server.stop()
        server.stop(False)
    sys.exit(9)

def is_terminated(start_response):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)

def forks_again(start_response):
    child = os.fork()
    if not child:
        sys.exit(20)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) + 1)

WAYS = {way.__name__: way for way in (
    exits, exits_with_text, exits_with_nothing, raises, returns, is_interrupted, leaves_hard, becomes_another, writes,
    stops, is_terminated, forks_again,
)}
servers = []

def code_of(child):
    return b"%d" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

class Iterable:
    # Forks where it is told to, and gives the child's exit code.
    def __init__(self, where):
        self.where, self.code = where, b"-"
    def fork(self, where):
        if where == self.where:
            if child := os.fork():
                self.code = code_of(child)
            else:
                self.where = "nowhere"
                return True
    def __iter__(self):
        self.fork("iter")
        self.blocks = iter((b"first", b"last"))
        return self
    def __next__(self):
        block = next(self.blocks)
        if block == b"last":
            if self.fork("next"):
                sys.exit(4)
            return self.code
        self.fork("block")
        return block
    def close(self):
        self.fork("close")

class Handler:
    def __call__(self, number, frame):
        if os.fork():
            os.wait()

def app(environ, start_response):
    where, _, way = environ["PATH_INFO"][1:].partition("/")
    if where == "pid":
        start_response("200 OK", [])
        return [b"%d" % os.getpid()]
    if where == "call":
        if not (child := os.fork()):
            return WAYS[way](start_response)
        start_response("200 OK", [])
        return [code_of(child)]
    if where == "outlive":
        child = FORKS[way]()
        start_response("200 OK", [])
        return [b"%d" % child]
    if where == "shell":
        start_response("200 OK", [])
        return [SHELLS[way]()]
    start_response("200 OK", [])
    return Iterable(where)

def forked():
    if not (child := os.fork()):
        time.sleep(600)
    return child

def started():
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,), daemon=way_is_daemon)
    process.start()
    return process.pid

def pooled():
    from concurrent.futures import ProcessPoolExecutor
    global pool
    pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))
    return pool.submit(os.getpid).result()

way_is_daemon = True
FORKS = {way.__name__: way for way in (forked, started, pooled)}

def system():
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    os.system(f"ls -l /proc/self/fd >&{writing}; exec true")
    os.close(writing)
    with open(reading, "rb") as listed:
        return listed.read()

def popen():
    return subprocess.run(["ls", "-l", "/proc/self/fd"], close_fds=False, stdout=subprocess.PIPE).stdout

SHELLS = {way.__name__: way for way in (system, popen)}
"""

ONE = """
import resource, sys
sys.path.insert(0, ".")
import bjoern, module
server = bjoern.Server(module.app, sys.argv[1], threads=int(sys.argv[2]), graceful_timeout=3)
module.servers.append(server)
server.run(ready=lambda: print("listening on", server.url, "(pid 0, ", file=sys.stderr, flush=True))
"""

Serve = Callable[..., Service]

WORKERS = ["one", "workers"]

# From 3.12 on, Python warns of a fork beside threads.
QUIET = {"PYTHONWARNINGS": "ignore"}


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """`serve("workers", 4)`: the forking application in workers of four threads; with "one", in one process."""

    def start(processes: str, threads: int = 1, *more: str, bind: str = "127.0.0.1:0", source: str = "") -> Service:
        (tmp_path / "module.py").write_text(FORKING + source)
        if processes == "one":
            return Service(bind, str(threads), cwd=tmp_path, program=("-c", ONE))
        arguments = ["-b", bind, "-w", "2", "--threads", str(threads), "--graceful-timeout", "3", *more]
        return Service(*arguments, "module:app", cwd=tmp_path)

    return start


def body(service: Service, path: str) -> str:
    return service.get(path)


def children_said(service: Service) -> list[str]:
    return [line for line in service.lines if "which the application forked" in line]


CODES = {
    "exits": 3,
    "exits_with_text": 1,
    "exits_with_nothing": 0,
    "raises": 1,
    "returns": 0,
    "is_interrupted": 130,
    "writes": 7,
    "stops": 9,
    "forks_again": 21,
    "leaves_hard": 5,
    "becomes_another": 6,
    "is_terminated": -SIGTERM,
}
BY_ITSELF = ("leaves_hard", "becomes_another", "is_terminated")


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("processes", WORKERS)
def test_child_of_a_call(serve: Serve, processes: str, threads: int) -> None:
    with serve(processes, threads) as service, connect(service.address) as idle:
        ask(idle, "/pid")
        assert idle.recv(4096).startswith(b"HTTP/1.1 200 ")
        told = 0
        for way, code in CODES.items():
            assert (way, int(service.get(f"/call/{way}"))) == (way, code)
            if way not in BY_ITSELF:
                line = service.wait(f"in GET /call/{way}, is not the server: it ends with exit code {code}")
                assert "bjoern" in line
                assert "warning: " in line
                told += 2 if way == "forks_again" else 1
            for _ in range(3):  # whichever worker it is
                assert int(service.get("/pid")) > 0
        assert len(children_said(service)) == told, service.lines
        ask(idle, "/pid")
        assert idle.recv(4096).startswith(b"HTTP/1.1 200 "), "the parent's connections are as they were"
        service.stop()
        said = "\n".join(service.lines)
        assert said.count("ZeroDivisionError: division by zero") == 1
        assert service.lines.count("KeyboardInterrupt") == 1
        assert said.count("a reason") == 1
        assert "replaced" not in said
        assert service.program.hear() == "not flushed"


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("processes", WORKERS)
def test_child_of_a_response(serve: Serve, processes: str, threads: int) -> None:
    """It is forked where the iterable is asked for its iterator or for a block, or is closed."""
    with serve(processes, threads) as service:
        for where, code in {"iter": 0, "block": 0, "next": 4, "close": 0}.items():
            with connect(service.address) as client:
                ask(client, f"/{where}", "Connection: close")
                got = answer(client)
            said = "-" if where == "close" else str(code)
            assert re.fullmatch(
                rb"HTTP/1.1 200 .*\r\n\r\n(5\r\n)?first(\r\n1\r\n)?" + said.encode() + rb"(\r\n0\r\n\r\n)?",
                got,
                re.DOTALL,
            ), got
            service.wait(f"in GET /{where}, is not the server: it ends with exit code {code}")
            assert int(service.get("/pid")) > 0
        service.stop()
        assert len(children_said(service)) == 4


@pytest.mark.parametrize("threads", [1, 4])
def test_child_of_a_signal_handler(serve: Serve, threads: int) -> None:
    source = "signal.signal(signal.SIGUSR1, Handler())\n"
    with serve("one", threads, source=source) as service:
        service.program.wait_until_asleep()  # all threads have been started
        service.send(signal.SIGUSR1)
        service.wait("in a signal handler, is not the server: it ends with exit code 0")
        assert int(service.get("/pid")) == service.pid
        service.stop()
        assert len(service.lines) == 2


@pytest.mark.parametrize("threads", [1, 4])
def test_child_of_a_handler_while_a_write_waits(tmp_path: Path, threads: int) -> None:
    """The main thread waits for a client that does not read, hears a signal, and its child must not send on."""
    source = """
import contextlib
def fork(number, frame):
    if os.fork():
        say("forked")
        os.wait()
signal.signal(signal.SIGUSR1, fork)
def app(environ, start_response):
    write = start_response("200 OK", [("Content-Length", str(8 << 20))])
    try:
        for letter in b"ab":
            write(bytes([letter]) * (4 << 20))
    except RuntimeError as error:
        say(error)
        raise
    return []
server = bjoern.Server(app, "127.0.0.1:0", threads=int(sys.argv[1]))
server.run(ready=lambda: say(server.addresses[0].port))
"""
    with Program.of(source, str(threads)) as program:
        with connect(int(program.hear())) as client:
            ask(client, "/", "Connection: close")
            assert client.recv(1)
            program.wait_until_asleep()
            program.send(signal.SIGUSR1)
            said = {program.hear()}
            if threads == 1:
                said.add(program.hear())
                assert "write() called in a process forked during the request; only its parent can answer" in said
            assert "forked" in said
            body = answer(client).partition(b"\r\n\r\n")[2]
        assert (body.count(b"a"), body.count(b"b"), len(body)) == (4 << 20, 4 << 20, 8 << 20)
        program.send(SIGTERM)
        end = program.end()
    assert end.code == -SIGTERM
    assert ("is not the server" in end.errors) == (end.errors != "")


def test_child_of_a_with_block(tmp_path: Path) -> None:
    """It has not the thread that serves, so it does not wait for that."""
    source = """
with bjoern.Server(app, "127.0.0.1:0", threads=int(sys.argv[1])) as server:
    child = os.fork()
    if child:
        say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), server.addresses[0].port)
        sys.stdin.readline()
if not child:
    os._exit(4)
"""
    for threads in ("1", "4"):
        with Program.of(source, threads, environ=QUIET) as program:
            code, port = program.hear().split()
            assert code == "4"
            assert get(port).endswith(b"ok")
            program.tell()
            assert program.end() == (0, "", "")


# Children that live on


def free(address: str) -> bool:
    """Whether an address can be had, as a server has it."""
    if address.startswith("unix:@"):
        with socket.socket(socket.AF_UNIX) as sock:
            with contextlib.suppress(OSError):
                sock.bind("\0" + address[len("unix:@") :])
                return True
            return False
    host, _, port = address.removeprefix("http://").rpartition(":")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            sock.bind((host, int(port)))
            sock.listen()
            return True
        return False


def is_killed(child: int, number: signal.Signals) -> bool:
    """Sends it the signal, again and again: CPython forgets those that come while it forks."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, number)
    return is_gone(child)


@contextlib.contextmanager
def killed(pids: list[int]) -> Iterator[None]:
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, SIGKILL)


@pytest.mark.parametrize("way", ["forked", "started", "pooled"])
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("processes", WORKERS)
def test_child_that_lives_on_does_not_keep_the_port(serve: Serve, processes: str, threads: int, way: str) -> None:
    pids: list[int] = []
    with serve(processes, threads) as service, killed(pids):
        for _ in range(4):
            pids.append(int(service.get(f"/outlive/{way}")))
        service.send(SIGTERM)
        service.program.process.wait(GUARD)
        if way == "forked":
            assert not any(map(is_gone, pids))
        until(lambda: free(service.address))  # a child lets go of it when it comes to run
        with killed(pids):
            pass
        assert service.end() == -SIGTERM


@pytest.mark.parametrize("processes", WORKERS)
def test_child_that_lives_on_does_not_keep_a_unix_address(serve: Serve, tmp_path: Path, processes: str) -> None:
    for bind in (f"unix:{tmp_path}/s", f"unix:@bjoern-{os.getpid()}-{time.monotonic_ns()}"):
        pids: list[int] = []
        with serve(processes, 1, bind=bind) as service, killed(pids):
            pids.append(int(service.get("/outlive/forked")))
            with connect(service.address) as client:
                ask(client, "/pid")
                service.send(SIGTERM)
                service.program.process.wait(GUARD)
                answer(client)
            if "@" in bind:
                until(lambda: free(service.address))  # a child lets go of it when it comes to run
            with pytest.raises(OSError):
                connect(service.address)
            with killed(pids):
                pass
            service.end()


def test_child_that_lives_on_lets_a_reload_lose_nothing(serve: Serve) -> None:
    pids: list[int] = []
    with serve("workers") as service, killed(pids):
        pids.append(int(service.get("/outlive/forked")))
        for _ in range(2):
            service.send(SIGHUP)
            service.wait("reloaded")
            pids.append(int(service.get("/outlive/forked")))
        assert int(service.get("/pid")) > 0
        service.send(SIGTERM)
        service.program.process.wait(GUARD)
        until(lambda: free(service.address))  # a child lets go of it when it comes to run
        with killed(pids):
            pass
        service.end()


def test_child_of_an_import_does_not_keep_the_port(serve: Serve) -> None:
    """In the process that forks the workers (with --preload), and in a worker."""
    for more in ("--preload", "--no-preload"):
        pids: list[int] = []
        source = "child = forked()\nos.write(2, b'child %d\\n' % child)\n"
        with serve("workers", 1, more, source=source) as service, killed(pids):
            pids += [int(line.split()[1]) for line in service.lines if line.startswith("child ")]
            assert pids
            assert int(service.get("/pid")) > 0
            service.send(SIGTERM)
            service.program.process.wait(GUARD)
            assert not any(map(is_gone, pids))
            until(lambda: free(service.address))  # a child lets go of it when it comes to run
            for pid in pids:
                until(lambda pid=pid: is_killed(pid, SIGTERM))  # type: ignore[misc]
            service.end()


@pytest.mark.parametrize("processes", WORKERS)
def test_signals_of_a_child_are_its_own(serve: Serve, processes: str) -> None:
    """It is killed by those that the server hears of."""
    for number in (SIGTERM, SIGINT, signal.SIGQUIT, SIGHUP, signal.SIGUSR1):
        pids: list[int] = []
        with serve(processes) as service, killed(pids):
            pids.append(int(service.get("/outlive/forked")))
            until(lambda child=pids[0], number=number: is_killed(child, number))  # type: ignore[misc]
            assert int(service.get("/pid")) > 0
            service.stop()
            said = service.lines[1:]
            # Python's own handler for SIGINT raises in the child, which ends as any other.
            assert len(said) == 0 or (number == SIGINT and "exit code 130" in said[-1]), said


def test_processes_that_share_a_listener_from_before_go_on(tmp_path: Path) -> None:
    """listen, fork, run: a pattern of bjoern 3. Whoever ends leaves the socket to the others."""
    source = """
def who(environ, start_response):
    start_response("200 OK", [])
    return [b"%d" % os.getpid()]
sock = bjoern.listen(who, "127.0.0.1", 0, threads=int(sys.argv[1]))
children = []
for _ in range(2):
    children.append(os.fork())
    if not children[-1]:
        break
else:
    say(sock.getsockname()[1], os.getpid(), *children)
bjoern.run()
"""
    for threads in ("1", "4"):
        with Program.of(source, threads, environ=QUIET) as program:
            port, *pids = program.hear().split()
            with killed(list(map(int, pids))):
                while pids:
                    others = {pid.encode() for pid in pids}
                    while others:  # until each has answered
                        others.discard(get(port).rpartition(b"\r\n")[2])
                    pid = int(pids.pop(0))
                    os.kill(pid, SIGTERM)
                    until(lambda pid=pid: is_gone(pid))  # type: ignore[misc]
                assert free(f"127.0.0.1:{port}")


def test_given_sockets_stay_open_beside_a_child(tmp_path: Path) -> None:
    source = """
def forking(environ, start_response):
    if not os.fork():
        sock.settimeout(10)
        os.write(writing, b"%d" % sock.accept()[1][1])
        os._exit(0)
    start_response("200 OK", [])
    return []
reading, writing = os.pipe()
sock = bjoern.bind_and_listen("127.0.0.1", 0)
server = bjoern.Server(forking, sockets=[sock], threads=int(sys.argv[1]))
signal.signal(signal.SIGUSR1, lambda *_: server.stop())
server.run(ready=lambda: say(sock.getsockname()[1]))
say("returned")
say(os.read(reading, 100).decode())
"""
    for threads in ("1", "4"):
        with Program.of(source, threads, environ=QUIET) as program:
            port = program.hear()
            assert get(port).startswith(b"HTTP/1.1 200 ")
            program.send(signal.SIGUSR1)
            assert program.hear() == "returned"
            with connect(port) as client:
                assert int(program.hear()) == client.getsockname()[1]
            assert program.end() == (0, "", "")


# What another program gets


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="open files are listed in /proc")
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("processes", WORKERS)
def test_programs_of_the_application_inherit_nothing(serve: Serve, processes: str, threads: int) -> None:
    more = ["--access-log", "log", "--pid", "pid"] if processes == "workers" else []
    with serve(processes, threads, *more) as service:
        for round in range(2):
            for way in ("system", "popen"):
                listed = re.findall(r" (\d+) -> (\S+)", service.get(f"/shell/{way}"))
                ours = [name for number, name in listed if int(number) > 2 and not re.match("pipe:|/proc/", name)]
                assert not ours, listed
            if processes == "workers" and not round:
                service.send(SIGHUP)
                service.wait("reloaded")
        service.stop()


JUNK = """
import glob, json, socket
JUNK_OF = [b"junk", b"", b"{", b"[]", b"7", b"null", b"\\xff\\xfe", b'"text"', b"{}", b"[" * 60_000, b'{"ready": true}',
           b'{"loaded": 7}', b'{"failed": 1}', b'{"forked": "x"}', b'{"ended": 77, "status": 0}', b'{"files": 7}',
           b'{"unknown": 1}', b"x" * 100_000]

def send_junk():
    # To the supervisor, by whatever socket this process has to it, in the place of a stranger who got hold of one.
    sent = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            sock = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue
        if sock.type == socket.SOCK_SEQPACKET:
            for junk in JUNK_OF:
                sent += sock.send(junk)
        sock.close()
    return b"%d" % sent

_forking = app
def app(environ, start_response):
    if environ["PATH_INFO"] != "/junk":
        return _forking(environ, start_response)
    start_response("200 OK", [])
    return [send_junk()]

if os.environ.get("JUNK"):
    send_junk()
"""


def test_junk_on_a_channel_does_no_harm(serve: Serve) -> None:
    with serve("workers", source=JUNK) as service:
        pids = service_pids(service)
        assert int(service.get("/junk")) > 100_000
        service.wait("was not understood")
        assert service_pids(service) == pids, "nobody was replaced"
        service.send(SIGHUP)
        service.wait("reloaded: 2 workers serve")
        assert not service_pids(service) & pids
        service.stop()


def test_junk_on_the_channel_of_the_process_that_forks_does_no_harm(serve: Serve, tmp_path: Path) -> None:
    with serve("workers", source=JUNK.replace('if os.environ.get("JUNK"):', "if True:")) as service:
        assert len(service_pids(service)) == 2
        service.send(SIGHUP)
        service.wait("reloaded: 2 workers serve")
        assert len(service_pids(service)) == 2
        service.stop()


def service_pids(service: Service) -> set[int]:
    """The processes that serve, once both have."""
    found: set[int] = set()
    until(lambda: bool(found.add(int(service.get("/pid")))) or len(found) == 2)
    return found
