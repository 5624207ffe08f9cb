"""Flask's own: streams inside their request, messages flashed across a redirect, downloads under a name.

Knows: Flask's site.   Must not know: what every site does (`test_sites.py`).
"""

from __future__ import annotations

import pytest
import requests

from conftest import Serve
from server_process import ServerProcess
from wire import GUARD, Closed, message

pytest.importorskip("flask", reason="`make frameworks` installs flask")


@pytest.fixture
def site(shared: Serve) -> ServerProcess:
    return shared("frameworks.sites.flask_site:app")


def test_stream_with_context(site: ServerProcess) -> None:
    """Two streams at once: each keeps the request and session it began with."""
    with site.connect() as one, site.connect() as other:
        cookie = (one.ask("GET", "/count").get("Set-Cookie") or "").partition(";")[0]
        one.send(message("GET", "/in_context/2000?word=one", f"Cookie: {cookie}"))
        other.send(message("GET", "/in_context/2000?word=other"))
        assert other.recv_response().body == b"".join(b"%d other 0\n" % number for number in range(2000))
        assert one.recv_response().body == b"".join(b"%d one 1\n" % number for number in range(2000))


def test_a_stream_that_breaks(site: ServerProcess) -> None:
    with site.connect() as client:
        client.send(message("GET", "/broken_stream"))
        response = client.recv_head()
        assert (response.status, client.recv_block(response)) == (200, b"first\n")
        with pytest.raises(Closed):
            client.recv_block(response)
    site.wait_stderr("ValueError: in the stream of /broken_stream\n")
    assert site.ask("GET", "/hello/you").body == b"Hello, you!"


def test_flashed_message(site: ServerProcess) -> None:
    with requests.Session() as session:
        assert session.get(site.url("/flash"), timeout=GUARD).json() == ["seen once"]
        assert session.get(site.url("/flashed"), timeout=GUARD).json() == []


@pytest.mark.parametrize(
    ("part", "first"), [("-100", (1 << 30) - 100), (f"{1 << 29}-{(1 << 29) + 99}", 1 << 29), ("0-99", 0)]
)
def test_a_part_of_a_large_file_is_not_searched_for_by_reading(site: ServerProcess, part: str, first: int) -> None:
    response = site.ask("GET", "/large", f"Range: bytes={part}")
    assert (response.status, response.body) == (206, bytes(100))
    assert response.get("Content-Range") == f"bytes {first}-{first + 99}/{1 << 30}"
    assert site.ask("GET", "/reads").json() == 1


def test_download_under_a_name(site: ServerProcess) -> None:
    response = requests.get(site.url("/file?attachment"), timeout=GUARD)
    assert "filename*=UTF-8''gr%C3%B6%C3%9Fe.bin" in response.headers["Content-Disposition"]
    assert len(response.content) == 300_000
