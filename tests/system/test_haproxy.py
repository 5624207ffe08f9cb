"""HAProxy in front, as docs/running.md has it: with fields, and with the PROXY protocol.

How it works: the client connects to HAProxy from an address of its own (127.0.0.x), so that it differs from HAProxy's.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from conftest import Observer, Serve
from programs import Program
from system.load import Load
from wire import message

ECHO = "apps.echo:raw"
CLIENT = "127.0.0.7"
FIELDS, PREFACE = 0, 1  # the examples' numbers
TRUSTED: list[tuple[int, dict[str, Any]]] = [
    (FIELDS, {"forwarded_allow_ips": "127.0.0.1"}),
    (PREFACE, {"forwarded_allow_ips": "127.0.0.1", "proxy_protocol": True}),
]
both = pytest.mark.parametrize(("example", "options"), TRUSTED, ids=["fields", "PROXY protocol"])


@both
def test_the_environ_is_the_clients(serve: Serve, haproxy: Any, example: int, options: dict[str, Any]) -> None:
    proxy = haproxy(serve(ECHO, **options).address, example)
    port = str(proxy.address[1])
    with proxy.connect(CLIENT) as client:
        environ = client.ask("GET", "/a?b", host=f"shop.example:{port}").json()["environ"]
        own = str(client.sock.getsockname()[1])
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == (CLIENT, own if example == PREFACE else "")
    assert (environ["wsgi.url_scheme"], environ["HTTP_HOST"]) == ("http", f"shop.example:{port}")
    if example == FIELDS:
        assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("shop.example", port)


@both
@pytest.mark.parametrize(
    "lines",
    [
        ["X-Forwarded-For: 127.0.0.1"],
        ["X-Forwarded-For: rubbish"],
        ["X-Forwarded-Proto: https", "X-Forwarded-Host: evil.example", "X-Forwarded-Port: 1"],
        ["Forwarded: for=127.0.0.1;host=evil.example;proto=https"],
    ],
)
def test_clients_that_lie(serve: Serve, haproxy: Any, example: int, options: dict[str, Any], lines: list[str]) -> None:
    proxy = haproxy(serve(ECHO, **options).address, example)
    with proxy.connect(CLIENT) as client:
        environ = client.ask("GET", "/", *lines).json()["environ"]
    assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"], environ["HTTP_HOST"]) == (CLIENT, "http", "test")
    assert ("HTTP_X_FORWARDED_FOR" in environ) == (example == FIELDS)


@pytest.mark.parametrize(
    "version", ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl-cn proxy-v2-options unique-id,crc32c"]
)
def test_every_version_of_the_header(serve: Serve, haproxy: Any, version: str) -> None:
    server = serve(ECHO, proxy_protocol=True)
    proxy = haproxy(server.address, PREFACE, (" send-proxy-v2 ", f" {version} "))
    with proxy.connect(CLIENT) as client:
        for _ in range(3):
            assert client.ask("POST", "/", body=b"x").json()["environ"]["REMOTE_ADDR"] == CLIENT


def test_over_a_unix_socket(serve: Serve, haproxy: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    host = f"unix:{tmp_path_factory.mktemp('s')}/s"
    server = serve(ECHO, host=host, proxy_protocol=True, forwarded_allow_ips="unix")
    with haproxy(server.address, PREFACE).connect(CLIENT) as client:
        assert client.ask().json()["environ"]["REMOTE_ADDR"] == CLIENT


def test_connections_that_are_kept_keep_their_clients_apart(serve: Serve, haproxy: Any) -> None:
    """HAProxy reads HTTP here, and could send several clients' requests down one connection."""
    server = serve(ECHO, proxy_protocol=True)
    reading = ("mode tcp", "mode http\n    http-reuse always")
    proxy = haproxy(server.address, PREFACE, reading)
    clients = {f"127.0.0.{number}": proxy.connect(f"127.0.0.{number}") for number in range(2, 8)}
    for _ in range(5):
        for source, client in clients.items():
            assert client.ask("POST", "/", body=b"hello").json()["environ"]["REMOTE_ADDR"] == source
    for client in clients.values():
        client.close()


def test_health_checks_have_the_address_of_the_proxy(haproxy: Any) -> None:
    """They say LOCAL: the proxy speaks for itself."""
    program = """
def tell(environ, start_response):
    say(environ["PATH_INFO"], environ["REMOTE_ADDR"])
    return app(environ, start_response)
server = bjoern.Server(tell, "127.0.0.1:0", proxy_protocol=True, forwarded_allow_ips="127.0.0.1")
with server:
    say(server.addresses[0].port)
    sys.stdin.readline()
    say("refused", server.stats()["bad_proxy_header"], server.stats()["untrusted_proxy"])
"""
    with Program.of(program) as running:
        pairs = ("mode tcp", "mode http"), (" check", " check inter 50ms\n    option httpchk GET /health")
        proxy = haproxy(("127.0.0.1", int(running.hear())), PREFACE, *pairs)
        assert [running.hear() for _ in range(3)] == ["/health 127.0.0.1"] * 3
        with proxy.connect(CLIENT) as client:
            assert client.ask("GET", "/a").status == 200
        running.tell()
        said = running.end().output.splitlines()
    assert set(said) - {"/health 127.0.0.1"} == {f"/a {CLIENT}", "refused 0 0"}


@both
def test_uploads_and_downloads(serve: Serve, haproxy: Any, example: int, options: dict[str, Any]) -> None:
    body = bytes(range(256)) * 20_000
    proxy = haproxy(serve(ECHO, **options).address, example)
    with proxy.connect(CLIENT) as client:
        for framing in ({"body": body}, {"chunks": [body[:1000], body[1000:]]}):
            report = client.ask("POST", "/", **framing).json()
            assert report["sha256"] == hashlib.sha256(body).hexdigest()
            assert report["environ"]["REMOTE_ADDR"] == CLIENT
    proxy = haproxy(serve("apps.blocks:app", **options).address, example)
    with proxy.connect(CLIENT) as client:
        assert len(client.ask("GET", "/generator?size=3000000&block=50000").body) == 3_000_000


@both
def test_a_stream_is_not_held(
    serve: Serve, haproxy: Any, observer: Observer, example: int, options: dict[str, Any]
) -> None:
    proxy = haproxy(serve("apps.observed:app", **options).address, example)
    with proxy.connect() as client:
        client.send(message("GET", "/iterate?blocks=3&size=10&gated=1", observer.line))
        observer.go()
        response = client.recv_head()
        for number in range(3):
            assert client.recv_exactly(len(b"a\r\n" + b"x" * 10 + b"\r\n")), f"block {number} before the next is made"
            observer.go()
        assert client.recv_block(response) == b""
    assert observer.all()[-1] == "close"


@pytest.mark.usefixtures("wrk")
@both
@pytest.mark.parametrize("threads", [1, 4])
def test_load(serve: Serve, haproxy: Any, example: int, options: dict[str, Any], threads: int) -> None:
    server = serve("apps.blocks:app", threads=threads, **options)
    proxy = haproxy(server.address, example)
    for target in ("/one?size=100", "/generator?size=20000&block=1000"):
        summary = Load(proxy.url(target)).end()
        assert summary.requests > 0
        assert (summary.errors, summary.others) == (0, 0)
