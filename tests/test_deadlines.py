"""`timeout` and `slow_request`: calls of the application that take longer than they may.

How it works: applications that never end by themselves (`apps.overrun`) show that somebody ends them.
Knows: what clients, logs and applications see.   Must not know: who keeps watch.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

import bjoern
from conftest import Calls, Serve
from server_process import ServerProcess
from wire import Client, Response

APP = "apps.overrun:app"
SHORT = 0.05  # seconds; what overruns it never ends by itself
THREADS = (1, 3)


def refused(response: Response) -> None:
    assert response.status == 503
    assert response.get("Retry-After") == "1"
    assert response.get("Content-Length") == "0"
    assert response.closes


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
        log = server.wait_stderr("spin_for_ever")
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
        assert len(re.findall(rf"^bjoern: GET /brief\?ms=400&n={number} has been running for ", log, re.M)) == 1
    assert log.count(f"longer than slow_request={SHORT}; it is here:\n") == 3
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
