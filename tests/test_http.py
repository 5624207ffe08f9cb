"""HTTP/1.1 from outside: framing, persistence, order, refusals (RFC 9110, RFC 9112).

Knows: bytes on a connection.   Must not know: how the application is called (`test_wsgi.py`), the options.
"""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from apps.blocks import KINDS, pattern
from conftest import Observer, Serve
from server_process import ServerProcess
from wire import Client, Response, WireError, chunked, message

ECHO, BLOCKS, BROKEN, OBSERVED = "apps.echo:app", "apps.blocks:app", "apps.broken:app", "apps.observed:app"


def expect_refused(server: ServerProcess, wire: bytes, *statuses: int) -> Response:
    with server.connect() as client:
        client.send(wire)
        return client.expect_refusal(*statuses)


# Persistence (RFC 9112 section 9.3) ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("minor", "error", "length", "asked", "chunks", "kept"),
    [
        # HTTP/1.0 keeps a connection only where the client asks for it and the length is known. It knows no chunks.
        # The length of a list is known, which the test adds.
        (0, 0, 0, 0, 0, 0),
        (0, 0, 0, 1, 0, 0),
        (0, 0, 1, 0, 0, 0),
        (0, 0, 1, 1, 0, 1),
        (0, 1, 0, 0, 0, 0),
        (0, 1, 0, 1, 0, 0),
        (0, 1, 1, 0, 0, 0),
        (0, 1, 1, 1, 0, 0),
        # HTTP/1.1 keeps it unless the client says close. Chunks, where the length is not known.
        (1, 0, 0, 0, 1, 0),
        (1, 0, 0, 1, 1, 1),
        (1, 0, 1, 0, 0, 0),
        (1, 0, 1, 1, 0, 1),
        (1, 1, 0, 0, 0, 0),
        (1, 1, 0, 1, 0, 0),
        (1, 1, 1, 0, 0, 0),
        (1, 1, 1, 1, 0, 0),
    ],
)
@pytest.mark.parametrize(
    ("raises", "kind"), [("before", "bare_list"), ("after", "bare_tuple"), ("before", "generator")]
)
def test_keep_alive(
    shared: Serve, raises: str, kind: str, minor: int, error: int, length: int, asked: int, chunks: int, kept: int
) -> None:
    server = shared(BROKEN if error else BLOCKS)
    field = {(0, 1): ["Connection: Keep-Alive"], (1, 0): ["Connection: close"]}.get((minor, asked), [])
    target = f"/{raises}" if error else f"/{kind}?length={length or ''}"
    has_length = bool(length or (minor == 0 and kind != "generator"))
    kept = kept or int(minor == 0 and has_length and bool(asked) and not error)
    with server.connect() as client:
        for _ in range(3 if kept else 1):
            response = client.ask("GET", target, *field, version=f"1.{minor}")
            if error:
                response.check_error(500)
            else:
                assert (response.status, response.body) == (200, pattern(1000))
                framing = "chunked" if chunks else "length" if has_length else "close"
                assert (response.framing, response.get("Transfer-Encoding") is None) == (framing, not chunks)
            assert response.closes == (not kept)
        if kept:
            client.half_close()
        client.expect_close()
    if error:
        server.wait_stderr("ValueError: on purpose")


@pytest.mark.parametrize(
    ("version", "fields", "kept"),
    [
        ("1.1", [], True),
        ("1.1", ["Connection: keep-alive"], True),
        ("1.1", ["Connection: CLOSE"], False),
        ("1.1", ["Connection: foo, close"], False),
        ("1.1", ["Connection: close,foo"], False),
        ("1.1", ["Connection: foo", "Connection: close"], False),
        ("1.1", ["Connection: keep-alive, close"], False),
        ("1.1", ["Connection: closed"], True),
        ("1.1", ["Connection: ,"], True),
        ("1.0", [], False),
        ("1.0", ["Connection: KEEP-ALIVE"], True),
        ("1.0", ["Connection: foo , keep-alive"], True),
        ("1.0", ["Connection: keep-alive, close"], False),
    ],
)
def test_connection_tokens(shared: Serve, version: str, fields: list[str], kept: bool) -> None:
    with shared(ECHO).connect() as client:
        assert client.ask("GET", "/", *fields, version=version).closes == (not kept)
        if kept:
            assert client.ask("GET", "/second", *fields, version=version).status == 200
        else:
            client.expect_close()


