"""Falcon's own: hooks, middleware around streams, multipart parts read as they come.

Knows: Falcon's site.   Must not know: what every site does (`test_sites.py`).
"""

from __future__ import annotations

import pytest

from conftest import Serve

pytest.importorskip("falcon", reason="`make frameworks` installs falcon")


@pytest.mark.parametrize(
    ("method", "path", "status", "stamp", "marked"),
    [
        ("GET", "/hello/you", 200, "GET, True", "11"),
        ("HEAD", "/hello/you", 200, "HEAD, True", "11"),
        ("GET", "/stream/3", 200, "GET, True", None),
        ("HEAD", "/file", 200, "HEAD, True", None),
        ("GET", "/away", 302, "GET, False", None),
        ("GET", "/nowhere", 404, "GET, False", None),
        ("DELETE", "/hello/you", 405, "DELETE, False", None),
        ("GET", "/error", 500, "GET, False", None),
    ],
)
def test_hooks_and_middleware(
    shared: Serve, method: str, path: str, status: int, stamp: str, marked: str | None
) -> None:
    site = shared("frameworks.sites.falcon_site:app")
    with site.connect() as client:
        response = client.ask(method, path)
        assert (response.status, response.get("X-Stamp"), response.get("X-Marked")) == (status, stamp, marked)
        assert client.ask("GET", "/hello/you").get("X-Stamp") == "GET, True"
    if status == 500:
        site.wait_stderr("ValueError: on purpose\n")


def test_a_form_that_ends_too_early(shared: Serve) -> None:
    """Falcon reads the parts from `wsgi.input` as they come, and meets its end."""
    site = shared("frameworks.sites.falcon_site:app")
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"y" * 2_000_000
    with site.connect() as client:
        assert client.ask("POST", "/upload", "Content-Type: multipart/form-data; boundary=x", body=body).status == 400
        assert client.ask("GET", "/hello/you").body == b"Hello, you!"
