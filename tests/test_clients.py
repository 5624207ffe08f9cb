"""Clients that people use: http.client, urllib, requests, curl, and h11 as a second opinion on every response.

Knows: these clients.   Must not know: raw bytes (`wire.py` is for that).
"""

from __future__ import annotations

import hashlib
import http.client
import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h11
import pytest
import requests

from apps.blocks import KINDS, pattern
from conftest import Serve
from server_process import ServerProcess
from wire import GUARD

ECHO, BLOCKS = "apps.echo:app", "apps.blocks:app"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# The standard library ------------------------------------------------------------------------------------------------


def test_http_client_keeps_its_connection(shared: Serve) -> None:
    connection = http.client.HTTPConnection(*shared(ECHO).inet, timeout=GUARD)
    ports = set()
    for method, body in [("GET", None), ("POST", b"a" * 100_000), ("PUT", iter([b"a", b"b"])), ("DELETE", None)]:
        connection.request(method, "/", body=body, encode_chunked=True)
        report = json.load(connection.getresponse())
        ports.add(report["environ"]["REMOTE_PORT"])
        assert (report["method"], report["size"]) == (method, {"POST": 100_000, "PUT": 2}.get(method, 0))
    connection.request("HEAD", "/")
    assert connection.getresponse().read() == b""
    connection.request("GET", "/")
    ports.add(json.load(connection.getresponse())["environ"]["REMOTE_PORT"])
    connection.close()
    assert len(ports) == 1


@pytest.mark.parametrize("length", ["", "1"])
def test_http_client_of_http_1_0(shared: Serve, length: str) -> None:
    connection = http.client.HTTPConnection(*shared(BLOCKS).inet, timeout=GUARD)
    connection._http_vsn, connection._http_vsn_str = 10, "HTTP/1.0"  # type: ignore[attr-defined]
    connection.request("GET", f"/generator?size=100000&length={length}")
    assert connection.getresponse().read() == pattern(100_000)
    connection.close()


def test_urllib(shared: Serve) -> None:
    server = shared(ECHO)
    with urllib.request.urlopen(server.url("/a?b"), data=b"c=d", timeout=GUARD) as response:
        report = json.load(response)
    assert (report["body"], report["environ"]["CONTENT_TYPE"]) == ("c=d", "application/x-www-form-urlencoded")


# requests ------------------------------------------------------------------------------------------------------------


def test_requests_session(shared: Serve) -> None:
    server = shared(ECHO)
    with requests.Session() as session:
        session.cookies.set("a", "1")
        reports = [
            session.post(server.url("/"), data=b"x" * n, timeout=GUARD).json() for n in (0, 1, 10_000, 2_000_000)
        ]
    assert [report["size"] for report in reports] == [0, 1, 10_000, 2_000_000]
    assert {report["environ"]["HTTP_COOKIE"] for report in reports} == {"a=1"}
    assert len({report["environ"]["REMOTE_PORT"] for report in reports}) == 1


def test_requests_streams_an_upload(shared: Serve) -> None:
    def generate() -> Iterator[bytes]:
        for start in range(0, 3_000_000, 10_000):
            yield pattern(3_000_000)[start : start + 10_000] if start % 500_000 == 0 else b"y" * 10_000

    report = requests.put(shared(ECHO).url("/"), data=generate(), timeout=GUARD).json()
    assert (report["size"], report["sha256"]) == (3_000_000, digest(b"".join(generate())))
    assert report["environ"]["CONTENT_LENGTH"] == "3000000"


def test_requests_streams_a_download_and_leaves(shared: Serve) -> None:
    server = shared(BLOCKS)
    with requests.get(server.url("/generator?size=20000000&block=10000"), stream=True, timeout=GUARD) as response:
        assert next(response.iter_content(1000)) == pattern(1000)
    assert requests.get(server.url("/one"), timeout=GUARD).content == pattern(1000)