def test_nothing_is_answered_after_close(shared: Serve) -> None:
    with shared(ECHO).connect() as client:
        client.send(message("GET", "/1", "Connection: close") + message("GET", "/2"))
        assert client.recv_response().closes
        client.expect_close()


@pytest.mark.parametrize(
    ("wire", "status"),
    [(message("GET", "/", "Connection: close"), 200), (message(host=None), 400)],
    ids=["answer", "refusal"],
)
def test_the_last_answer_reaches_a_client_that_is_still_sending(shared: Serve, wire: bytes, status: int) -> None:
    """Closing with unread input would send RST, and the client could lose the answer (RFC 9112 section 9.6)."""
    with shared(ECHO).connect() as client:
        client.send(wire + b"x" * 500_000)
        assert client.recv_response().status == status
        client.expect_close()


# Order ---------------------------------------------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order(shared: Serve) -> None:
    with shared(ECHO).connect() as client:
        bodies = [b"%d" % number * number * 100 for number in range(10)]
        framings = [{"body": body} if number % 2 else {"chunks": [body]} for number, body in enumerate(bodies) if body]
        client.send(b"".join(message("POST", f"/{number}", **how) for number, how in enumerate(framings, 1)))
        for number, body in enumerate(bodies[1:], 1):
            report = client.recv_response().json()
            assert (report["environ"]["PATH_INFO"], report["body"]) == (f"/{number}", body.decode())
        assert client.ask().status == 200


def test_post_and_get_in_one_segment(shared: Serve) -> None:
    with shared(ECHO).connect() as client:
        client.send(message("POST", "/post", body=b"hello") + message("GET", "/get"))
        reports = [client.recv_response().json() for _ in range(2)]
    assert [(report["method"], report["environ"]["PATH_INFO"], report["body"]) for report in reports] == [
        ("POST", "/post", "hello"),
        ("GET", "/get", ""),
    ]


def test_many_pipelined_requests_for_streams(shared: Serve) -> None:
    with shared(BLOCKS).connect() as client:
        client.send(b"".join(message("GET", f"/{kind}?size=3000") for kind in ["generator", "one", "file"] * 30))
        for _ in range(90):
            assert client.recv_response().body == pattern(3000)


def test_a_pipelined_error_follows_the_answers_before_it(shared: Serve) -> None:
    with shared(ECHO).connect() as client:
        client.send(message("GET", "/1") + b"GARBAGE\r\n\r\n" + message("GET", "/3"))
        assert client.recv_response().status == 200
        client.expect_refusal(400)


@pytest.mark.parametrize("requests", [1, 3])
def test_half_close_is_answered(shared: Serve, requests: int) -> None:
    with shared(ECHO).connect() as client:
        client.send(message("POST", "/", body=b"hello") * requests)
        client.half_close()
        for _ in range(requests):
            assert client.recv_response().json()["body"] == "hello"
        client.expect_close()


def test_half_close_before_a_large_answer_is_taken(shared: Serve) -> None:
    with shared(BLOCKS).connect(receive_buffer=4096) as client:
        client.send(message("GET", "/generator?size=3000000&block=10000"))
        client.half_close()
        assert client.recv_response().body == pattern(3_000_000)
        client.expect_close()


# Torn requests -------------------------------------------------------------------------------------------------------

TORN = {
    "length": message("POST", "/a%20b/%C3%A4?c=d%20e", "X-Long: a value", "Cookie: a=1", body=b"hello world"),
    "chunked": message("POST", "/", "Expect: 100-Continue", chunks=[b"hello", b" world" * 3]),
    "none": message("GET", "/a%20b?c"),
}


@pytest.mark.parametrize("wire", TORN.values(), ids=TORN)
def test_a_request_torn_in_two_anywhere(shared: Serve, wire: bytes) -> None:
    server = shared(ECHO)
    with server.connect() as client, server.connect() as other:
        client.send(wire)
        whole = client.recv_response().json()
        for cut in range(1, len(wire)):
            client.send(wire[:cut])
            other.ask()  # once this is answered, the server has read the first part
            client.send(wire[cut:])
            assert client.recv_response().json() == whole, wire[:cut]


