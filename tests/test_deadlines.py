"""`timeout` and `slow_request`: calls of the application that take longer than they may.

How it works: applications that never end by themselves (`apps.overrun`) show that somebody ends them.
Knows: what clients, logs and applications see.   Must not know: who keeps watch.
"""

from __future__ import annotations

import contextlib
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import bjoern
from conftest import Calls, Serve
from programs import Program, answer, ask, connect
from server_process import ServerProcess
from wire import GUARD, Client, Response, message

APP = "apps.overrun:app"
SHORT = 0.05  # seconds; what overruns it never ends by itself
THREADS = (1, 3)


def refused(response: Response) -> None:
    response.check_error(503)


def is_alive(server: ServerProcess) -> None:
    """More requests than there are threads."""
    for _ in range(4):
        assert server.ask("GET", "/quick").body == b"ok"


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize(("path", "end"), [("loop", b"loop"), ("swallow", b"not swallowed"), ("caught", b"caught")])
def test_a_call_in_python_code_is_interrupted(serve: Serve, threads: int, path: str, end: bytes) -> None:
    server = serve(APP, timeout=SHORT, threads=threads)
    for _ in range(4):
        refused(server.ask("GET", f"/{path}?a=b"))
        log = server.wait_stderr("RequestTimeout raised in it")
        assert "spin_for_ever" in log
        assert f"GET /{path}?a=b has been running for " in log
        assert f"longer than timeout={SHORT}: its client is answered, and RequestTimeout raised in it" in log
        while not (ended := server.ask("GET", "/ends").body):
            pass  # the client is answered first
        assert ended == end
    is_alive(server)
    assert "Traceback" not in server.stderr()


@pytest.mark.parametrize("threads", THREADS)
def test_a_call_in_c_code_is_answered_for_though_it_goes_on(serve: Serve, calls: Calls, threads: int) -> None:
    server = serve(APP, timeout=SHORT, threads=threads)
    refused(server.ask("GET", "/native", calls.line))
    assert "in native" in server.wait_stderr("gate.recv")
    calls.at("native 0").go()
    while server.ask("GET", "/ends").body != b"native":
        pass
    is_alive(server)


@pytest.mark.parametrize("threads", THREADS)
def test_a_response_that_has_begun_is_cut(serve: Serve, threads: int) -> None:
    server = serve(APP, timeout=SHORT, threads=threads)
    with server.connect() as client:
        client.send(b"GET /stream HTTP/1.1\r\nHost: h\r\n\r\n")
        wire = everything(client)
    assert wire.endswith(b"5\r\nfirst\r\n")  # and no last chunk
    with server.connect() as client, pytest.raises(ConnectionResetError):
        client.send(b"GET /stream HTTP/1.0\r\n\r\n")  # to be ended by the connection's end
        everything(client)
    server.wait_stderr("GET /stream has been running for ")
    is_alive(server)


def everything(client: Client) -> bytes:
    wire = b""
    while block := client.sock.recv(65536):
        wire += block
    return wire


def test_a_response_that_its_connection_ends_is_reset_while_the_call_goes_on(serve: Serve, calls: Calls) -> None:
    server = serve(APP, timeout=SHORT, threads=2)
    with server.connect() as client:
        client.send(message("GET", "/native_stream", calls.line, version="1.0"))
        call = calls.at("native_stream 0")
        with pytest.raises(ConnectionResetError):  # the call has not come back
            everything(client)
    server.wait_stderr("gate.recv")
    call.go()
    is_alive(server)


@pytest.mark.parametrize("threads", THREADS)
def test_write_to_a_client_that_does_not_read_ends_by_write_timeout(serve: Serve, threads: int) -> None:
    """A call's time is the application's: it does not count what write() waits for a client."""
    server = serve(APP, timeout=SHORT, write_timeout=1, threads=threads)
    with server.connect(receive_buffer=4096) as client:
        client.send(message("GET", "/write"))
        while server.ask("GET", "/ends").body != b"write":
            pass
        wire, _ = client.recv_until_end()
    assert not wire.endswith(b"0\r\n\r\n")
    is_alive(server)
    assert "RequestTimeout" not in server.stderr()


