"""WSGI from outside: the environ, `start_response`, what an application may return, when it is asked (PEP 3333).

Knows: the applications below `apps`.   Must not know: bodies of requests (`test_bodies.py`), broken applications.
"""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from typing import Any

import pytest

from conftest import Observer, Serve
from wire import Closed, message

ECHO, CALLS, OBSERVED, BLOCKS = "apps.echo:app", "apps.calls:app", "apps.observed:app", "apps.blocks:app"

# environ -------------------------------------------------------------------------------------------------------------

ABSENT = None


@pytest.mark.parametrize(
    ("method", "target", "lines", "expected"),
    [
        ("GET", "/", [], {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "QUERY_STRING": "", "SCRIPT_NAME": ""}),
        ("GET", "/", [], {"SERVER_PROTOCOL": "HTTP/1.1", "HTTP_HOST": "test", "wsgi.url_scheme": "http"}),
        ("GET", "/", [], {"wsgi.version": [1, 0], "wsgi.input_terminated": True, "wsgi.run_once": False}),
        ("GET", "/", [], {"wsgi.multiprocess": True}),
        ("GET", "/", [], {"CONTENT_TYPE": ABSENT, "HTTP_CONTENT_LENGTH": ABSENT, "LEFT_BEHIND": ABSENT}),
        ("get", "/", [], {"REQUEST_METHOD": "get"}),
        ("M-SEARCH", "/", [], {"REQUEST_METHOD": "M-SEARCH"}),
        ("GET", "/?", [], {"PATH_INFO": "/", "QUERY_STRING": "", "RAW_URI": "/?", "REQUEST_URI": "/?"}),
        ("GET", "/a/b?c=d%20e+f&g", [], {"PATH_INFO": "/a/b", "QUERY_STRING": "c=d%20e+f&g"}),
        ("GET", "/a?b?c", [], {"PATH_INFO": "/a", "QUERY_STRING": "b?c", "RAW_URI": "/a?b?c"}),
        ("GET", "/a%20b%2Fc+d", [], {"PATH_INFO": "/a b/c+d", "RAW_URI": "/a%20b%2Fc+d"}),
        ("GET", "/%C3%A4%e2%82%ac", [], {"PATH_INFO": "/\xc3\xa4\xe2\x82\xac", "REQUEST_URI": "/%C3%A4%e2%82%ac"}),
        ("GET", "/%ff", [], {"PATH_INFO": "/\xff"}),
        ("GET", "/%41%3f%25?%41", [], {"PATH_INFO": "/A?%", "QUERY_STRING": "%41"}),
        ("GET", "/%2541", [], {"PATH_INFO": "/%41"}),
        ("GET", "//a/../b/./c;d", [], {"PATH_INFO": "//a/../b/./c;d"}),
        ("GET", "http://example.org/a%20b?c", [], {"PATH_INFO": "/a b", "QUERY_STRING": "c"}),
        ("GET", "http://example.org", [], {"PATH_INFO": "/", "QUERY_STRING": ""}),
        ("GET", "http://example.org?c", [], {"PATH_INFO": "/", "QUERY_STRING": "c"}),
        ("GET", "/", ["X-A: a"], {"HTTP_X_A": "a"}),
        ("GET", "/", ["x-a-B:  a, b \t"], {"HTTP_X_A_B": "a, b"}),
        ("GET", "/", ["X-A:"], {"HTTP_X_A": ""}),
        ("GET", "/", ["X-A: \xe4\xff"], {"HTTP_X_A": "\xe4\xff"}),
        ("GET", "/", ["X-A: a", "X-B: b", "x-a: c"], {"HTTP_X_A": "a, c", "HTTP_X_B": "b"}),
        ("GET", "/", ["X-A: a", "X-A:", "X-A: c"], {"HTTP_X_A": "a, , c"}),
        ("GET", "/", ["Cookie: a=1", "Accept: x", "Cookie: b=2"], {"HTTP_COOKIE": "a=1; b=2", "HTTP_ACCEPT": "x"}),
        ("GET", "/", ["Accept: a", "Accept: b"], {"HTTP_ACCEPT": "a, b"}),
        ("GET", "/", ["Foo_Bar: bad"], {"HTTP_FOO_BAR": ABSENT}),
        ("GET", "/", ["Foo-Bar: good", "Foo_Bar: bad"], {"HTTP_FOO_BAR": "good"}),
        ("GET", "/", ["Foo_Bar: bad", "Foo-Bar: good"], {"HTTP_FOO_BAR": "good"}),
        ("GET", "/", ["Content_Length: 5"], {"HTTP_CONTENT_LENGTH": ABSENT}),
        ("POST", "/", ["Content-Type: a/b; c=d"], {"CONTENT_TYPE": "a/b; c=d", "HTTP_CONTENT_TYPE": ABSENT}),
        ("POST", "/", ["Content-Length: 0"], {"CONTENT_LENGTH": "0", "HTTP_CONTENT_LENGTH": ABSENT}),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_environ(shared: Serve, method: str, target: str, lines: list[str], expected: dict[str, Any]) -> None:
    with shared("apps.echo:raw").connect() as client:
        for _ in range(2):  # the second must not see what the first left in its environ
            environ = client.ask(method, target, *lines).json()["environ"]
            assert {key: environ.get(key) for key in expected} == expected


def test_environ_of_options_asterisk(shared: Serve) -> None:
    environ = shared("apps.echo:raw").ask("OPTIONS", "*").json()["environ"]
    assert (environ["PATH_INFO"], environ["RAW_URI"]) == ("*", "*")


@pytest.mark.parametrize("target", ["/a#b", "/a?b#c", "/#", "http://h/a#b", "http://h#b"])
def test_a_fragment_is_refused(shared: Serve, target: str) -> None:
    with shared("apps.echo:raw").connect() as client:
        client.send(message("GET", target))
        client.expect_refusal(400)


def test_environ_types(shared: Serve) -> None:
    report = shared(ECHO).ask("POST", "/", body=b"a").json()
    assert report["dict"]
    types = report["types"]
    assert {types[key] for key in types if not key.startswith("wsgi.")} == {"str"}
    assert (types["wsgi.file_wrapper"], types["wsgi.version"]) == ("type", "tuple")


def test_environ_of_http_1_0(shared: Serve) -> None:
    environ = shared(ECHO).ask(version="1.0", host=None).json()["environ"]
    assert (environ["SERVER_PROTOCOL"], "HTTP_HOST" in environ) == ("HTTP/1.0", False)


@pytest.mark.parametrize(("host", "name"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_environ_addresses(serve: Serve, host: str, name: str) -> None:
    server = serve("apps.echo:app", host=host)
    with server.connect() as client:
        environ = client.ask().json()["environ"]
        assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == (host, str(client.sock.getsockname()[1]))
        assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == (name, str(server.inet[1]))
        assert environ["SERVER_SOFTWARE"].startswith("bjoern/")


def test_environ_on_a_unix_socket(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> None:
    server = serve("apps.echo:app", host=f"unix:{tmp_path_factory.mktemp('s')}/s")
    environ = server.ask().json()["environ"]
    assert (environ["REMOTE_ADDR"], environ.get("REMOTE_PORT", "")) == ("", "")
    assert {"SERVER_NAME", "SERVER_PORT"} <= environ.keys()


# start_response ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "status", "body", "said"),
    [
        ("plain", 200, b"ok", None),
        ("lazy", 200, b"ok", None),
        ("lazy_after_empty_blocks", 200, b"ok", None),
        ("no_exc_info", 200, b"ok", None),
        ("keywords", 200, b"ok", None),
        ("subclassed_list", 200, b"ok", None),
        ("subclasses", 200, b"ok", None),
        ("called_while_called", 200, b"ok", None),
        ("large_head", 200, b"ok", None),
        ("written_between", 200, b"1234", None),
        ("close_is_no_function", 200, b"ok", "TypeError: 'NoneType' object is not callable"),
        ("changed_afterwards", 200, b"ok", None),
        ("swallowed", 200, b"ok", None),
        ("replaced", 503, b"no", "ValueError: before the head"),
        ("replaced_in_generator", 503, b"no", "ValueError: before the head"),
        ("first_with_exc_info", 503, b"no", "ValueError: before the head"),
        ("too_late_but_caught", 200, b"first after the head", None),
        (
            "twice",
            500,
            b"500 Internal Server Error\n",
            "TypeError: 'start_response' called twice without passing 'exc_info' the second time",
        ),
    ],
)
def test_start_response(shared: Serve, name: str, status: int, body: bytes, said: str | None) -> None:
    server = shared(CALLS)
    response = server.ask("GET", f"/{name}")
    assert (response.status, response.body) == (status, body)
    assert (response.get("X-First"), response.get("X-Late")) == (None, None)
    if said:
        server.wait_stderr(said)


def test_a_status_without_reason(shared: Serve) -> None:
    """The wire has a space behind the code even then (RFC 9112 section 4)."""
    response = shared(CALLS).ask("GET", "/wrong?what=status_bare")
    assert (response.status, response.reason, response.body) == (200, "", b"ok")


def test_a_request_that_is_over_cannot_be_answered(shared: Serve) -> None:
    with shared(CALLS).connect() as client:
        assert client.ask("GET", "/keep").body == b"ok"
        assert client.ask("GET", "/use_kept").body == b"RuntimeError TypeError ValueError"
        assert client.ask("GET", "/plain").body == b"ok"


def test_exc_info_after_the_head_ends_the_connection(shared: Serve) -> None:
    """The exception is raised into the application, which does not catch it: the body must not look complete."""
    server = shared(CALLS)
    with server.connect() as client:
        client.send(message("GET", "/too_late"))
        response = client.recv_head()
        assert (response.status, client.recv_block(response)) == (200, b"first")
        with pytest.raises(Closed):
            client.recv_block(response)
    server.wait_stderr("ValueError: after the head")


FIELDS = "start_response argument 2 must be a list of 2-tuples (field: str, value: str)"


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("no_arguments", "TypeError: start_response expected at least 2 arguments, got 0"),
        ("one_argument", "TypeError: start_response expected at least 2 arguments, got 1"),
        ("four_arguments", "TypeError: start_response expected at most 3 arguments, got 4"),
        ("headers_tuple", "start response argument 2 must be a list of 2-tuples (got 'tuple' object instead)"),
        ("headers_none", "start response argument 2 must be a list of 2-tuples (got 'NoneType' object instead)"),
        ("header_list", f"TypeError: {FIELDS} (found invalid 'list' object at position 0)"),
        ("header_empty_tuple", f"{FIELDS} (found invalid "),
        ("header_three", f"{FIELDS} (found invalid "),
        ("header_int", f"{FIELDS} (found invalid ('str', 'int') tuple at position 0)"),
        ("header_bytes", f"{FIELDS} (found invalid ('bytes', 'str') tuple at position 0)"),
        ("header_not_latin1", f"{FIELDS} (found invalid ('str', 'str') tuple at position 0)"),
        ("header_surrogate", f"{FIELDS} (found invalid ('str', 'str') tuple at position 0)"),
        ("status_short", "ValueError: 'status' must be 3-digit"),
        ("status_letters", "'status' must be 3-digit"),
        ("status_bytes", "TypeError: 'status' must be a str (got 'bytes' object instead)"),
        ("status_int", "TypeError: 'status' must be a str (got 'int' object instead)"),
        ("status_not_latin1", "Error: "),
        ("exc_info_int", "TypeError: start_response argument 3 must be a 3-tuple (got 'int' object instead)"),
        ("exc_info_pair", "start_response argument 3 must be a 3-tuple"),
        ("value_newline", "ValueError: "),
        ("value_crlf", "ValueError: "),
        ("value_return", "ValueError: "),
        ("value_nul", "ValueError: "),
        ("name_newline", "ValueError: "),
        ("name_colon", "ValueError: "),
        ("name_empty", "ValueError: "),
        ("name_space", "ValueError: "),
        ("status_newline", "ValueError: "),
        ("status_nul", "ValueError: "),
        ("status_1xx", "ValueError: "),
        ("status_101", "ValueError: "),
        ("status_four_digits", "ValueError: "),
        ("status_0", "ValueError: "),
        ("length_letters", "ValueError: "),
        ("length_negative", "ValueError: "),
        ("length_twice", "ValueError: "),
    ],
)
def test_wrong_arguments(shared: Serve, what: str, said: str) -> None:
    """An answer of 500, and on stderr what was wrong and where."""
    server = shared(CALLS)
    response = server.ask("GET", f"/wrong?what={what}")
    response.check_error(500)
    assert response.get("Set-Cookie") is None
    assert "in wrong" in server.wait_stderr(said)  # the traceback shows the application's line


# The application's headers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "absorbed"),
    [
        ("Connection", "keep-alive", True),
        ("Connection", "Upgrade", True),
        ("Keep-Alive", "timeout=5", True),
        ("Transfer-Encoding", "chunked", True),
        ("transfer-encoding", "chunked", True),
        ("Upgrade", "h2c", True),
        ("TE", "trailers", True),
        ("Trailer", "Expires", True),
        ("Proxy-Connection", "close", True),
        ("X-Own", "\xe4", False),
        ("x-OWN-Case", "a  b", False),
        ("Server", "mine", False),
        ("C", "1", False),
        ("Content", "2", False),
        ("Content-Length-X", "3", False),
        ("X-Empty", "", False),
    ],
)
def test_headers_of_the_application(shared: Serve, name: str, value: str, absorbed: bool) -> None:
    """Hop-by-hop fields are the server's business (PEP 3333); all others go out as they are, in order and in case."""
    with shared(CALLS).connect() as client:
        for _ in range(2):
            quoted = value.replace("\xe4", "%C3%A4").replace(" ", "%20")
            response = client.ask("GET", f"/headers?name={name}&value={quoted}")
            assert (response.body, response.framing, response.closes) == (b"ok", "length", False)
            assert ((name, value) in response.fields) == (not absorbed)


@pytest.mark.parametrize("value", ["close", "Close", "x, close"])
def test_connection_close_of_the_application(shared: Serve, value: str) -> None:
    with shared(CALLS).connect() as client:
        response = client.ask("GET", f"/headers?name=Connection&value={value.replace(' ', '%20')}")
        assert (response.body, response.closes) == (b"ok", True)
        client.expect_close()


def test_order_and_repetition(shared: Serve) -> None:
    names = "X-B,Set-Cookie,X-A,Set-Cookie"
    fields = shared(CALLS).ask("GET", f"/headers?name={names}&value=1|2|3|4").fields
    assert fields[:5] == [("X-B", "1"), ("Set-Cookie", "2"), ("X-A", "3"), ("Set-Cookie", "4"), ("Content-Length", "2")]


def test_date_is_the_applications_where_it_gives_one(shared: Serve) -> None:
    date = "Sun, 06 Nov 1994 08:49:37 GMT"
    response = shared(CALLS).ask("GET", f"/headers?name=Date&value={date.replace(' ', '%20')}")
    assert response.get("Date") == date  # get() refuses a second one


@pytest.mark.parametrize(
    ("options", "present"), [({}, (True, None)), ({"date_header": False, "server_header": "b/4"}, (False, "b/4"))]
)
def test_headers_of_the_server(serve: Serve, options: dict[str, Any], present: tuple[bool, str | None]) -> None:
    response = serve("apps.calls:app", **options).ask("GET", "/plain")
    assert (response.get("Date") is not None, response.get("Server")) == present


@pytest.mark.parametrize("split", ["", "1"])
@pytest.mark.parametrize(("promised", "given"), [(5, 4), (5, 0), (100_000, 1)])
def test_a_body_shorter_than_promised(shared: Serve, promised: int, given: int, split: str) -> None:
    """The end of the connection is all that can tell the client (or a 500, where nothing was sent)."""
    server = shared(CALLS)
    with server.connect() as client:
        client.send(message("GET", f"/lengths?promised={promised}&given={given}&split={split}"))
        wire = client.recv_until_close()
    head, _, body = wire.partition(b"\r\n\r\n")
    assert (head.startswith(b"HTTP/1.1 200 ") and body == b"x" * given) or head.startswith(b"HTTP/1.1 500 ")
    server.wait_stderr(f"the application gave {promised - given} bytes less than its Content-Length")


@pytest.mark.parametrize("split", ["", "1"])
@pytest.mark.parametrize(("promised", "given"), [(4, 5), (0, 5), (1, 1000)])
def test_a_body_longer_than_promised(shared: Serve, promised: int, given: int, split: str) -> None:
    """The client gets what was promised, and no more."""
    server = shared(CALLS)
    with server.connect() as client:
        response = client.ask("GET", f"/lengths?promised={promised}&given={given}&split={split}")
        assert response.body == b"x" * promised
        if response.closes:
            client.expect_close()
        else:
            assert client.ask("GET", "/plain").body == b"ok"


# When the application is asked ---------------------------------------------------------------------------------------


def test_each_block_is_on_the_wire_before_the_next_is_asked_for(shared: Serve, observer: Observer) -> None:
    """PEP 3333: a server must not delay the transmission of a block."""
    with shared(OBSERVED).connect() as client:
        client.send(message("GET", "/iterate?gated=1", observer.line))
        assert [observer.next(), observer.next()] == ["call", "next 0"]
        observer.go()
        assert observer.next() == "next 1"  # and there the application waits, while
        response = client.recv_head()
        assert client.recv_block(response) == b"x" * 10
        observer.go()
        assert observer.next() == "next 2"
        assert client.recv_block(response) == b"x" * 10
        observer.go(2)
        assert client.recv_block(response) == b"x" * 10
        assert client.recv_block(response) == b""
        assert [observer.next(), observer.next()] == ["next 3", "close"]


def test_blocks_of_a_known_length_are_not_delayed_either(shared: Serve, observer: Observer) -> None:
    with shared(OBSERVED).connect() as client:
        client.send(message("GET", "/iterate?gated=1&length=30", observer.line))
        observer.go()
        while observer.next() != "next 1":
            pass
        client.recv_head()
        assert client.recv_exactly(10) == b"x" * 10
        observer.go(3)
        assert client.recv_exactly(20) == b"x" * 20
        assert client.ask("GET", "/history").json()[-1] == "close"


def test_quick_blocks_do_not_wait_for_a_slow_one(shared: Serve, observer: Observer) -> None:
    """Blocks that follow each other quickly leave together, but not when the application lets them wait."""
    with shared(OBSERVED).connect() as client:
        assert client.ask("GET", "/iterate?blocks=5").body == b"x" * 50  # from now on something may be held
        client.send(message("GET", "/iterate?gated=1&free=5&blocks=6", observer.line))
        while observer.next() != "next 5":
            pass
        response = client.recv_head()
        assert b"".join(client.recv_block(response) for _ in range(5)) == b"x" * 50
        observer.go(2)
        assert client.recv_block(response) == b"x" * 10
        assert client.recv_block(response) == b""


@pytest.mark.parametrize("length", ["", "30"])
def test_the_last_blocks_do_not_wait_for_close(shared: Serve, observer: Observer, length: str) -> None:
    with shared(OBSERVED).connect() as client:
        assert client.ask("GET", "/iterate?blocks=5").body == b"x" * 50
        client.send(message("GET", f"/iterate?gated=close&length={length}", observer.line))
        while observer.next() != "close":
            pass
        response = client.recv_head()
        if length:
            assert client.recv_exactly(30) == b"x" * 30
        else:
            assert b"".join(client.recv_block(response) for _ in range(3)) == b"x" * 30
        observer.go()
        if not length:
            assert client.recv_block(response) == b""
        assert client.ask("GET", "/history").status == 200


@pytest.mark.parametrize("warm", [False, True])
def test_an_answer_does_not_wait_for_the_next_call(serve: Serve, observer: Observer, warm: bool) -> None:
    """Pipelined answers leave together, but not when the application lets them wait: from the first on."""
    with serve(OBSERVED).connect() as client:
        if warm:
            assert client.ask("GET", "/iterate?blocks=5").body == b"x" * 50
        client.send(message("GET", "/history") * 2 + message("GET", "/hold", observer.line))
        assert observer.next() == "call"
        assert [client.recv_response("GET").status for _ in range(2)] == [200, 200]
        observer.go()
        assert client.recv_response("GET").body == b"held"


def test_answers_do_not_wait_for_the_call_of_another_client(serve: Serve, observer: Observer) -> None:
    """The answers of a turn leave at its end, but not when the application takes its time over one of them."""
    server = serve(OBSERVED)
    with server.connect() as first, server.connect() as second, server.connect() as busy, server.connect() as slow:
        for client in (first, second, busy, slow):
            assert client.ask("GET", "/iterate?blocks=5").body == b"x" * 50  # from now on something may be held
        with contextlib.closing(Observer()) as other:
            busy.send(message("GET", "/hold", other.line))
            assert other.next() == "call"
            # They come while the server is busy, so that all have the same turn; the slow one is the last.
            first.send(message("GET", "/history"))
            second.send(message("GET", "/history"))
            slow.send(message("GET", "/hold", observer.line))
            other.go()
        assert busy.recv_response("GET").body == b"held"
        assert observer.next() == "call"
        assert [client.recv_response("GET").status for client in (first, second)] == [200, 200]
        observer.go()
        assert slow.recv_response("GET").body == b"held"


def test_written_blocks_are_on_the_wire_before_write_returns(shared: Serve, observer: Observer) -> None:
    with shared(OBSERVED).connect() as client:
        client.send(message("GET", "/write?gated=1", observer.line))
        observer.go()
        assert [observer.next(), observer.next()] == ["write 0", "write 1"]
        response = client.recv_head()
        assert client.recv_block(response) == b"x" * 10
        observer.go(2)
        assert [observer.next(), observer.next()] == ["write 2", "written"]
        assert [client.recv_block(response) for _ in range(2)] == [b"x" * 10] * 2
        observer.go()
        assert client.recv_block(response) == b""


def test_an_exception_in_the_first_block_can_still_be_a_500(shared: Serve, observer: Observer) -> None:
    server = shared(OBSERVED)
    with server.connect() as client:
        assert client.ask("GET", "/iterate?fail=0", observer.line).status == 500
        client.expect_close()
    server.wait_stderr("ValueError: wanted")


# close() -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "query", "blocks", "error"),
    [
        ("GET", "", 4, None),
        ("GET", "blocks=0", 1, None),
        ("GET", "size=0", 4, None),
        ("GET", "length=30", 3, None),
        ("GET", "length=25", 3, None),
        ("GET", "blocks=3&size=1000000", 4, None),
        ("GET", "fail=0", 1, "ValueError: wanted"),
        ("GET", "fail=1", 2, "ValueError: wanted"),
        ("GET", "fail=3", 4, "ValueError: wanted"),
        ("GET", "fail=1&error=GeneratorExit", 2, "GeneratorExit: wanted"),
        ("GET", "fail=1&error=MemoryError", 2, "MemoryError: wanted"),
        ("GET", "fail_close=ValueError", 4, "ValueError: close failed"),
        ("HEAD", "", 1, None),
        ("HEAD", "length=30", 1, None),
    ],
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_close_is_called_once(
    shared: Serve, observer: Observer, version: str, method: str, query: str, blocks: int, error: str | None
) -> None:
    server = shared(OBSERVED)
    with server.connect() as client:
        client.send(message(method, f"/iterate?{query}", observer.line, "Connection: close", version=version))
        wire, clean = client.recv_until_end()
    is_cut = query.startswith("fail=") and query != "fail=0"
    is_chunked = b"\r\nTransfer-Encoding: chunked\r\n" in wire
    if version == "1.0":
        # Nothing but a reset can tell that a body whose end is the connection's was cut.
        assert (clean, is_chunked) == (not is_cut, False)
    else:
        # A body that is cut has no last chunk, though the end of the connection was announced.
        assert (clean, is_chunked) == (True, is_cut or is_chunked)
        assert is_cut == (method == "GET" and is_chunked and not wire.endswith(b"\r\n0\r\n\r\n"))
    while observer.next() != "close":
        pass
    history = server.ask("GET", "/history").json()
    assert history[0] == "call"
    assert history.count("close") == 1
    assert history[-1] == "close"
    assert [f"next {number}" for number in range(blocks)] == history[1 : 1 + blocks]
    if error:
        server.wait_stderr(error)


@pytest.mark.parametrize("gated", ["", "1"])
def test_close_is_called_when_the_client_goes(shared: Serve, observer: Observer, gated: str) -> None:
    server = shared(OBSERVED)
    client = server.connect(receive_buffer=4096)
    client.send(message("GET", f"/iterate?blocks=1000000000&size=65536&gated={gated}", observer.line))
    while observer.next() != "next 0":
        pass
    client.reset()
    observer.go(100_000 if gated else 0)
    while observer.next() != "close":
        pass
    assert server.ask("GET", "/history").json().count("close") == 1


@pytest.mark.parametrize("error", ["SystemExit", "KeyboardInterrupt"])
@pytest.mark.parametrize("fail", [0, 1])
def test_close_is_called_when_the_application_ends_the_server(
    serve: Serve, observer: Observer, fail: int, error: str
) -> None:
    server = serve("apps.observed:app")
    with server.connect() as client:
        client.send(message("GET", f"/iterate?fail={fail}&error={error}&argument=5", observer.line))
        rest = client.recv_until_close()
    assert rest.startswith(b"HTTP/1.1 200 " if fail else b"HTTP/1.1 500 ")
    assert not rest.endswith(b"0\r\n\r\n")
    said = observer.all()
    assert said == ["call", *[f"next {number}" for number in range(fail + 1)], "close"]
    server.wait()


def test_sigint_lets_the_answer_be_finished(serve: Serve) -> None:
    server = serve("apps.observed:app")
    with server.connect() as client:
        client.send(message("GET", "/interrupt"))
        assert client.recv_response().body == b"one two three"
        client.expect_close()
    assert server.wait() == 0


def test_a_body_on_its_way_is_waited_for_in_the_drain(serve: Serve) -> None:
    server = serve("apps.echo:app")
    with server.connect() as idle, server.connect() as client:
        assert idle.ask().status == 200
        client.send(message("POST", "/", "Content-Length: 5") + b"he")
        assert idle.ask().status == 200
        server.process.send_signal(signal.SIGINT)
        idle.expect_close()  # the drain has begun
        client.send(b"llo")
        response = client.recv_response()
        assert (response.json()["body"], response.closes) == ("hello", True)
        client.expect_close()
    assert server.wait() == 0


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are listed in /proc")
def test_child_processes_inherit_no_sockets(shared: Serve) -> None:
    server = shared(CALLS)
    with server.connect() as other:
        assert other.ask("GET", "/forked").body == b"ok"
        body = server.ask("GET", "/spawned").body
        assert b"pipe:" in body
        assert b"socket:" not in body
        assert b"eventpoll" not in body
        assert other.ask("GET", "/plain").body == b"ok"


def test_nothing_is_kept(shared: Serve) -> None:
    """Three hundred requests of a kind leave fewer than that many blocks behind: none leaks one."""
    server = shared(CALLS)
    paths = ["plain", "lazy", "keywords", "subclasses", "written_between", "swallowed", "wrong?what=header_int"]
    for path in paths:
        before = 0
        for rounds in (30, 300):
            before = server.ask("GET", "/allocated").json()
            for _ in range(rounds):
                server.ask("POST", f"/{path}", "X-Unusual: a", body=b"hello")
        assert server.ask("GET", "/allocated").json() - before < 300, path
    server.wait_stderr("('str', 'int')")


def test_keep_alive_connections_do_not_hold_the_server_up(serve: Serve) -> None:
    """`ServerProcess.stop` at the end of the test expects an exit; this client never closes."""
    server = serve("apps.calls:app")
    idle = server.connect()
    assert idle.ask("GET", "/plain").body == b"ok"
    server.stop()
    idle.expect_close()
