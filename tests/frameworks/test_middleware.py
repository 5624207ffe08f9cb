"""Middleware between the server and an application: it wraps what it is given, and nothing may get lost on the way.

Knows: the stacks in `sites`.   Must not know: frameworks.
"""

from __future__ import annotations

from typing import Any

import pytest

from conftest import Serve
from server_process import ServerProcess
from wire import Closed, message

WRAPPED = "frameworks.sites.middleware:wrapped"
PROXIED = "frameworks.sites.werkzeug_middleware:proxied"
DEBUGGED = "frameworks.sites.werkzeug_middleware:debugged"
REPORTED = "frameworks.sites.sentry_middleware:app"


@pytest.mark.parametrize("stack", [WRAPPED, f"{WRAPPED}_checked"])
@pytest.mark.parametrize(
    ("path", "status", "body", "written", "statuses"),
    [
        ("/plain", 200, b"plain", 0, ["200 OK"]),
        ("/lazy", 200, b"lazy", 0, ["200 OK"]),
        ("/written", 200, b"written and returned", 8, ["200 OK"]),
        ("/replaced", 503, b"replaced", 0, ["200 OK", "503 Sorry"]),
    ],
)
def test_wrapped_start_response(
    shared: Serve, stack: str, path: str, status: int, body: bytes, written: int, statuses: list[str]
) -> None:
    server = shared(stack)
    with server.connect() as client:
        response = client.ask("GET", path)
        assert (response.status, response.body, response.get("X-Wrapped")) == (status, body, "1")
        if stack == WRAPPED:
            counted = {"written": written, "iterated": len(body) - written, "closed": 1, "statuses": statuses}
            assert client.ask("GET", "/counted").json() == counted
    if path == "/replaced":
        server.wait_stderr("ValueError: before the head\n")


def test_wrapped_start_response_of_a_client_that_leaves(shared: Serve) -> None:
    server = shared(WRAPPED)
    with server.connect() as client:
        client.send(message("GET", "/failing_late"))
        assert client.recv_block(client.recv_head()) == b"first"
        with pytest.raises(Closed):
            client.recv_exactly(1)
    assert server.ask("GET", "/counted").json()["closed"] == 1
    server.wait_stderr("ValueError: after the head\n")