@pytest.mark.parametrize("wire", TORN.values(), ids=TORN)
def test_a_request_byte_by_byte(shared: Serve, wire: bytes) -> None:
    server = shared(ECHO)
    with server.connect() as client, server.connect() as other:
        client.send(wire)
        whole = client.recv_response().json()
        for start in range(len(wire)):
            client.send(wire[start : start + 1])
            other.ask()
        assert client.recv_response().json() == whole


# Request bodies (RFC 9112 section 7.1) -------------------------------------------------------------------------------

CHUNKED = message("POST", "/", "Transfer-Encoding: chunked")


@pytest.mark.parametrize(
    ("coded", "body"),
    [
        (b"0\r\n\r\n", ""),
        (b"5\r\nhello\r\n0\r\n\r\n", "hello"),
        (b"1\r\na\r\n2\r\nbc\r\n3\r\ndef\r\n0\r\n\r\n", "abcdef"),
        (b"A\r\n0123456789\r\n0\r\n\r\n", "0123456789"),
        (b"a\r\n0123456789\r\n00\r\n\r\n", "0123456789"),
        (b"0005\r\nhello\r\n0\r\n\r\n", "hello"),
        (b'5;name=value;quoted="a;b"\r\nhello\r\n0;last\r\n\r\n', "hello"),
        (b"5\r\n\r\n\r\n\r\r\n0\r\n\r\n", "\r\n\r\n\r"),
        (b"5\r\nhello\r\n0\r\nX-Trailer: a\r\nHost: evil\r\nContent-Length: 3\r\n\r\n", "hello"),
    ],
)
def test_chunked_request(shared: Serve, coded: bytes, body: str) -> None:
    with shared(ECHO).connect() as client:
        client.send(CHUNKED + coded)
        report = client.recv_response().json()
        assert report["body"] == body
        assert report["environ"]["CONTENT_LENGTH"] == str(len(body))
        assert report["environ"]["HTTP_HOST"] == "test"
        assert "HTTP_X_TRAILER" not in report["environ"]
        assert client.ask("GET", "/next").json()["environ"]["PATH_INFO"] == "/next"


@pytest.mark.parametrize(
    "coded",
    [
        b"x\r\n",
        b"\r\n",
        b"-5\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"5\nhello\r\n",
        b"5 5\r\nhello\r\n",
        b"5\r\nhelloX\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5;a\nb\r\nhello\r\n",
        b"5;a\0b\r\nhello\r\n",
        b"5\rhello\r\n",
        b"1ffffffffffffffff\r\n",
        b"fffffffffffffffff\r\n",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\nX : a\r\n\r\n",
        b"0\r\nX: a\n\r\n",
    ],
)
def test_bad_chunks(shared: Serve, coded: bytes) -> None:
    expect_refused(shared(ECHO), CHUNKED + coded, 400)


@pytest.mark.parametrize("size", [b"ffffffffffffffff", b"7fffffffffffffff", b"fffffffff"])
def test_a_chunk_nobody_could_send(shared: Serve, size: bytes) -> None:
    expect_refused(shared(ECHO), CHUNKED + size + b"\r\n", 400, 413)


