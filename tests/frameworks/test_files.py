"""Files as frameworks send them: parts (RFC 9110 section 14), conditions (section 13), HEAD; each with its own code.

Knows: `/file` of the sites that do conditional responses.   Must not know: whether sendfile was used.
"""

from __future__ import annotations

import gzip

import pytest

from apps.blocks import pattern
from conftest import Serve
from server_process import ServerProcess
from wire import Response

FILE = pattern(300_000)


@pytest.fixture(params=["flask", "werkzeug", "bottle", "webob", "whitenoise"])
def framework(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    pytest.importorskip(name, reason=f"`make frameworks` installs {name}")
    return name


@pytest.fixture
def site(framework: str, shared: Serve) -> ServerProcess:
    return shared(f"frameworks.sites.{framework}_site:app")


def twice(site: ServerProcess, *lines: str, method: str = "GET") -> Response:
    """The answer to a request on a connection that then still works."""
    with site.connect() as client:
        response = client.ask(method, "/file", *lines)
        assert client.ask("GET", "/file").body == FILE
    return response


@pytest.mark.parametrize(
    ("part", "start", "end"),
    [
        ("0-1", 0, 2),  # WhiteNoise refuses a part of one byte
        ("0-299999", 0, 300_000),
        ("100-199", 100, 200),
        ("299998-", 299_998, 300_000),
        ("131072-262143", 131_072, 262_144),
        ("-10", 299_990, 300_000),
        ("299990-400000", 299_990, 300_000),
    ],
)
def test_part(site: ServerProcess, part: str, start: int, end: int) -> None:
    response = twice(site, f"Range: bytes={part}")
    assert (response.status, response.body) == (206, FILE[start:end])
    assert response.get("Content-Range") == f"bytes {start}-{end - 1}/300000"
    head = twice(site, f"Range: bytes={part}", method="HEAD")
    assert (head.status in (200, 206), head.body) == (True, b"")


def test_part_outside(framework: str, site: ServerProcess) -> None:
    response = twice(site, "Range: bytes=300000-")
    assert response.status == 416
    if framework == "bottle":  # it does not close the file that it then does not send
        site.wait_stderr("object allocation traceback\n")


def test_unchanged(site: ServerProcess) -> None:
    whole = twice(site)
    assert (whole.status, whole.body) == (200, FILE)
    validators = {"ETag": "If-None-Match", "Last-Modified": "If-Modified-Since"}
    conditions = [f"{condition}: {whole.get(name)}" for name, condition in validators.items() if whole.get(name)]
    assert conditions
    for condition in conditions:
        for method in ("GET", "HEAD"):
            response = twice(site, condition, method=method)
            assert (response.status, response.framing, response.body) == (304, "none", b"")


def test_changed(site: ServerProcess) -> None:
    for condition in ('If-None-Match: W/"other"', "If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT"):
        response = twice(site, condition)
        assert (response.status, response.body) == (200, FILE)


@pytest.mark.parametrize("kind", ["app", "checked"])
def test_compressed_variant(shared: Serve, kind: str) -> None:
    pytest.importorskip("whitenoise", reason="`make frameworks` installs whitenoise")
    site = shared(f"frameworks.sites.whitenoise_site:{kind}")
    style = b"p { margin: 0 }\n" * 5000
    with site.connect() as client:
        for coding, compressed in (("gzip, br", True), ("identity", False), ("gzip;q=0.5", True)):
            response = client.ask("GET", "/page.css", f"Accept-Encoding: {coding}")
            assert (response.get("Content-Encoding") == "gzip") is compressed
            assert (gzip.decompress(response.body) if compressed else response.body) == style
            assert response.get("Vary") == "Accept-Encoding"
        if kind == "app":  # the checker misses a Content-Type
            assert client.ask("POST", "/page.css", body=b"x").status == 405
        assert client.ask("GET", "/elsewhere").body == b"not static"
