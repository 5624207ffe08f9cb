"""Flask and Django sites served and used as a browser uses them.

Knows: `requests`, the two sites below `apps`.   Must not know: anything that only this server has.
"""

from __future__ import annotations

import hashlib

import pytest
import requests

from apps.blocks import pattern
from conftest import Serve
from wire import GUARD

FLASK, DJANGO = "apps.flask_site:app", "apps.django_site:app"


@pytest.fixture(params=[FLASK, DJANGO], ids=["flask", "django"])
def site(request: pytest.FixtureRequest, shared: Serve) -> str:
    return shared(request.param).url()


def test_session(site: str) -> None:
    with requests.Session() as session:
        assert [session.get(f"{site}/count", timeout=GUARD).json()["count"] for _ in range(5)] == [1, 2, 3, 4, 5]
        assert session.get(f"{site}/away", timeout=GUARD).json()["count"] == 6
    assert requests.get(f"{site}/count", timeout=GUARD).json()["count"] == 1


@pytest.mark.parametrize("size", [0, 1, 100_000, 5_000_000])
def test_upload(site: str, size: int) -> None:
    content = pattern(size)
    files = {"file": ("naïve name.bin", content, "application/octet-stream")}
    report = requests.post(f"{site}/upload", data={"word": "grüß"}, files=files, timeout=GUARD).json()
    assert report == {
        "name": "naïve name.bin",
        "size": size,
        "sha256": hashlib.sha256(content).hexdigest(),
        "form": {"word": "grüß"},
    }


@pytest.mark.parametrize("blocks", [0, 1, 1000])
def test_stream(site: str, blocks: int) -> None:
    with requests.get(f"{site}/stream/{blocks}", params={"word": "ö"}, stream=True, timeout=GUARD) as response:
        assert blocks == 0 or response.headers["Transfer-Encoding"] == "chunked"
        response.encoding = "utf-8"
        assert list(response.iter_lines(decode_unicode=True)) == [f"{number} ö" for number in range(blocks)]


def test_paths(site: str) -> None:
    report = requests.get(f"{site}/path/a%20b/ü/%2541", timeout=GUARD).json()
    assert (report["rest"], report["remote"]) == ("a b/ü/%41", "127.0.0.1")
    assert report["url"].startswith(site)


def test_head_and_missing(site: str) -> None:
    with requests.Session() as session:
        assert session.head(f"{site}/count", timeout=GUARD).status_code == 200
        assert session.get(f"{site}/nowhere", timeout=GUARD).status_code == 404
        assert session.get(f"{site}/count", timeout=GUARD).json()["count"] >= 1


def test_flask_json_download_and_error(shared: Serve) -> None:
    server = shared(FLASK)
    site = server.url()
    with requests.Session() as session:
        assert session.post(f"{site}/json", json={"a": [1, "ä"]}, timeout=GUARD).json() == {"a": [1, "ä"]}
        assert session.get(f"{site}/download", timeout=GUARD).content == pattern(300_000)
        assert session.get(f"{site}/missing", timeout=GUARD).status_code == 404
        assert session.get(f"{site}/error", timeout=GUARD).status_code == 500
        server.wait_stderr("Flask answers this itself")
        assert session.get(f"{site}/count", timeout=GUARD).json()["count"] == 1


@pytest.mark.parametrize(
    ("form", "status", "answer"),
    [
        ({"name": "Björn", "age": "4"}, 200, {"name": "Björn", "age": 4}),
        ({"name": "", "age": "-1"}, 422, {"name", "age"}),
    ],
)
def test_django_form(shared: Serve, form: dict[str, str], status: int, answer: object) -> None:
    response = requests.post(shared(DJANGO).url("/person"), data=form, timeout=GUARD)
    assert response.status_code == status
    assert (response.json() if status == 200 else set(response.json()["errors"])) == answer
