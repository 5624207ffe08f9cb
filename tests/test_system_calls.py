"""What the server asks of the kernel, as strace sees it: two calls and a wait for a request, none while it idles.

Here is how it works: 1. a server starts under strace; 2. a client sends requests whose targets are marks; 3. the server
ends, and so does strace; 4. the calls between two marks are looked at. Memory is left out: it is the interpreter's.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import DEVNULL, PIPE

import pytest

from wire import GUARD, Client, message

WARM_UP = 20  # requests, after which nothing is done for the first time
REQUESTS = 50
BURST = 1000  # pipelined requests
WAITS = ("epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll", "select", "pselect6")
LONG_ENOUGH = 1.0  # seconds: a server that looks ten times a second, as bjoern 3 did, shows ten calls

SERVE = """
import os, bjoern
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"hello"]
server = bjoern.Server(app, "127.0.0.1:0", threads=1)  # several wake each other now and then
server.run(ready=lambda: print(os.getpid(), server.addresses[0].port, flush=True))
"""


def _why_not() -> str:
    """Why nothing can be traced here, or ""."""
    if not sys.platform.startswith("linux"):
        return "strace is for Linux"
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(["strace", "-f", "-o", os.devnull, "true"], capture_output=True, text=True)
    return f"strace cannot trace here: {tried.stderr.strip()}" if tried.returncode else ""


REASON = _why_not()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

Play = Callable[[Client], None]
Trace = Callable[[Play], "list[str]"]


@pytest.fixture
def trace(tmp_path: Path) -> Iterator[Trace]:
    """`trace(play)`: a server under strace, `play` with a connection to it; then its threads' calls, a line each."""
    log = tmp_path / "calls"
    command = ["strace", "-f", "-s", "64", "-e", "trace=!%memory", "-e", "signal=none", "-o", str(log)]
    tracer = subprocess.Popen([*command, sys.executable, "-c", SERVE], stdout=PIPE, stderr=DEVNULL, text=True)
    assert tracer.stdout is not None
    server = 0

    def run(play: Play) -> list[str]:
        nonlocal server
        server, port = map(int, tracer.stdout.readline().split())  # type: ignore[union-attr]
        with Client(("127.0.0.1", port)) as client:
            play(client)
        os.kill(server, signal.SIGINT)
        tracer.wait(GUARD)
        server = 0
        return log.read_text().splitlines()

    try:
        yield run
    finally:
        if server:
            os.kill(server, signal.SIGKILL)  # and strace ends with it
        else:
            tracer.kill()
        tracer.wait(GUARD)
        tracer.stdout.close()


def ask(client: Client, target: str, *lines: str) -> None:
    assert client.ask("GET", target, *lines).body == b"hello"


def lines_between(lines: list[str], start: str, end: str) -> tuple[str, list[str]]:
    """The thread that serves, and everybody's lines after the first with `start`, to the first behind it with `end`."""
    first = next(place for place, line in enumerate(lines) if start in line)
    last = next(place for place, line in enumerate(lines) if place > first and end in line)
    return lines[first].split()[0], lines[first + 1 : last + 1]


def sleeps_of_others(lines: list[str], start: str, end: str) -> int:
    """How often another thread, which is the watch, began to sleep until it is called: a wait without a time."""
    thread, within = lines_between(lines, start, end)
    return sum("FUTEX_WAIT" in line and ", NULL, " in line and line.split()[0] != thread for line in within)


def between(lines: list[str], start: str, end: str) -> Counter[str]:
    """The calls that began after the first line with `start` and no later than the first one behind it with `end`,
    of the thread that serves: the watch has its own.
    """
    thread, within = lines_between(lines, start, end)
    # "<... epoll_wait resumed>" is the end of a call that was counted where it began.
    names = (re.match(rf"{thread} +(\w+)\(", line) for line in within)
    return Counter("wait" if name[1] in WAITS else name[1] for name in names if name)


def test_a_request_costs_a_receive_a_send_and_a_wait(trace: Trace) -> None:
    def play(client: Client) -> None:
        for _ in range(WARM_UP):
            ask(client, "/")
        ask(client, "/from")
        for _ in range(REQUESTS - 1):
            ask(client, "/")
        ask(client, "/to")

    calls = between(trace(play), "GET /from ", "GET /to ")
    assert calls.pop("wait") <= REQUESTS
    assert calls == {"recvfrom": REQUESTS, "sendto": REQUESTS}


def test_pipelined_requests_cost_together_what_one_does(trace: Trace) -> None:
    def play(client: Client) -> None:
        for before, first in (("/", "/"), ("/from", "/first")):  # at first there is no watch, and nothing is held
            ask(client, before)
            client.send(message("GET", first) + message("GET", "/") * 15)
            for _ in range(16):
                assert client.recv_response().body == b"hello"
        ask(client, "/to")

    lines = trace(play)
    calls = between(lines, "GET /from ", "GET /to ")
    assert calls.pop("wait") <= 2
    # Calls the watch, if it sleeps: once, and again where strace kept the server for so long that it slept anew.
    assert calls.pop("futex", 0) <= 1 + sleeps_of_others(lines, "GET /from ", "GET /to ")
    assert calls == {"recvfrom": 2, "sendto": 2}


def test_an_idle_server_makes_no_call(trace: Trace) -> None:
    """One wait, begun when nothing was left to do, lasts until the next request, the connection being kept.

    So it is after a busy time, too, once whatever helped then has gone to sleep.
    """

    def play(client: Client) -> None:
        client.send(message() * BURST)
        for _ in range(BURST):
            assert client.recv_response().body == b"hello"
        select.select([], [], [], LONG_ENOUGH)
        ask(client, "/from")
        select.select([], [], [], LONG_ENOUGH)
        ask(client, "/to")

    assert between(trace(play), "GET /from ", "GET /to ") == {"sendto": 1, "wait": 1, "recvfrom": 1}


def test_an_idle_server_without_connections_makes_no_call(trace: Trace) -> None:
    """One wait, from the end of the last connection to the beginning of the next."""

    def play(client: Client) -> None:
        ask(client, "/from", "Connection: close")
        client.expect_close()
        select.select([], [], [], LONG_ENOUGH)
        with Client(client.sock.getpeername()) as other:
            ask(other, "/to")

    calls = between(trace(play), "GET /from ", "accept4(")
    assert calls["wait"] == 1
    assert set(calls) <= {"sendto", "shutdown", "close", "wait", "accept4"}