@pytest.mark.parametrize("threads", THREADS)
def test_the_time_of_a_call_goes_on_behind_a_wait_for_its_client(threads: int) -> None:
    """What write() waits is not counted; what the call does then is, and the exception meets it."""
    ended = threading.Event()

    def app(environ: Any, start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/quick":
            start_response("200 OK", [])
            return [b"ok"]
        start_response("200 OK", [])(b"x" * 8_000_000)
        try:
            while True:
                time.sleep(0)
        finally:
            ended.set()

    with bjoern.Server(app, "127.0.0.1:0", timeout=SHORT, threads=threads) as server:
        with Client(server.addresses[0], receive_buffer=4096) as client:  # type: ignore[arg-type]
            client.send(message("GET", "/write"))
            wire, _ = client.recv_until_end()
            assert len(wire) > 8_000_000 and not wire.endswith(b"0\r\n\r\n")
        assert ended.wait(GUARD)
        assert server.stats()["timed_out"] == 1


@pytest.mark.parametrize("threads", THREADS)
def test_a_file_that_comes_to_no_end_is_closed(serve: Serve, threads: int) -> None:
    server = serve(APP, timeout=SHORT, threads=threads)
    with server.connect() as client:
        client.send(message("GET", "/read"))
        assert everything(client).endswith(b"5\r\nfirst\r\n")
    while server.ask("GET", "/ends").body != b"read":
        pass
    assert "in read\n" in server.wait_stderr("spin_for_ever")


@pytest.mark.parametrize("threads", THREADS)
def test_what_comes_too_late_is_closed_and_nobody_gets_it(serve: Serve, threads: int) -> None:
    """Nor is a request behind it on the same connection served."""
    server = serve(APP, timeout=SHORT, threads=threads)
    with server.connect() as client:
        client.send(message("GET", "/late") + message("GET", "/loop"))
        refused(client.recv_response())
        client.expect_close()
    while server.ask("GET", "/ends").body != b"late":
        pass
    is_alive(server)
    assert "/loop" not in server.wait_stderr("spin_for_ever")


@pytest.mark.parametrize(("method", "version"), [("HEAD", "1.1"), ("GET", "1.0"), ("POST", "1.1")])
def test_each_kind_of_request_is_refused_alike(serve: Serve, method: str, version: str) -> None:
    server = serve(APP, timeout=SHORT)
    body = b"x" * 100_000 if method == "POST" else None
    refused(server.ask(method, "/loop", version=version, body=body))
    server.wait_stderr("spin_for_ever")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["loop", "late_block"])
def test_a_browser_is_refused_with_a_page(serve: Serve, method: str, path: str) -> None:
    """Whether the call or the first block of its response takes too long."""
    server = serve(APP, timeout=SHORT)
    server.ask(method, f"/{path}", "Accept: text/html,*/*;q=0.8").check_error(503, html=True)
    server.wait_stderr("spin_for_ever")


def test_both_limits_are_told_of(serve: Serve) -> None:
    server = serve(APP, timeout=2 * SHORT, slow_request=SHORT, threads=2)
    refused(server.ask("GET", "/loop"))
    log = server.wait_stderr("longer than timeout=")
    assert log.index("longer than slow_request=") < log.index("longer than timeout=")
    assert log.count("has been running for ") == 2


class Broken:
    """A stderr that cannot be written to."""

    def write(self, text: str) -> int:
        raise OSError("the disk is full")

    def flush(self) -> None:
        pass


