"""nginx in front, as docs/running.md has it: over TCP and a unix socket.

How it works: the client connects to nginx from an address of its own (127.0.0.x), so that it differs from nginx's.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from conftest import Observer, Serve
from server_process import ServerProcess
from system.load import Load
from wire import message

ECHO = "apps.echo:raw"
CLIENT = "127.0.0.7"


@pytest.fixture(params=["tcp", "unix"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Where a server listens, and whom it trusts."""
    if request.param == "unix":
        return {"host": f"unix:{tmp_path_factory.mktemp('s')}/s", "forwarded_allow_ips": "unix"}
    return {"forwarded_allow_ips": "127.0.0.1"}


def test_the_environ_is_the_clients(serve: Serve, nginx: Any, place: dict[str, Any]) -> None:
    proxy = nginx(serve(ECHO, **place).address)
    port = str(proxy.address[1])
    with proxy.connect(CLIENT) as client:
        environ = client.ask("GET", "/a?b", host=f"shop.example:{port}").json()["environ"]
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == (CLIENT, "")
    assert (environ["wsgi.url_scheme"], environ["HTTP_HOST"]) == ("http", f"shop.example:{port}")
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("shop.example", port)
    assert environ["HTTP_X_FORWARDED_FOR"] == CLIENT


@pytest.mark.parametrize(
    "lines",
    [
        ["X-Forwarded-For: 127.0.0.1"],
        ["X-Forwarded-For: 127.0.0.1", "X-Forwarded-For: 127.0.0.1"],
        ["X-Forwarded-For: rubbish"],
        ["X-Forwarded-For:"],
        ["X_Forwarded_For: 127.0.0.1"],
        ["X-Forwarded-Proto: https", "X-Forwarded-Host: evil.example", "X-Forwarded-Port: 1"],
        ["Forwarded: for=127.0.0.1;host=evil.example;proto=https"],
    ],
)
def test_clients_that_lie(serve: Serve, nginx: Any, place: dict[str, Any], lines: list[str]) -> None:
    proxy = nginx(serve(ECHO, **place).address)
    with proxy.connect(CLIENT) as client:
        environ = client.ask("GET", "/", *lines).json()["environ"]
    assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"], environ["HTTP_HOST"]) == (CLIENT, "http", "test")


def test_connections_are_kept(serve: Serve, nginx: Any) -> None:
    """Where nobody is trusted, the peer's port tells nginx's connections apart."""
    proxy = nginx(serve(ECHO).address)
    ports = set()
    for _ in range(3):
        with proxy.connect() as client:
            for body in (None, b"hello"):
                ports.add(client.ask("POST", "/", body=body).json()["environ"]["REMOTE_PORT"])
    assert len(ports) == 1


@pytest.mark.parametrize("lines", [[], ["proxy_request_buffering off;"]], ids=["buffered", "as it comes"])
def test_uploads(serve: Serve, nginx: Any, place: dict[str, Any], lines: list[str]) -> None:
    proxy = nginx(serve(ECHO, **place).address, *lines)
    body = bytes(range(256)) * 20_000
    framings: list[dict[str, Any]] = [{"body": body}, {"chunks": [body[:1000], body[1000:]]}, {"body": b""}]
    with proxy.connect(CLIENT) as client:
        for framing in framings:
            report = client.ask("POST", "/", **framing).json()
            sent = framing.get("body", body)
            assert report["sha256"] == hashlib.sha256(sent).hexdigest()
            assert report["environ"]["CONTENT_LENGTH"] == str(len(sent))
            assert report["environ"]["REMOTE_ADDR"] == CLIENT


def test_downloads(serve: Serve, nginx: Any, place: dict[str, Any]) -> None:
    proxy = nginx(serve("apps.blocks:app", **place).address)
    with proxy.connect() as client:
        for kind in ("one", "generator", "file"):
            for length in ("", "&length=1"):
                response = client.ask("GET", f"/{kind}?size=3000000&block=50000{length}")
                assert (response.status, len(response.body)) == (200, 3_000_000)


def test_a_stream_is_not_held(serve: Serve, nginx: Any, observer: Observer, place: dict[str, Any]) -> None:
    proxy = nginx(serve("apps.observed:app", **place).address, "proxy_buffering off;")
    with proxy.connect() as client:
        client.send(message("GET", "/iterate?blocks=3&size=10&gated=1", observer.line))
        observer.go()
        response = client.recv_head()
        for number in range(3):
            assert client.recv_exactly(len(b"a\r\n" + b"x" * 10 + b"\r\n")), f"block {number} before the next is made"
            observer.go()
        assert client.recv_block(response) == b""
    assert observer.all()[-1] == "close"


def test_a_path_below_the_root(serve: Serve, nginx: Any, place: dict[str, Any]) -> None:
    proxy = nginx(serve(ECHO, root_path="/shop", **place).address, "rewrite ^/gone/(.*)$ /$1 break;")
    with proxy.connect() as client:
        for target, path_info in [("/shop/a", "/a"), ("/shop", ""), ("/gone/a", "/a")]:
            environ = client.ask("GET", target).json()["environ"]
            assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/shop", path_info)


@pytest.mark.usefixtures("wrk")
@pytest.mark.parametrize("threads", [1, 4])
def test_load(serve: Serve, nginx: Any, place: dict[str, Any], threads: int) -> None:
    server: ServerProcess = serve("apps.blocks:app", threads=threads, **place)
    proxy = nginx(server.address)
    for target in ("/one?size=100", "/generator?size=20000&block=1000"):
        summary = Load(proxy.url(target)).end()
        assert summary.requests > 0
        assert (summary.errors, summary.others) == (0, 0)
