"""Threads of one process, with CPython's lock and without it (PEP 703): what is done at once is as if done in turn.

How it works: a program serves, asks and interferes in threads of its own, several hundred times, and says what came of
it. Where there is a GIL, it shows less; `make free-threaded` runs all tests where there is none.
Knows: `programs`.   Must not know: what guards the server's state.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

SECONDS = 120  # until a program hangs; nothing is measured

# The programs are in `crowd(times, work)`: that many threads begin `work(number)` at the same moment; what they return.
PRELUDE = """
import gc, threading
from http.client import HTTPConnection
from bjoern import Server
from programs import answer, ask, connect, get

def crowd(times, work):
    start, results = threading.Barrier(times), [None] * times
    def run(number):
        start.wait()
        results[number] = work(number)
    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(times)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    return results

def port(server):
    return server.addresses[0].port

def body(response):
    return response.partition(b"\\r\\n\\r\\n")[2]
"""


def said(program: str) -> list[str]:
    """The lines a program prints. It runs in Python's development mode, and says nothing on stderr."""
    command = [sys.executable, "-X", "dev", "-c", PRELUDE + program]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environ)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this CPython always has its GIL")
def test_import_leaves_the_gil_off() -> None:
    program = "import sys, bjoern; print(sys._is_gil_enabled())"
    environ = {name: value for name, value in os.environ.items() if name != "PYTHON_GIL"}
    command = [sys.executable, "-W", "error", "-c", program]  # CPython warns where a module wants it back
    assert subprocess.run(command, check=True, capture_output=True, text=True, env=environ).stdout == "False\n"


def test_servers_beside_each_other() -> None:
    """Four servers, four clients for each, and a thread that stops the world and looks at the counters."""
    program = """
def application(number):
    def app(environ, start_response):
        text = f"{number} {environ['PATH_INFO']} {environ['HTTP_X_TEXT']}".encode()
        write = start_response("200 OK", [("X-Number", str(number))])
        if environ["PATH_INFO"] == "/written": write(text); return []
        if environ["PATH_INFO"] == "/iterated": return iter([text[:3], text[3:]])
        return [text]
    return app

servers = [Server(application(number), "127.0.0.1:0") for number in range(4)]
served = threading.Event()

def interfere():
    while not served.wait(0.002):
        gc.collect()
        for server in servers: server.stats()

def client(number):
    wrong, server = [], number % 4
    connection = HTTPConnection("127.0.0.1", port(servers[server]))
    for turn in range(100):
        path = ("/listed", "/written", "/iterated")[turn % 3]
        connection.request("GET", path, headers={"X-Text": turn, f"X-Only-{turn}": "a"})
        response = connection.getresponse()
        found = response.status, response.headers["X-Number"], response.read().decode()
        if found != (200, str(server), f"{server} {path} {turn}"): wrong.append(found)
    connection.close()
    return wrong

with servers[0], servers[1], servers[2], servers[3]:
    interferer = threading.Thread(target=interfere)
    interferer.start()
    print(sum(crowd(16, client), []))
    served.set()
    interferer.join()
print([server.stats()["requests"] for server in servers])
"""
    assert said(program) == ["[]", "[400, 400, 400, 400]"]


def test_start_response_by_several_threads_at_once() -> None:
    """One of them is heard, and its head is whole; the others are told that they are not the first."""
    program = """
def app(environ, start_response):
    def begin(number):
        try:
            start_response(f"20{number} Of Thread", [("X-Thread", str(number))] * (number + 1))
        except TypeError as error:
            return str(error)
    refusals = crowd(4, begin)
    assert sorted(map(bool, refusals)) == [False, True, True, True], refusals
    assert {*filter(None, refusals)} == {
        "'start_response' called twice without passing 'exc_info' the second time"}, refusals
    return [str(refusals.index(None)).encode()]

with Server(app, "127.0.0.1:0") as server:
    for _ in range(200):
        response = get(port(server))
        number = int(body(response))
        assert response.startswith(b"HTTP/1.1 20%d Of Thread\\r\\n" % number), response
        assert response.count(b"X-Thread: %d\\r\\n" % number) == response.count(b"X-Thread") == number + 1, response
print("done")
"""
    assert said(program) == ["done"]


def test_write_by_several_threads_at_once() -> None:
    """Each block is in the response, whole, or its writer was told that another thread writes."""
    program = """
def app(environ, start_response):
    write = start_response("200 OK", [])
    def add(number):
        written = b""
        for _ in range(20):
            block = b"%d" % number * 1000 + b" "
            try:
                write(block)
            except RuntimeError:
                continue
            written += block
        return written
    expected.append(b"".join(crowd(4, add)))
    return []

expected = []
with Server(app, "127.0.0.1:0") as server:
    for _ in range(50):
        with connect(port(server)) as sock:
            sock.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            received = body(answer(sock))
        assert sorted(received.split()) == sorted(expected.pop().split())
print("done")
"""
    assert said(program) == ["done"]


def test_start_response_kept_by_a_thread() -> None:
    """A `start_response` and a `write` that outlive their request in another thread never touch a later one."""
    program = """
import queue

def app(environ, start_response):
    kept = [start_response]
    handed.put(kept)  # for a thread to use when it has been handed more, while the request of that time begins
    kept.append(start_response("200 OK", [("X-Mine", "yes")]))
    del start_response
    return [b"mine"] if environ["PATH_INFO"] == "/listed" else iter([b"mi", b"ne"])

def is_refused(function, *arguments):
    try:
        function(*arguments)
    except (TypeError, RuntimeError):
        return True

def misuse(number):
    several, refused = [], 0
    def misuse_first():
        start_response, write = several.pop(0)
        return is_refused(start_response, "500 Foreign", []) and is_refused(write, b"foreign")
    while (kept := handed.get()) is not None:
        several.append(kept)
        del kept
        if len(several) > 3: refused += misuse_first()
    while several: refused += misuse_first()
    return refused

handed, refused = queue.SimpleQueue(), []
misusers = threading.Thread(target=lambda: refused.extend(crowd(4, misuse)), daemon=True)
misusers.start()
with Server(app, "127.0.0.1:0") as server:
    connection = HTTPConnection("127.0.0.1", port(server))
    for turn in range(500):
        connection.request("GET", ("/listed", "/iterated")[turn % 2])
        response = connection.getresponse()
        found = response.status, response.headers["X-Mine"], response.read()
        assert found == (200, "yes", b"mine"), found
    connection.close()
for number in range(4): handed.put(None)
misusers.join()
print(sum(refused))
"""
    assert said(program) == ["500"]


def test_stopped_by_several_threads_at_once() -> None:
    program = """
for turn in range(50):
    server = Server(lambda environ, start_response: [], "127.0.0.1:0")
    serving = threading.Event()
    def run(number):
        if number == 0:
            server.run(ready=serving.set)
        else:
            if turn % 2: serving.wait()
            server.stop()
            server.stats()
    crowd(5, run)
    assert server.stats()["open"] == 0
print("done")
"""
    assert said(program) == ["done"]


def test_closed_by_several_threads_at_once(tmp_path: Path) -> None:
    """Of two that close a `socket.socket` at once, without a GIL, the second may close another's descriptor."""
    program = f"""
for turn in range(300):
    server = Server(lambda environ, start_response: [], "unix:{tmp_path}/socket")
    crowd(4, lambda number: server.close())
    crowd(4, lambda number: server.close())
print("done")
"""
    assert said(program) == ["done"]