@pytest.mark.parametrize(
    ("fields", "statuses"),
    [
        (["Transfer-Encoding: chunked", "Content-Length: 5"], [400]),
        (["Content-Length: 5", "Transfer-Encoding: chunked"], [400]),
        (["Transfer-Encoding: identity"], [400, 501]),
        (["Transfer-Encoding: gzip"], [400, 501]),
        (["Transfer-Encoding: gzip, chunked"], [501]),
        (["Transfer-Encoding: chunked, gzip"], [400, 501]),
        (["Transfer-Encoding: chunked, chunked"], [400]),
        (["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], [400]),
        (["Transfer-Encoding: chunked", "Transfer-Encoding: identity"], [400, 501]),
        (["Transfer-Encoding: xchunked"], [400, 501]),
        (["Transfer-Encoding: chunked;a=b"], [400, 501]),
        (["Transfer-Encoding:"], [400, 501]),
        (["Transfer-Encoding: \x0bchunked"], [400, 501]),
        (["Content-Length: 5", "Content-Length: 6"], [400]),
        (["Content-Length: 5,6"], [400]),
        (["Content-Length:"], [400]),
        (["Content-Length: -1"], [400]),
        (["Content-Length: +1"], [400]),
        (["Content-Length: 1 1"], [400]),
        (["Content-Length: 0x1"], [400]),
        (["Content-Length: 1_0"], [400]),
        (["Content-Length: abc"], [400]),
        (["Content-Length: 1.0"], [400]),
        (["Content-Length: \xb2"], [400]),
        (["Content-Length: 100000000000000000000000"], [400, 413]),
        (["Content-Length: 18446744073709551616"], [400, 413]),
        (["Content-Length: 18446744073709551615"], [400, 413]),
        (["Content-Length: 9223372036854775808"], [400, 413]),
    ],
)
def test_bad_framing(shared: Serve, fields: list[str], statuses: list[int]) -> None:
    expect_refused(shared(ECHO), message("POST", "/", *fields) + b"0\r\n\r\n", *statuses)


@pytest.mark.parametrize("fields", [["Transfer-Encoding: chunked"], ["Transfer-Encoding: CHUNKED"]])
def test_transfer_encoding_from_http_1_0_is_not_trusted(shared: Serve, fields: list[str]) -> None:
    """RFC 9112 section 6.1: the framing of such a message is faulty."""
    expect_refused(shared(ECHO), message("POST", "/", *fields, version="1.0") + b"0\r\n\r\n", 400)


@pytest.mark.parametrize("value", ["chunked", "Chunked", " chunked ", "chunked,", ", chunked"])
def test_spellings_of_chunked(shared: Serve, value: str) -> None:
    with shared(ECHO).connect() as client:
        client.send(message("POST", "/", f"Transfer-Encoding:{value}") + chunked(b"hello"))
        assert client.recv_response().json()["body"] == "hello"


@pytest.mark.parametrize("value", ["5", "05", " 5 ", "\t5", "0000000005"])
def test_spellings_of_a_length(shared: Serve, value: str) -> None:
    with shared(ECHO).connect() as client:
        client.send(message("POST", "/", f"Content-Length:{value}") + b"hello" + message())
        assert [client.recv_response().json()["size"] for _ in range(2)] == [5, 0]


@pytest.mark.parametrize("fields", [["Content-Length: 5"] * 2, ["Content-Length: 5, 5"], ["Content-Length: 5,05"]])
def test_a_length_said_twice(shared: Serve, fields: list[str]) -> None:
    """RFC 9110 section 8.6 leaves the choice: refused, or taken for one length, also in the environ."""
    with shared(ECHO).connect() as client:
        client.send(message("POST", "/", *fields) + b"hello")
        response = client.recv_response()
        assert response.status == 400 or response.json()["environ"]["CONTENT_LENGTH"] == "5"


# Expect (RFC 9110 section 10.1.1) ------------------------------------------------------------------------------------

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize("value", ["100-continue", "100-Continue", " 100-CONTINUE "])
@pytest.mark.parametrize("framing", [{"body": b"hello"}, {"chunks": [b"hel", b"lo"]}], ids=["length", "chunked"])
def test_expect_continue(shared: Serve, framing: dict[str, bytes], value: str) -> None:
    wire = message("POST", "/", f"Expect:{value}", **framing)  # type: ignore[arg-type]
    head, body = wire.split(b"\r\n\r\n", 1)
    with shared(ECHO).connect() as client:
        client.send(head + b"\r\n\r\n")
        assert client.recv_exactly(len(CONTINUE)) == CONTINUE
        client.send(body)
        assert client.recv_response().json()["body"] == "hello"
        assert client.ask().status == 200


def test_expect_continue_behind_another_request(shared: Serve) -> None:
    with shared(ECHO).connect() as client:
        client.send(message() + message("POST", "/", "Expect: 100-continue", "Content-Length: 5"))
        assert client.recv_response().json()["method"] == "GET"
        assert client.recv_exactly(len(CONTINUE)) == CONTINUE
        client.send(b"hello" + message())
        assert [client.recv_response().json()["body"] for _ in range(2)] == ["hello", ""]


def test_expect_continue_needs_no_answer_where_the_body_is_there(shared: Serve) -> None:
    with shared(ECHO).connect() as client:
        response = client.ask("POST", "/", "Expect: 100-continue", body=b"hello")
        assert (response.interim, response.json()["body"]) == ([], "hello")


@pytest.mark.parametrize("value", ["1", "100", "100-continu", "100-continued", "200-ok", "100-continue, 200-ok"])
def test_other_expectations(shared: Serve, value: str) -> None:
    expect_refused(shared(ECHO), message("POST", "/", f"Expect: {value}", body=b"hello"), 417)


@pytest.mark.parametrize("value", ["100-continue", "something"])
def test_http_1_0_expects_nothing(shared: Serve, value: str) -> None:
    with shared(ECHO).connect() as client:
        response = client.ask("POST", "/", f"Expect: {value}", body=b"hello", version="1.0")
        assert (response.interim, response.json()["body"]) == ([], "hello")


# Errors of the server's own (RFC 9110 section 15.5) ------------------------------------------------------------------

BROWSER = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        ([], False),
        (["Accept: */*"], False),
        ([BROWSER], True),
        (["Accept: application/json", "Accept: TEXT/HTML"], True),
        (["Accept: text/html;q=0.4, text/plain;q=0.5"], False),
        (["Accept: text/html;q=0"], False),
    ],
    ids=lambda value: "; ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_errors_are_text_or_a_page(shared: Serve, method: str, accept: list[str], html: bool) -> None:
    server = shared(ECHO)
    rows: list[tuple[str, list[str], int]] = [
        ("https://test/", [], 421),
        ("/", ["Content-Length: 9999999999999"], 413),
        ("/", ["Transfer-Encoding: chunked", "", "x"], 400),
    ]
    for target, lines, status in rows:
        with server.connect() as client:
            client.send(message(method, target, *accept, *lines))
            client.expect_refusal(status, method=method, html=html)
    server = shared(BROKEN)
    for target in ("/before", "/after", "/in_first_block", "/silent"):
        with server.connect() as client:
            client.send(message(method, target, *accept))
            client.expect_refusal(500, method=method, html=html)  # nothing of what the application raised
    server.wait_stderr("on purpose")


@pytest.mark.parametrize(
    ("lines", "status"),
    [(["A b: c"], 400), (["Host: h"], 400), (["Expect: x"], 417), ([f"A: {'x' * 70_000}"], 431)],
    ids=lambda value: value[0][:9] if isinstance(value, list) else "",
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_is_no_request_is_answered_with_text(shared: Serve, method: str, lines: list[str], status: int) -> None:
    with shared(ECHO).connect() as client:
        client.send(message(method, "/", BROWSER, *lines))
        client.expect_refusal(status, method=method)


# Responses without a body (RFC 9110 sections 9.3.2, 15.3.5, 15.4.5) --------------------------------------------------


@pytest.mark.parametrize("length", ["", "1"])
@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", 200), ("HEAD", 404), ("GET", 204), ("GET", 304), ("HEAD", 204), ("POST", 204)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_no_body_and_still_in_step(shared: Serve, kind: str, method: str, status: int, length: str) -> None:
    with shared(BLOCKS).connect() as client:
        response = client.ask(method, f"/{kind}?status={status}&length={length}")
        assert (response.status, response.framing, response.closes) == (status, "none", False)
        assert client.ask("GET", f"/{kind}?length=1").body == pattern(1000)


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 304), ("HEAD", 304), ("GET", 204)])
@pytest.mark.parametrize("kind", ["one", "several", "generator", "write"])
def test_no_length_is_made_up(shared: Serve, kind: str, method: str, status: int) -> None:
    """No body where none is sent does not say that GET's would be empty (RFC 9110 section 8.6)."""
    response = shared(BLOCKS).ask(method, f"/{kind}?status={status}&size=0")
    assert response.get("Content-Length") is None