@pytest.mark.parametrize("stderr", [None, Broken()])
def test_a_log_that_cannot_be_written_is_no_reason_to_go_on(monkeypatch: pytest.MonkeyPatch, stderr: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        try:
            while True:
                time.sleep(0)
        finally:
            ended.set()

    ended = threading.Event()
    with bjoern.Server(app, "127.0.0.1:0", timeout=SHORT, threads=2) as server:
        with monkeypatch.context() as patch, Client(server.addresses[0]) as client:  # type: ignore[arg-type]
            patch.setattr(sys, "stderr", stderr)
            refused(client.ask())
            assert ended.wait(GUARD)
        assert server.stats()["timed_out"] == 1


@pytest.mark.parametrize("threads", THREADS)
def test_what_was_ended_is_counted(capfd: pytest.CaptureFixture[str], threads: int) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        while environ["PATH_INFO"] != "/quick":
            time.sleep(0)
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    with bjoern.Server(app, "127.0.0.1:0", timeout=SHORT, threads=threads) as server:
        for number in range(1, 4):
            with Client(server.addresses[0]) as client:  # type: ignore[arg-type]
                refused(client.ask())
            with Client(server.addresses[0]) as client:  # type: ignore[arg-type]
                assert client.ask("GET", "/quick").body == b"ok"
            counts = server.stats()
            assert [counts[name] for name in ("timed_out", "requests")] == [number, 2 * number]
    assert [server.stats()[name] for name in ("failed", "cut", "open")] == [0, 0, 0]
    assert capfd.readouterr().err.count("longer than timeout=") == 3


def threads_of(pid: int) -> list[str]:
    names = []
    for path in Path(f"/proc/{pid}/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            names.append(path.read_text().strip())
    return names


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 10)])
def test_an_interruption_that_waits_takes_no_signal_away(number: signal.Signals, code: int) -> None:
    """In a single thread, the first Python code behind time.sleep() is the signal's handler."""
    source = """
import time
def app(environ, start_response):
    time.sleep(1000)
server = bjoern.Server(app, "127.0.0.1:0", threads=1, timeout=0.05)
say(server.addresses[0].port)
try:
    server.run()
except KeyboardInterrupt:
    sys.exit(10)
"""
    with Program.of(source) as program, connect(program.hear()) as client:
        ask(client)
        assert answer(client).startswith(b"HTTP/1.1 503 ")
        log = iter(program.process.stderr.readline, "")  # type: ignore[union-attr]
        assert any(", in app" in line for line in log)
        while "bjoern-report" in threads_of(program.process.pid):
            pass  # raises it behind the log
        program.send(number)
        assert program.end().code == code


@pytest.mark.parametrize("threads", THREADS)
def test_an_interruption_never_meets_another_request(serve: Serve, threads: int) -> None:
    server = serve(APP, timeout=0.01, threads=threads)
    with server.connect() as client:
        other = client
        for _ in range(150):
            if other.ask("GET", "/brief?ms=10").status == 503:  # or it was just in time
                other = server.connect()
            assert server.ask("GET", "/quick").body == b"ok"
        other.close()
    log = server.stderr()
    assert "Traceback" not in log
    assert "/quick" not in log


@pytest.mark.parametrize("threads", THREADS)
def test_slow_requests_are_told_once_and_answered(serve: Serve, threads: int) -> None:
    server = serve(APP, slow_request=SHORT, threads=threads)
    with server.connect() as client:
        for number in range(3):
            assert client.ask("GET", f"/brief?ms=400&n={number}").body == b"in time"
    log = server.wait_stderr("n=2 has been running")
    for number in range(3):
        said = rf"^bjoern: warning: GET /brief\?ms=400&n={number} has been running for "
        assert len(re.findall(said, log, re.M)) == 1
    assert log.count(f"longer than slow_request={SHORT}; the stack above says where it is\n") == 3
    assert ", in brief\n" in log
    assert "RequestTimeout" not in log


def test_no_limit_is_the_default(serve: Serve) -> None:
    server = serve(APP)
    assert server.ask("GET", "/brief?ms=300").body == b"in time"


@pytest.mark.parametrize("target", ["/loop?\x80\xff", "/loop?%0a\\n", "/loop?" + "x" * 5000])
def test_targets_are_escaped_and_cut_in_the_log(serve: Serve, target: str) -> None:
    server = serve(APP, timeout=SHORT)
    if target.isascii():
        refused(server.ask("GET", target))
        line = next(line for line in server.wait_stderr("spin_for_ever").splitlines() if "has been running" in line)
        assert line.isascii()
        assert len(line) < 400
    else:
        assert server.ask("GET", target).status == 400


@pytest.mark.parametrize("options", [{"timeout": -1}, {"slow_request": "x"}, {"timeout": float("nan")}])
def test_bad_values(options: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        bjoern.Server(lambda *_: [], "127.0.0.1:0", **options)
