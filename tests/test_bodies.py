"""Bodies, both ways: `wsgi.input`, ten megabytes in every framing, and many connections at once.

Knows: `io.BytesIO`, which `wsgi.input` must equal.   Must not know: how a body is stored.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest

from apps.blocks import KINDS, pattern
from apps.inputs import perform
from conftest import Serve
from wire import Client, message

INPUTS, ECHO, BLOCKS = "apps.inputs:app", "apps.echo:app", "apps.blocks:app"
MEGABYTES_10 = 10_000_000

BODIES = {
    "empty": b"",
    "one line": b"one line",
    "lines": b"first\nsecond\n\nfourth, without an end",
    "only newlines": b"\n\n\n",
    "long lines": b"".join(b"%d" % n * (n * 37 % 300) + b"\n" for n in range(60)),
}
OPERATIONS: list[list[list[Any]]] = [
    [["read"]],
    [["read", -1], ["read"]],
    [["read", None], ["read", 5]],
    [["read", 0], ["read", 3], ["read", 1000000], ["read", 1]],
    [["readline"], ["readline", 3], ["readline", 0], ["readline", -1], ["readline"], ["readline"]],
    [["readlines"], ["readlines"]],
    [["readlines", 3], ["readlines", 0]],
    [["iterate"], ["iterate"], ["read"]],
    [["next"], ["read", 2], ["readline"], ["next"]],
    [["read", 4], ["seek", 0], ["read"], ["seek", 2], ["tell"], ["readline"], ["tell"]],
    [["seek", 0, 2], ["tell"], ["read"], ["seek", 0], ["seek", 1, 1], ["readline"]],
    [["readable"], ["seekable"]],
]


def random_operations(seed: int) -> list[list[Any]]:
    chance = random.Random(seed)
    sizes = [None, -1, 0, 1, 2, 7, 50, 300, 100_000]
    names = ["read", "readline", "readlines", "seek", "tell", "next"]
    arguments = {"seek": lambda: [chance.randrange(9000)], "readlines": list, "tell": list, "next": list}
    chosen = [chance.choice(names) for _ in range(40)]
    return [[name, *arguments.get(name, lambda: [chance.choice(sizes)])()] for name in chosen]


def same_as_bytesio(client: Client, other: Client, wanted: bytes, operations: list[list[Any]], **framing: Any) -> None:
    """`other` sees to it that the body comes in two parts: one that is there at once is never stored in a file."""
    wire = message("POST", "/", "X-Operations: " + json.dumps(operations), **framing)
    cut = wire.index(b"\r\n\r\n") + 5
    client.send(wire[:cut])
    other.ask("GET", "/", "X-Operations: []")
    client.send(wire[cut:])
    assert client.recv_response().json() == perform(io.BytesIO(wanted), operations)


@pytest.mark.parametrize("spilled", [False, True], ids=["in memory", "in a file"])
@pytest.mark.parametrize("form", ["length", "chunked"])
def test_input_is_like_bytesio(serve: Serve, form: str, spilled: bool) -> None:
    server = serve("apps.inputs:app", **({"body_buffer": 4} if spilled else {}))
    with server.connect() as client, server.connect() as other:
        for body in BODIES.values():
            chunks = [part for part in (body[:7], body[7:]) if part]
            framing: dict[str, Any] = {"body": body} if form == "length" else {"chunks": chunks}
            for operations in OPERATIONS:
                same_as_bytesio(client, other, body, operations, **framing)
            for seed in range(10):
                same_as_bytesio(client, other, body, random_operations(seed), **framing)


def test_a_small_body_is_a_bytesio(shared: Serve) -> None:
    """As it was in bjoern 3, whose users call `getvalue()`."""
    server = shared(INPUTS)
    with server.connect() as client, server.connect() as other:
        same_as_bytesio(client, other, b"hello", [["read", 2], ["getvalue"], ["iter_is_self"]], body=b"hello")
    report = shared("apps.echo:raw").ask("POST", "/", body=b"hello").json()
    assert report["types"]["wsgi.input"] == "BytesIO"


def test_an_unread_body_is_not_the_next_request(shared: Serve) -> None:
    with shared(BLOCKS).connect() as client:
        for size in (10, 3_000_000):
            smuggled = message("GET", "/missing")
            body = smuggled * (size // len(smuggled) + 1)
            assert client.ask("POST", "/one", body=body).body == pattern(1000)
            assert client.ask("GET", "/one").body == pattern(1000)


@pytest.mark.parametrize("method", ["GET", "DELETE", "OPTIONS", "PUT", "PATCH"])
def test_any_method_may_have_a_body(shared: Serve, method: str) -> None:
    assert shared(ECHO).ask(method, "/", body=b"hello").json()["body"] == "hello"


@pytest.mark.parametrize("form", ["length", "one chunk", "chunks"])
def test_large_upload(shared: Serve, form: str) -> None:
    data = pattern(MEGABYTES_10)
    parts = [data[start : start + 30_011] for start in range(0, len(data), 30_011)]
    forms: dict[str, dict[str, Any]] = {
        "length": {"body": data},
        "one chunk": {"chunks": [data]},
        "chunks": {"chunks": parts},
    }
    with shared(ECHO).connect() as client:
        for _ in range(2):
            report = client.ask("POST", "/", **forms[form]).json()
            assert (report["size"], report["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("length", ["", "1"])
@pytest.mark.parametrize("kind", KINDS)
def test_large_download(shared: Serve, kind: str, length: str) -> None:
    wanted = hashlib.sha256(pattern(MEGABYTES_10)).hexdigest()
    with shared(BLOCKS).connect() as client:
        for _ in range(2):
            response = client.ask("GET", f"/{kind}?size={MEGABYTES_10}&block=100000&length={length}")
            assert hashlib.sha256(response.body).hexdigest() == wanted


def test_upload_and_download_at_once(shared: Serve) -> None:
    """Two connections in the middle of ten megabytes each, in turns."""
    data = pattern(MEGABYTES_10)
    server = shared(BLOCKS)
    with server.connect(receive_buffer=65536) as down, server.connect() as up:
        down.send(message("GET", f"/generator?size={len(data)}&block=50000&length=1"))
        upload = message("POST", "/one", body=data)
        down.recv_head()
        received = hashlib.sha256()
        for start in range(0, len(upload), 1_000_000):
            up.send(upload[start : start + 1_000_000])
            received.update(down.recv_exactly(len(data) // 20))
        assert up.recv_response().body == pattern(1000)
        received.update(down.recv_exactly(len(data) - len(range(0, len(upload), 1_000_000)) * (len(data) // 20)))
    assert received.hexdigest() == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(("offset", "length"), [(0, 1000), (500, 500), (500, 100), (1000, 0)])
def test_a_wrapped_file_starts_where_it_stands(shared: Serve, offset: int, length: int) -> None:
    """From the current offset, and never past Content-Length."""
    with shared("apps.files:app").connect() as client:
        response = client.ask("GET", f"/part?offset={offset}&length={length}")
        assert response.body == pattern(1000)[offset : offset + length]
        assert client.ask("GET", "/closed").json() == 1


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("read_only", b"abababab"),
        ("text_file", "TypeError"),
        ("fewer", b"abcd"),
        ("wrapper_called", b"abcdefghij"),
        ("closed_file", "ValueError"),
        ("pipe", b"through a pipe"),
    ],
)
def test_other_wrapped_files(shared: Serve, path: str, wanted: bytes | str) -> None:
    """Anything with `read` may be wrapped, and is read. Where that fails (str) there is a traceback and 500."""
    server = shared("apps.files:app")
    with server.connect() as client:
        client.send(message("GET", f"/{path}"))
        response = client.recv_response()
        if isinstance(wanted, str):
            assert response.status == 500
            server.wait_stderr(wanted)
        else:
            assert response.body == wanted


@pytest.mark.parametrize("file", ["", "1"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_wrapped_file_is_sought_by_its_wrapper(shared: Serve, file: str, version: str) -> None:
    response = shared("apps.files:app").ask("GET", f"/from_middle?file={file}", version=version)
    assert (response.status, response.body) == (200, pattern(1000)[900:])


def test_a_wrapper_has_the_positions_that_its_file_has(shared: Serve) -> None:
    assert shared("apps.files:app").ask("GET", "/positions").json() == {
        "bytesio": ["seekable", "seek", "tell", "close"],
        "stored": ["seekable", "seek", "tell", "close"],
        "read_only": ["close"],
        "unseekable": ["seekable", "tell", "close"],
        "error": ["'bjoern.FileWrapper' object has no attribute 'other'"],
    }


def test_a_wrapped_file_that_is_too_short(shared: Serve) -> None:
    server = shared("apps.files:app")
    with server.connect() as client:
        client.send(message("GET", "/part?offset=900&length=200"))
        _, _, body = client.recv_until_close().partition(b"\r\n\r\n")
        assert body == pattern(1000)[900:]
    server.wait_stderr("the application gave 100 bytes less than its Content-Length")
    assert server.ask("GET", "/closed").json() == 1


def test_an_application_may_close_or_keep_its_input(shared: Serve) -> None:
    """What one request does to its `wsgi.input`, in time or later, is nothing to the next."""
    with shared("apps.calls:app").connect() as client:
        for body in (b"first", b"", b"x" * 2_000_000, b"last"):
            assert client.ask("POST", "/closed_input", body=body).body == b"ok"
        for body in (b"", b"kept"):
            assert client.ask("POST", "/kept_input", body=body).body == b"ok"
            assert client.ask("POST", "/look_at_kept_input", body=b"other").json() == len(body)


@pytest.mark.parametrize("connections", [200])
def test_many_keep_alive_connections(shared: Serve, connections: int) -> None:
    server = shared(ECHO)
    clients = [server.connect() for _ in range(connections)]
    try:
        for turn in range(5):
            for number, client in enumerate(clients):
                client.send(message("POST", f"/{number}", body=b"%d" % (number * turn)))
            for number, client in enumerate(clients):
                report = client.recv_response().json()
                assert (report["environ"]["PATH_INFO"], report["body"]) == (f"/{number}", str(number * turn))
    finally:
        for client in clients:
            client.close()


@pytest.mark.parametrize("is_unix", [False, True], ids=["TCP", "unix"])
def test_a_client_that_leaves_in_the_middle_of_a_file(serve: Serve, tmp_path: Path, is_unix: bool) -> None:
    """The application has set SIGPIPE to its default, which would end the process."""
    server = serve("apps.sigpipe:app", host=f"unix:{tmp_path}/socket" if is_unix else "127.0.0.1")
    for taken in range(1000, 500_000, 5000):
        with server.connect() as client:
            client.send(message("GET", "/file"))
            client.recv_exactly(taken)
    assert server.ask().body == b"ok"