@pytest.mark.parametrize("kind", ["one", "several", "generator", "wrapped_file"])
def test_head_says_what_get_says(shared: Serve, kind: str) -> None:
    with shared(BLOCKS).connect() as client:
        head, get = (client.ask(method, f"/{kind}?length=1").fields for method in ("HEAD", "GET"))
    assert [field for field in head if field[0] != "Date"] == [field for field in get if field[0] != "Date"]


# Responses with one --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", ["", "1"])
@pytest.mark.parametrize("size", [0, 1, 1000, 100_000])
def test_bodies_of_every_kind(shared: Serve, kind: str, length: str, size: int) -> None:
    if size == 0 and kind == "write_and_return":
        size = 401
    with shared(BLOCKS).connect() as client:
        for _ in range(2):
            response = client.ask("GET", f"/{kind}?size={size}&length={length}")
            assert response.body == pattern(size)
            assert (response.status, response.reason, response.closes) == (200, "Whatever", False)
            assert response.get("Date")
            assert response.get("Server") is None
    with shared(BLOCKS).connect() as client:
        response = client.ask("GET", f"/{kind}?size={size}&length={length}", version="1.0")
        assert (response.body, response.closes) == (pattern(size), True)
        client.expect_close()


def test_a_slow_reader_holds_the_application_back(shared: Serve) -> None:
    """No more is produced than the buffers on the way hold; other connections are served meanwhile; nothing is lost."""
    server = shared(OBSERVED)
    blocks, size = 320, 65536
    with server.connect(receive_buffer=4096) as slow, server.connect() as other:
        slow.send(message("GET", f"/iterate?blocks={blocks}&size={size}"))
        response = slow.recv_head()
        for _ in range(2 * blocks):
            produced = len(other.ask("GET", "/history").json())
        assert produced < blocks
        total = 0
        while block := slow.recv_block(response):
            total += len(block)
        assert total == blocks * size
        assert other.ask("GET", "/history").json()[-1] == "close"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_unread_answers_do_not_pile_up(serve: Serve) -> None:
    """Two hundred pipelined requests for a megabyte each: they are answered as the client reads."""
    server = serve(BLOCKS)
    status = Path(f"/proc/{server.pid}/status")

    def peak_kilobytes() -> int:
        return int(status.read_text().partition("VmHWM:")[2].split()[0])

    with server.connect(receive_buffer=65536) as slow, server.connect() as other:
        assert len(other.ask("GET", "/one?size=1000000").body) == 1_000_000
        before = peak_kilobytes()
        slow.send(message("GET", "/one?size=1000000") * 200)
        for _ in range(300):
            other.ask("GET", "/one")
        assert peak_kilobytes() - before < 50_000
        for _ in range(3):
            assert slow.recv_response().body == pattern(1_000_000)