FORWARDED = {
    "X-Forwarded-For": "192.0.2.7",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "example.org",
    "X-Forwarded-Port": "8443",
    "X-Forwarded-Prefix": "/shop",
}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], {"REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "test", "wsgi.url_scheme": "http", "SCRIPT_NAME": ""}),
        (["X-Forwarded-For"], {"REMOTE_ADDR": "192.0.2.7"}),
        (["X-Forwarded-Proto"], {"wsgi.url_scheme": "https", "REMOTE_ADDR": "127.0.0.1"}),
        (["X-Forwarded-Host"], {"HTTP_HOST": "example.org", "SERVER_NAME": "example.org"}),
        (["X-Forwarded-Host", "X-Forwarded-Port"], {"HTTP_HOST": "example.org:8443", "SERVER_PORT": "8443"}),
        (["X-Forwarded-Prefix"], {"SCRIPT_NAME": "/shop", "PATH_INFO": "/told"}),
        (list(FORWARDED), {"REMOTE_ADDR": "192.0.2.7", "HTTP_HOST": "example.org:8443", "SCRIPT_NAME": "/shop"}),
        ([], {"REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "test", "SCRIPT_NAME": ""}),
    ],
    ids=lambda value: "+".join(value) or "none" if isinstance(value, list) else "",
)
def test_proxy_fix(shared: Serve, names: list[str], expected: dict[str, str]) -> None:
    pytest.importorskip("werkzeug", reason="`make frameworks` installs werkzeug")
    with shared(PROXIED).connect() as client:
        client.ask("GET", "/told", *[f"{name}: {value}" for name, value in FORWARDED.items()])  # leaves nothing behind
        told = client.ask("GET", "/told", *[f"{name}: {FORWARDED[name]}" for name in names]).json()
        assert {name: told[name] for name in expected} == expected


def test_a_proxys_own_list_of_clients(shared: Serve) -> None:
    """Fields of one name arrive as one list, of which ProxyFix believes the last."""
    pytest.importorskip("werkzeug", reason="`make frameworks` installs werkzeug")
    lines = ["X-Forwarded-For: 198.51.100.1", "X-Forwarded-For: 192.0.2.7"]
    assert shared(PROXIED).ask("GET", "/told", *lines).json()["REMOTE_ADDR"] == "192.0.2.7"


def test_debugger(shared: Serve) -> None:
    pytest.importorskip("werkzeug", reason="`make frameworks` installs werkzeug")
    server = shared(DEBUGGED)
    with server.connect() as client:
        response = client.ask("GET", "/failing", host="localhost")
        assert (response.status, response.get("Content-Type")) == (500, "text/html; charset=utf-8")
        assert b"ValueError: before the head" in response.body
        assert b"Werkzeug Debugger" in response.body
        assert client.ask("GET", "/plain", host="localhost").body == b"plain"
    server.wait_stderr("ValueError: before the head\n")


def test_debugger_in_a_stream(shared: Serve) -> None:
    """It may not answer any more; whether it lets the stream end or break, the server goes on."""
    pytest.importorskip("werkzeug", reason="`make frameworks` installs werkzeug")
    server = shared(DEBUGGED)
    with server.connect() as client:
        client.send(message("GET", "/failing_late"))
        response = client.recv_head()
        assert (response.status, client.recv_block(response)) == (200, b"first")
    server.wait_stderr("ValueError: after the head\n")
    assert server.ask("GET", "/plain").body == b"plain"


def events(server: ServerProcess) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.ask("GET", "/events").json()
    return found


@pytest.mark.parametrize(
    ("path", "status", "failure"),
    [
        ("plain", "ok", None),
        ("lazy", None, None),  # Sentry looks before the application has begun
        ("written", "ok", None),
        ("replaced", "unavailable", None),
        ("nowhere", "not_found", None),
        ("failing", "internal_error", "before the head"),
        ("failing_late", None, "after the head"),
    ],
)
def test_sentry(shared: Serve, path: str, status: str | None, failure: str | None) -> None:
    """A transaction for each request, with the status its `start_response` saw, and an event for each failure."""
    pytest.importorskip("sentry_sdk", reason="`make frameworks` installs sentry-sdk")
    server = shared(REPORTED)
    events(server)
    with server.connect() as client:
        client.send(message("GET", f"/{path}"))
        client.recv_head()
    found = events(server)
    assert [event["url"] for event in found] == [path] * (2 if failure else 1)
    assert [event["failure"] for event in found if event["type"] == "event"] == ([[failure]] if failure else [])
    transactions = [event for event in found if event["type"] == "transaction"]
    assert status is None or [event["status"] for event in transactions] == [status]
    if failure or path == "replaced":
        server.wait_stderr(f"ValueError: {failure or 'before the head'}\n")


def test_sentry_around_streams_that_cross(shared: Serve) -> None:
    """What each of several streams at once reports is told with its own request."""
    pytest.importorskip("sentry_sdk", reason="`make frameworks` installs sentry-sdk")
    server = shared(REPORTED)
    events(server)
    clients = [server.connect(receive_buffer=4096) for _ in range(5)]
    for number, client in enumerate(clients):
        client.send(message("GET", f"/failing_at_the_end?{number}"))
    for client in clients:
        client.recv_until_close()
        client.close()
    told = {event["query"]: event["failure"] for event in events(server) if event["failure"]}
    assert told == {str(number): [f"in {number}"] for number in range(5)}
    for number in range(5):
        server.wait_stderr(f"ValueError: in {number}\n")