# curl ----------------------------------------------------------------------------------------------------------------

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def curl(*arguments: str) -> bytes:
    command = ["curl", "-q", "--silent", "--show-error", "--fail", "--max-time", str(int(4 * GUARD)), "--noproxy", "*"]
    return subprocess.run([*command, *arguments], check=True, capture_output=True, timeout=5 * GUARD).stdout


@needs_curl
@pytest.mark.parametrize("version", ["--http1.1", "--http1.0"])
@pytest.mark.parametrize("kind", ["one", "generator", "wrapped_file", "write"])
def test_curl_downloads(shared: Serve, kind: str, version: str) -> None:
    assert curl(version, shared(BLOCKS).url(f"/{kind}?size=100000")) == pattern(100_000)


@needs_curl
@pytest.mark.parametrize("options", [[], ["--http1.0"], ["--header", "Transfer-Encoding: chunked"]])
@pytest.mark.parametrize("expect", ["Expect: 100-continue", "Expect:"])
def test_curl_uploads(shared: Serve, tmp_path: Path, options: list[str], expect: str) -> None:
    if "--http1.0" in options:
        expect = "Expect:"  # it does not know the answer
    (tmp_path / "upload").write_bytes(pattern(3_000_000))
    report = json.loads(curl("-T", str(tmp_path / "upload"), *options, "-H", expect, shared(ECHO).url("/put")))
    assert (report["method"], report["sha256"]) == ("PUT", digest(pattern(3_000_000)))


@needs_curl
def test_curl_keeps_its_connection(shared: Serve) -> None:
    server = shared(BLOCKS)
    urls = [server.url(f"/{kind}") for kind in KINDS]
    assert curl(*urls) == pattern(1000) * len(KINDS)
    heads = curl("--head", *urls, "--write-out", "connects: %{num_connects}\n").decode()
    assert heads.count("HTTP/1.1 200 Whatever") == len(KINDS)
    assert [line[-1] for line in heads.splitlines() if line.startswith("connects")] == ["1"] + ["0"] * (len(KINDS) - 1)


@needs_curl
def test_curl_on_a_unix_socket(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("s") / "s"
    serve(ECHO, host=f"unix:{path}")
    report = json.loads(curl("--unix-socket", str(path), "--data", "a=b", "http://localhost/path"))
    assert (report["body"], report["environ"]["HTTP_HOST"]) == ("a=b", "localhost")


# h11 -----------------------------------------------------------------------------------------------------------------


def read_with_h11(server: ServerProcess, requests_to_send: list[tuple[str, str]]) -> list[tuple[int, bytes]]:
    """The answers as h11 reads them, all on one connection."""
    ours, answers = h11.Connection(h11.CLIENT), []
    with server.connect() as client:
        for method, target in requests_to_send:
            client.send(ours.send(h11.Request(method=method, target=target, headers=[("Host", "test")])) or b"")
            client.send(ours.send(h11.EndOfMessage()) or b"")
            status, body = 0, b""
            while True:
                event: Any = ours.next_event()
                if event is h11.NEED_DATA:
                    ours.receive_data(client.sock.recv(65536))
                elif isinstance(event, h11.Response):
                    status = event.status_code
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                else:
                    assert isinstance(event, h11.EndOfMessage)
                    break
            answers.append((status, body))
            ours.start_next_cycle()
    return answers


@pytest.mark.parametrize("length", ["", "1"])
def test_h11_reads_the_same(shared: Serve, length: str) -> None:
    wanted = [("GET", f"/{kind}?length={length}&size=5000") for kind in KINDS]
    wanted += [("HEAD", "/several"), ("GET", "/several?status=204"), ("GET", "/several?status=304")]
    answers = read_with_h11(shared(BLOCKS), wanted)
    assert answers[: len(KINDS)] == [(200, pattern(5000))] * len(KINDS)
    assert answers[len(KINDS) :] == [(200, b""), (204, b""), (304, b"")]