def test_connections_made_before_the_loop_runs_do_not_wait_for_acknowledgements(server_python: str) -> None:
    """They inherit TCP_NODELAY from the listening socket as it was when they were made: so it must be set at once.

    Without it the end of a stream waits for the delayed acknowledgement of its last block, about 40 ms a response.
    """
    script = "import bjoern, socket; print(*(bjoern.bind_and_listen('127.0.0.1', 0).getsockopt(*o) for o in OPTIONS))"
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY), (socket.SOL_SOCKET, socket.SO_ACCEPTCONN)]
    command = [server_python, "-c", script.replace("OPTIONS", repr([tuple(map(int, option)) for option in options]))]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["1", "1"]


# Refusals ------------------------------------------------------------------------------------------------------------

HOST = b"Host: test\r\n\r\n"


@pytest.mark.parametrize(
    ("wire", "statuses"),
    [
        # The request line (RFC 9112 section 3)
        (b"GARBAGE\r\n\r\n", [400]),
        (b"\0\1\2\3\r\n\r\n", [400]),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", [400]),
        (b"GET\r\n\r\n", [400]),
        (b"GET /\r\n\r\n", [400]),
        (b"GET / \r\n" + HOST, [400]),
        (b"GET  / HTTP/1.1\r\n" + HOST, [400]),
        (b"GET /  HTTP/1.1\r\n" + HOST, [400]),
        (b"GET / HTTP/1.1 \r\n" + HOST, [400]),
        (b" GET / HTTP/1.1\r\n" + HOST, [400]),
        (b"GET\t/\tHTTP/1.1\r\n" + HOST, [400]),
        (b"GET /a b HTTP/1.1\r\n" + HOST, [400]),
        (b"G(T / HTTP/1.1\r\n" + HOST, [400]),
        (b"G\xc3T / HTTP/1.1\r\n" + HOST, [400]),
        (b"GET / HTTP/1.1\n" + HOST, [400]),
        (b"GET / HTTP/1.1\r" + HOST, [400]),
        (b"\nGET / HTTP/1.1\r\n" + HOST, [400]),
        (b"GET / http/1.1\r\n" + HOST, [400]),
        (b"GET / HTTP/1\r\n" + HOST, [400]),
        (b"GET / HTTP/1.10\r\n" + HOST, [400]),
        (b"GET / HTTP/1.x\r\n" + HOST, [400]),
        (b"GET / HTTP/11.1\r\n" + HOST, [400]),
        (b"GET / XTTP/1.1\r\n" + HOST, [400]),
        (b"GET / HTTP/0.9\r\n" + HOST, [400, 505]),
        (b"GET / HTTP/2.0\r\n" + HOST, [505]),
        (b"GET / HTTP/3.0\r\n" + HOST, [505]),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400, 505]),
        # The target (RFC 9112 section 3.2)
        (b"GET a HTTP/1.1\r\n" + HOST, [400]),
        (b"GET * HTTP/1.1\r\n" + HOST, [400]),
        (b"GET ?a HTTP/1.1\r\n" + HOST, [400]),
        (b"GET /% HTTP/1.1\r\n" + HOST, [400]),
        (b"GET /%2 HTTP/1.1\r\n" + HOST, [400]),
        (b"GET /%zz HTTP/1.1\r\n" + HOST, [400]),
        (b"GET /%20%20% HTTP/1.1\r\n" + HOST, [400]),
        (b"GET /\xc3\xa4 HTTP/1.1\r\n" + HOST, [400]),
        (b"GET /?\xc3\xa4 HTTP/1.1\r\n" + HOST, [400]),
        (b"GET /\x7f HTTP/1.1\r\n" + HOST, [400]),
        (b"GET /\0 HTTP/1.1\r\n" + HOST, [400]),
        (b"GET /\x01 HTTP/1.1\r\n" + HOST, [400]),
        (b"CONNECT example.com:443 HTTP/1.1\r\n" + HOST, [400, 405, 501]),
        # The fields (RFC 9112 section 5)
        (b"GET / HTTP/1.1\r\nHost: test\nA: b\r\n\r\n", [400]),
        (b"GET / HTTP/1.1\r\nHost: test\r\n\n", [400]),
        (b"GET / HTTP/1.1\r\nHost: test\n\n", [400]),
        (b"GET / HTTP/1.1\r\nA: b\rc\r\n" + HOST, [400]),
        (b"GET / HTTP/1.1\r\nA: b\0c\r\n" + HOST, [400]),
        (b"GET / HTTP/1.1\r\nA: b\x7fc\r\n" + HOST, [400]),
        (b"GET / HTTP/1.1\r\nA: b\x1bc\r\n" + HOST, [400]),
        (b"GET / HTTP/1.1\r\nA : b\r\n" + HOST, [400]),
        (b"GET / HTTP/1.1\r\nA\t: b\r\n" + HOST, [400]),
        (b"GET / HTTP/1.1\r\n A: b\r\n" + HOST, [400]),
        (b"GET / HTTP/1.1\r\nA: b\r\n c\r\n" + HOST, [400]),
        (b"GET / HTTP/1.1\r\nA: b\r\n\tc\r\n" + HOST, [400]),
        (b"GET / HTTP/1.1\r\nA\r\n" + HOST, [400]),
        (b"GET / HTTP/1.1\r\n: b\r\n" + HOST, [400]),
        (b"GET / HTTP/1.1\r\nA B: c\r\n" + HOST, [400]),
        (b"GET / HTTP/1.1\r\nA(B): c\r\n" + HOST, [400]),
        (b"GET / HTTP/1.1\r\n\xc3\x9c: c\r\n" + HOST, [400]),
        (b"GET / HTTP/1.1\r\nA\0: c\r\n" + HOST, [400]),
        # Host (RFC 9112 section 3.2)
        (b"GET / HTTP/1.1\r\n\r\n", [400]),
        (b"GET http://test/ HTTP/1.1\r\n\r\n", [400]),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", [400]),
        (b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", [400]),
        (b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", [400]),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", [400]),
        (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", [400]),
    ],
)
def test_refused(shared: Serve, wire: bytes, statuses: list[int]) -> None:
    server = shared(ECHO)
    expect_refused(server, wire, *statuses)
    assert server.ask().status == 200


