"""Django's own: the admin and its database, forms with a CSRF token, `FileResponse`, its compressing middleware.

Knows: Django's site, forms as a browser fills them in.   Must not know: what every site does (`test_sites.py`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

import pytest
import requests

from apps.blocks import pattern
from conftest import Serve
from server_process import ServerProcess
from wire import GUARD

pytest.importorskip("django", reason="`make frameworks` installs django")

FILE = pattern(300_000)


@pytest.fixture
def site(shared: Serve) -> ServerProcess:
    return shared("frameworks.sites.django_site:app")


@pytest.fixture
def browser() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


def submit(browser: requests.Session, url: str, data: dict[str, str], **options: object) -> requests.Response:
    """Gets the form's page, then sends the form with the token in it."""
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', browser.get(url, timeout=GUARD).text)
    assert token
    return browser.post(url, {**data, "csrfmiddlewaretoken": token[1]}, timeout=GUARD, **options)  # type: ignore[arg-type]


def test_a_server_on_ipv6_needs_no_host(serve: Serve) -> None:
    """Django takes SERVER_NAME for it, and answers 400 to an address without brackets."""
    server = serve("frameworks.sites.django_site:app", host="::1")
    for path in ("/hello/you", "/hello/you?a=b"):
        assert server.ask("GET", path, host=None, version="1.0").status == 200
    away = server.ask("GET", "/admin/", host=None, version="1.0")
    assert (away.status, away.get("Location")) == (302, "/admin/login/?next=/admin/")


def test_admin(site: ServerProcess, browser: requests.Session) -> None:
    """Logs in, adds a group, finds it, deletes it, logs out."""
    denied = browser.get(site.url("/admin/auth/group/"), timeout=GUARD)
    assert denied.url.endswith("/admin/login/?next=/admin/auth/group/")
    login = {"username": "admin", "password": "wrong", "next": "/admin/"}
    assert "Please enter the correct username" in submit(browser, site.url("/admin/login/"), login).text
    welcome = submit(browser, site.url("/admin/login/"), login | {"password": "only for tests"})
    assert (welcome.url, "Site administration" in welcome.text) == (site.url("/admin/"), True)
    added = submit(browser, site.url("/admin/auth/group/add/"), {"name": "Bären"})
    assert "was added successfully" in added.text
    number = re.search(r"/admin/auth/group/(\d+)/change/", added.text)
    assert number
    assert "Bären" in browser.get(site.url("/admin/auth/group/?q=bär"), timeout=GUARD).text
    deleted = submit(browser, site.url(f"/admin/auth/group/{number[1]}/delete/"), {"post": "yes"})
    assert "was deleted successfully" in deleted.text
    token = {"csrfmiddlewaretoken": browser.cookies["csrftoken"]}
    assert "Logged out" in browser.post(site.url("/admin/logout/"), token, timeout=GUARD).text
    assert "/admin/login/" in browser.get(site.url("/admin/"), timeout=GUARD).url


def test_a_form_without_its_token(site: ServerProcess) -> None:
    files = {"file": ("a.bin", pattern(5_000_000))}
    assert requests.post(site.url("/picture"), {"title": "a"}, files=files, timeout=GUARD).status_code == 403


@pytest.mark.parametrize(("size", "kind"), [(1, "InMemory"), (200_000, "InMemory"), (5_000_000, "Temporary")])
def test_upload_through_a_form(site: ServerProcess, browser: requests.Session, size: int, kind: str) -> None:
    content = pattern(size)
    response = submit(browser, site.url("/picture"), {"title": "Größe"}, files={"file": ("a.bin", content)})
    assert response.json() == {
        "title": "Größe",
        "kind": f"{kind}UploadedFile",
        "size": size,
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def test_a_form_with_mistakes(site: ServerProcess, browser: requests.Session) -> None:
    response = submit(browser, site.url("/picture"), {"title": "x" * 21}, files={"file": ("a.bin", b"")})
    assert response.status_code == 422
    assert "at most 20 characters" in response.text
    assert "file is empty" in response.text


@pytest.mark.parametrize(
    ("query", "disposition"),
    [
        ("", 'inline; filename="stored.bin"'),
        ("?attachment", 'attachment; filename="stored.bin"'),
        ("?attachment&name=gr%C3%B6%C3%9Fe.bin", "attachment; filename*=utf-8''gr%C3%B6%C3%9Fe.bin"),
    ],
)
def test_file_response(site: ServerProcess, query: str, disposition: str) -> None:
    with site.connect() as client:
        for _ in range(2):
            response = client.ask("GET", f"/file{query}")
            assert (response.body, response.framing) == (FILE, "length")
            assert response.get("Content-Disposition") == disposition
        head = client.ask("HEAD", f"/file{query}")
        assert (head.body, head.get("Content-Length")) == (b"", "300000")


def test_file_response_of_a_generator(site: ServerProcess) -> None:
    response = site.ask("GET", "/generated")
    assert response.body == b"".join(b"%d\n" % number for number in range(1000))


def test_compressed(site: ServerProcess, browser: requests.Session) -> None:
    whole = browser.get(site.url("/long_text"), timeout=GUARD)
    assert (whole.headers["Content-Encoding"], whole.text) == ("gzip", "all the same " * 10_000)
    stream = browser.get(site.url("/stream/1000"), timeout=GUARD)
    assert stream.text == "".join(f"{number}\n" for number in range(1000))
    assert stream.headers.get("Content-Encoding") == "gzip"
    unchanged = browser.get(site.url("/hello/you"), timeout=GUARD).headers["ETag"]
    answer = browser.get(site.url("/hello/you"), headers={"If-None-Match": unchanged}, timeout=GUARD)
    assert (answer.status_code, answer.content) == (304, b"")
