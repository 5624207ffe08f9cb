"""The same site in seven frameworks, each also between `wsgiref.validate`'s checkers: all of them answer alike.

Knows: what `sites` promises, `requests`.   Must not know: which framework answers.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any
from urllib.parse import quote

import pytest
import requests

from apps.blocks import pattern
from conftest import Serve
from server_process import ServerProcess
from wire import GUARD, message

FRAMEWORKS = ["flask", "django", "werkzeug", "falcon", "bottle", "pyramid", "webob"]
LOGGING = ["flask", "falcon", "bottle"]  # those that tell of errors on stderr
FILE = pattern(300_000)
SPILLED = 3_000_000  # bytes: past the server's body_buffer and past what the frameworks keep in memory


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    pytest.importorskip(name, reason=f"`make frameworks` installs {name}")
    return name


@pytest.fixture(params=["app", "checked"])
def site(request: pytest.FixtureRequest, framework: str, shared: Serve) -> ServerProcess:
    return shared(f"frameworks.sites.{framework}_site:{request.param}")


def get(site: ServerProcess, path: str, **options: Any) -> requests.Response:
    return requests.get(site.url(path), timeout=GUARD, **options)


@pytest.mark.parametrize("name", ["you", "Björn", "a b", "50%"])
def test_path(site: ServerProcess, name: str) -> None:
    response = get(site, f"/hello/{quote(name)}")
    assert (response.status_code, response.content) == (200, f"Hello, {name}!".encode())
    assert response.headers["Content-Length"] == str(len(response.content))


@pytest.mark.parametrize("path", ["/hello/you", "/file"])
def test_head_is_get_without_its_body(site: ServerProcess, path: str) -> None:
    """On the connection that the GET behind it uses, so that a body sent nevertheless is seen."""
    with site.connect() as client:
        head, whole = client.ask("HEAD", path), client.ask("GET", path)
        assert (head.status, whole.status, head.body) == (200, 200, b"")
        assert len(whole.body) == int(head.get("Content-Length") or -1)
        same = {"content-length", "content-type", "connection", "transfer-encoding"}  # the rest is the framework's
        assert {(key, value) for key, value in head.fields if key.lower() in same} == {
            (key, value) for key, value in whole.fields if key.lower() in same
        }


@pytest.mark.parametrize("blocks", [0, 1, 1000])
def test_stream(site: ServerProcess, blocks: int) -> None:
    with site.connect() as client:
        for _ in range(2):
            response = client.ask("GET", f"/stream/{blocks}")
            assert response.body == b"".join(b"%d\n" % number for number in range(blocks))
            assert response.framing == "chunked" or not blocks


def test_stream_to_http_1_0(site: ServerProcess) -> None:
    response = site.ask("GET", "/stream/1000", version="1.0")
    assert (response.framing, response.body[-4:]) == ("close", b"999\n")


def test_cookie(site: ServerProcess) -> None:
    with requests.Session() as session:
        counts = [session.get(site.url("/count"), timeout=GUARD).json() for _ in range(5)]
    assert (counts, get(site, "/count").json()) == ([1, 2, 3, 4, 5], 1)


def test_file(site: ServerProcess) -> None:
    with site.connect() as client:
        for _ in range(3):
            assert client.ask("GET", "/file").body == FILE


@pytest.mark.parametrize("size", [0, 1, 200_000, SPILLED])
def test_upload(site: ServerProcess, size: int) -> None:
    content = pattern(size)
    files = {"file": ("picture.png", content, "image/png")}
    response = requests.post(site.url("/upload"), data={"word": "grüß"}, files=files, timeout=GUARD)
    assert response.json() == {
        "name": "picture.png",
        "word": "grüß",
        "size": size,
        "sha256": hashlib.sha256(content).hexdigest(),
    }


@pytest.mark.parametrize("framing", ["body", "chunks"])
@pytest.mark.parametrize("size", [0, 1, 200_000, SPILLED])
def test_raw(site: ServerProcess, size: int, framing: str) -> None:
    content = pattern(size)
    pieces = [content[start : start + 70_000] for start in range(0, size, 70_000)]
    with site.connect() as client:
        sent: dict[str, Any] = {"body": content} if framing == "body" else {"chunks": pieces}
        response = client.ask("POST", "/raw", "Content-Type: application/octet-stream", **sent)
        assert response.json() == {"size": size, "sha256": hashlib.sha256(content).hexdigest()}
        assert client.ask("GET", "/hello/you").body == b"Hello, you!"


def test_a_body_that_the_application_does_not_read(site: ServerProcess) -> None:
    """What is left of it must not be taken for the next request."""
    with site.connect() as client:
        body = message("GET", "/error")
        answers = [client.ask("POST", "/hello/you", body=body * 1000), client.ask("GET", "/hello/you")]
        assert answers[0].status in (200, 403, 404, 405)
        assert answers[1].body == b"Hello, you!"


@pytest.mark.parametrize(("path", "status"), [("/empty", 204), ("/away", 302), ("/nowhere", 404), ("/hello", 404)])
def test_status(site: ServerProcess, path: str, status: int) -> None:
    with site.connect() as client:
        response = client.ask("GET", path)
        assert response.status == status
        assert status != 204 or (response.framing, response.body) == ("none", b"")
        assert (response.get("Location") or "/hello/away").endswith("/hello/away")
        assert client.ask("GET", "/hello/you").body == b"Hello, you!"


def test_redirect(site: ServerProcess) -> None:
    assert get(site, "/away").text == "Hello, away!"


def test_pipelined(site: ServerProcess) -> None:
    with site.connect() as client:
        client.send(
            message("GET", "/hello/1")
            + message("POST", "/raw", "Content-Type: application/octet-stream", body=b"abc")
            + message("HEAD", "/file")
            + message("GET", "/empty")
            + message("GET", "/stream/2")
        )
        assert client.recv_response().body == b"Hello, 1!"
        assert json.loads(client.recv_response().body)["size"] == 3
        assert client.recv_response("HEAD").body == b""
        assert client.recv_response().status == 204
        assert client.recv_response().body == b"0\n1\n"


def test_an_error_is_the_frameworks_to_answer(framework: str, site: ServerProcess) -> None:
    """The connection is as good as before."""
    with site.connect() as client:
        response = client.ask("GET", "/error")
        assert (response.status, response.closes) == (500, False)
        assert response.body
        assert client.ask("GET", "/hello/you").body == b"Hello, you!"
    if framework in LOGGING:
        site.wait_stderr("ValueError: on purpose\n")


def test_clients_that_leave_inside_the_stream(site: ServerProcess) -> None:
    for ending in ("close", "reset"):
        for _ in range(5):
            client = site.connect(receive_buffer=4096)
            client.send(message("GET", "/stream/1000000"))
            client.recv_head()
            getattr(client, ending)()
    assert get(site, "/hello/you").text == "Hello, you!"