@pytest.mark.parametrize(
    "wire",
    [
        b"\r\nGET / HTTP/1.1\r\n" + HOST,  # RFC 9112 section 2.2: a server should ignore an empty line here
        b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n",
        b"GET / HTTP/1.1\r\nA:\r\n" + HOST,
        b"GET / HTTP/1.1\r\nA: \t\r\n" + HOST,
        b"GET / HTTP/1.1\r\nA: b\xe4\tc\r\n" + HOST,
        b"GET / HTTP/1.1\r\n!#$%&'*+-.^`|~1a: b\r\n" + HOST,
        b"GET / HTTP/1.2\r\n" + HOST,  # RFC 9110 section 2.5: as the highest minor version it knows
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET http://test/ HTTP/1.1\r\n" + HOST,
        b"GET HTTP://test HTTP/1.1\r\n" + HOST,
        b"get / HTTP/1.1\r\n" + HOST,
        b"M-SEARCH / HTTP/1.1\r\n" + HOST,
        b"GET / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings:\r\n" + HOST,
        b"!X~ / HTTP/1.1\r\n" + HOST,
        b"GET //a///b/../c;d=e?f?g&h=i&&/ HTTP/1.1\r\n" + HOST,
        b"GET /" + b"a" * 8000 + b" HTTP/1.1\r\n" + HOST,
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 90 + HOST,
        b"GET / HTTP/1.1\r\nA: " + b"b" * 40000 + b"\r\n" + HOST,
    ],
)
def test_unusual_and_right(shared: Serve, wire: bytes) -> None:
    server = shared("apps.echo:raw")
    with server.connect() as client:
        client.send(wire)
        assert client.recv_response().status == 200


@pytest.mark.parametrize("length", [1, 7, 16, 64, 1000])
def test_noise(shared: Serve, length: int) -> None:
    """Deterministic garbage of many lengths: a refusal or a close, never an answer."""
    server = shared(ECHO)
    for seed in range(40):
        noise = bytes((seed * 7919 + n * n * 31 + n * 17) % 256 for n in range(length))
        with server.connect() as client:
            client.send(noise)
            client.half_close()
            rest = client.recv_until_close()
            assert rest == b"" or rest.startswith(b"HTTP/1.1 4"), noise
    assert server.ask().status == 200


@pytest.mark.parametrize("wire", TORN.values(), ids=TORN)
def test_end_of_input_inside_a_request(shared: Serve, wire: bytes) -> None:
    """FIN, then RST, at every byte: no answer but a refusal, and the server goes on."""
    server = shared(ECHO)
    for cut in range(len(wire)):
        with server.connect() as client:
            client.send(wire[:cut])
            client.half_close()
            rest = client.recv_until_close().removeprefix(CONTINUE)
            assert rest == b"" or rest.startswith(b"HTTP/1.1 400 "), wire[:cut]
        with server.connect() as client:
            client.send(wire[:cut])
            client.reset()
    assert server.ask().status == 200


def test_reset_inside_a_response(shared: Serve, observer: Observer) -> None:
    server = shared(OBSERVED)
    client = server.connect(receive_buffer=4096)
    client.send(message("GET", "/iterate?blocks=1000000000&size=65536", observer.line))
    client.recv_head()
    client.reset()
    while observer.next() != "close":
        pass
    assert server.ask("GET", "/history").json().count("close") == 1


def test_the_strict_client_is_strict() -> None:
    """The parser these tests lean on refuses what it should."""
    for wire in [b"HTTP/1.1 200 OK\n\r\n", b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]:
        client = Client.__new__(Client)
        client.buffer = bytearray(wire)
        with pytest.raises(WireError):
            client.recv_head()
