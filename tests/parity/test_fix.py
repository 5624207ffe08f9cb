"""Where this bjoern differs from 3.2.2: every row says what each of the two does, and both are tried.

Knows: the checklist of 3.2.2.   Must not know: how either is made.
FIXED are faults of 3.2.2 that nobody can want. ADDED was not there. CHANGED are decisions, each with its text. A row
whose two answers are equal would be no row: `test_every_row_is_a_difference`.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import re
from pathlib import Path

import pytest

from bjoern.options import Options
from conftest import Observer
from parity.conftest import Bjoern, Find
from parity.rows import ANYTHING_ELSE, Answer, Closes, Environ, Refused, Script, Stays, Wire, has_news, pulse, response
from server_process import ServerProcess
from wire import chunked, message

PAGE = Path(__file__).parents[2] / "docs" / "migrating-from-bjoern-3.md"

CLOSE = "Connection: close"
KEPT = "Connection: Keep-Alive"
CODED = (KEPT, "Transfer-Encoding: chunked")
LENGTH_2 = "Content-Length: 2"
OK_KEPT = Stays(response("200 OK", LENGTH_2, KEPT, body=b"ok"))
OK_CLOSED = Closes(response("200 OK", LENGTH_2, CLOSE, body=b"ok"))


def both(place: str, name: str, sent: bytes | tuple[bytes, ...], was: Answer, now: Answer, decision: str = "") -> Wire:
    return Wire(place, name, sent, now, was, decision=decision)


def environ(name: str, lines: list[str], was: dict[str, object], now: dict[str, object]) -> Wire:
    return both("1.2", name, message("GET", "/", *lines, CLOSE), Environ(was), Environ(now))


def raw(name: str, sent: bytes, was: Answer = OK_KEPT, now: Answer = Refused(400)) -> Wire:  # noqa: B008  # frozen
    return both("1.3", name, sent, was, now)


HEAD = b"GET /ok HTTP/1.1\r\nHost: test\r\n"
POST_5 = message("POST", "/ok", "Expect: 100-continue", "Content-Length: 5")
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

FIXED = [
    # Requests
    environ("repeated fields", ["X-A: a", "X-A: b"], {"HTTP_X_A": "ab"}, {"HTTP_X_A": "a, b"}),
    environ("repeated Cookie", ["Cookie: a=1", "Cookie: b=2"], {"HTTP_COOKIE": "a=1b=2"}, {"HTTP_COOKIE": "a=1; b=2"}),
    environ("Proxy, which CGI scripts obey", ["Proxy: evil"], {"HTTP_PROXY": "evil"}, {"HTTP_PROXY": None}),
    environ("blanks behind a value", ["X-A: a  "], {"HTTP_X_A": "a  "}, {"HTTP_X_A": "a"}),
    both(
        "1.2",
        "host of an absolute target",
        message("GET", "http://other/", CLOSE),
        Environ({"HTTP_HOST": "test"}),
        Environ({"HTTP_HOST": "other"}),
    ),
    both(
        "1.2",
        "fragment",
        message("GET", "/a?b#c", CLOSE),
        Environ({"PATH_INFO": "/a", "QUERY_STRING": "b"}),
        Refused(400),
    ),
    both(
        "1.2",
        "https over TCP",
        message("GET", "https://test/a", CLOSE),
        Environ({"PATH_INFO": "/a", "wsgi.url_scheme": "http"}),
        Refused(421),
    ),
    both(
        "1.2",
        "length of a chunked body",
        message("POST", "/", CLOSE, chunks=[b"hel", b"lo"]),
        Environ({"CONTENT_LENGTH": None, "read": "hello"}),
        Environ({"CONTENT_LENGTH": "5", "read": "hello"}),
    ),
    both(
        "1.2",
        "trailers of a chunked body",
        message("POST", "/", CLOSE, "Transfer-Encoding: chunked") + b"2\r\nok\r\n0\r\nX-Trailer: a\r\n\r\n",
        Environ({"HTTP_X_TRAILER": "a", "read": "ok"}),
        Environ({"HTTP_X_TRAILER": None, "read": "ok"}),
    ),
    both(
        "1.2",
        "CONNECT",
        message("CONNECT", "test:443", CLOSE),
        Environ({"PATH_INFO": None, "REQUEST_METHOD": "CONNECT"}),
        Refused(501),
    ),
    raw("same length twice", HEAD + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx"),
    raw("two lengths", HEAD + b"Content-Length: 2\r\nContent-Length: 1\r\n\r\nx"),
    raw("length beyond all numbers", HEAD + b"Content-Length: 1" + b"0" * 23 + b"\r\n\r\n", Stays()),
    raw("length beyond all disks", HEAD + b"Content-Length: 99999999999\r\n\r\n", Stays(), Refused(413)),
    raw("blank before the colon", HEAD + b"Foo : x\r\n\r\n"),
    raw("chunks and a length", HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    raw("folded line", HEAD + b"X-A: b\r\n c\r\n\r\n"),
    raw("control character", HEAD + b"X-A: b\x01c\r\n\r\n"),
    raw("bare line feeds", b"GET /ok HTTP/1.1\nHost: test\n\n"),
    raw("HTTP/0.9", b"GET /ok\r\n\r\n", OK_CLOSED),
    raw("HTTP/2.0", b"GET /ok HTTP/2.0\r\nHost: test\r\n\r\n", OK_CLOSED, Refused(505)),
    raw("two Hosts", HEAD + b"Host: other\r\n\r\n"),
    raw("method unknown to 3.2.2", message("BREW", "/ok"), Refused(400), OK_KEPT),
    raw("method in small letters", message("get", "/ok"), Refused(400), OK_KEPT),
    raw("more head than 64 KiB", HEAD + b"X-A: " + b"b" * 70_000 + b"\r\n\r\n", OK_KEPT, Refused(431)),
    raw("more head than 80 KiB", HEAD + b"X-A: " + b"b" * 90_000 + b"\r\n\r\n", Refused(400), Refused(431)),
    raw("two requests in one segment", message("GET", "/ok") * 2, OK_KEPT, Stays(OK_KEPT.wire * 2)),
    raw(
        "POST and GET in one segment",
        message("POST", "/empty_known", body=b"hello") + message("GET", "/ok"),
        OK_KEPT,
        Stays(response("200 OK", "Content-Length: 0", KEPT) + OK_KEPT.wire),
    ),
    both(
        "1.3",
        "escape in two segments",
        (
            message("GET", "/%2", CLOSE).partition(b" HTTP")[0],
            b"0a HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
        ),
        Refused(400),
        Environ({"PATH_INFO": "/ a"}),
    ),
    both(
        "1.3",
        "another expectation in two segments",
        tuple(message("POST", "/ok", "Expect: 100-|x", "Content-Length: 5").split(b"|")),
        Closes(CONTINUE + b"HTTP/1.1 417 Expectation Failed\r\n\r\n"),
        Refused(417),
    ),
    both(
        "1.3",
        "expectation in another case",
        (POST_5.replace(b"100-c", b"100-C"), b"hello"),
        Refused(417),
        Stays(CONTINUE + OK_KEPT.wire),
    ),
    both(
        "1.3",
        "beginning of an expectation",
        message("POST", "/ok", "Expect: 1", "Content-Length: 5"),
        Stays(CONTINUE),
        Refused(417),
    ),
    # Responses
    both("1.4", "close among others", message("GET", "/ok", "Connection: foo, close"), OK_KEPT, OK_CLOSED),
    both(
        "1.4",
        "Connection: close of the application",
        message("GET", "/connection_close"),
        Stays(response("200 OK", LENGTH_2, CLOSE, KEPT, body=b"ok")),
        OK_CLOSED,
    ),
    both(
        "1.4",
        "Transfer-Encoding of the application",
        message("GET", "/coded"),
        Stays(response("200 OK", "Transfer-Encoding: chunked", *CODED, body=chunked(b"ok"))),
        OK_KEPT,
    ),
    both(
        "1.4",
        "field with the beginning of Content-Length's name",
        message("GET", "/prefix"),
        Stays(response("200 OK", "C: 1", KEPT, body=b"onetwo")),
        Stays(response("200 OK", "C: 1", *CODED, body=chunked(b"one", b"two"))),
    ),
    both("1.4", "HEAD", message("HEAD", "/ok"), OK_KEPT, Stays(response("200 OK", LENGTH_2, KEPT))),
    both(
        "1.4",
        "HEAD of a file",
        message("HEAD", "/wrapped_from_95"),
        Stays(response("200 OK", "Content-Length: 5", KEPT, body=b"56789")),
        Stays(response("200 OK", "Content-Length: 5", KEPT)),
    ),
    both(
        "1.4",
        "204 with a body",
        message("GET", "/204_with_body"),
        Stays(response("204 No Content", KEPT, body=b"body")),
        Stays(response("204 No Content", KEPT)),
    ),
    both(
        "1.4",
        "304 with a body",
        message("GET", "/304_with_body"),
        Stays(response("304 Not Modified", KEPT, body=b"body")),
        Stays(response("304 Not Modified", KEPT)),
    ),
    both(
        "1.4",
        "fewer bytes than promised",
        message("GET", "/long_promise"),
        Stays(response("200 OK", "Content-Length: 9", KEPT, body=b"ok")),
        Closes(response("200 OK", "Content-Length: 9", KEPT, body=b"ok")),
    ),
    both(
        "1.4",
        "more bytes than promised",
        message("GET", "/short_promise"),
        Stays(response("200 OK", LENGTH_2, KEPT, body=b"okay")),
        Stays(response("200 OK", LENGTH_2, KEPT, body=b"ok")),
    ),
    both(
        "1.4",
        "line end in a value",
        message("GET", "/split"),
        Stays(response("200 OK", LENGTH_2, "X-A: b", "X-Evil: c", KEPT, body=b"ok")),
        Refused(500),
    ),
    both(
        "1.4",
        "text behind a block in a list",
        message("GET", "/list_with_str"),
        Closes(response("200 OK", *CODED, body=b"3\r\none\r\n")),
        Refused(500),
    ),
    # start_response
    both("1.5", "second call that is caught", message("GET", "/twice_but_caught"), Refused(500), OK_KEPT),
    Wire(
        "1.5",
        "status is bytes",
        message("GET", "/status_bytes"),
        Refused(500),
        said="TypeError: 'status' must be a str (got 'bytes' object instead)",
        said_before="TypeError: bad argument type for built-in operation",
    ),
    # Files
    both(
        "1.6",
        "file longer than promised",
        message("GET", "/wrapped_past_length"),
        Stays(response("200 OK", "Content-Length: 5", KEPT, body=b"0123456789" * 10)),
        Stays(response("200 OK", "Content-Length: 5", KEPT, body=b"01234")),
    ),
    both(
        "1.6",
        "file without Content-Length",
        message("GET", "/wrapped_unknown"),
        Stays(response("200 OK", *CODED, body=b"5\r\n56789\r\n")),
        Stays(response("200 OK", "Content-Length: 5", KEPT, body=b"56789")),
    ),
    *(
        both(
            "1.7",
            name,
            message("GET", path),
            Stays(response("200 OK", LENGTH_2, KEPT, body=was)),
            Stays(response("200 OK", LENGTH_2, KEPT, body=now)),
        )
        for name, path, was, now in [
            ("child processes inherit connections", "/inheritable", b"ye", b"no"),
            ("TCP_NODELAY", "/undelayed", b"no", b"ok"),
        ]
    ),
]

ADDED = [
    both("1.5", "start_response with keywords", message("GET", "/keywords"), Refused(500), OK_KEPT),
    both(
        "1.5",
        "write()",
        message("GET", "/written"),
        Refused(500),
        Stays(response("200 OK", "Content-Length: 6", KEPT, body=b"onetwo")),
    ),
    environ("query, where there is none", [], {"QUERY_STRING": None}, {"QUERY_STRING": ""}),
    environ("target as it was", [], {"RAW_URI": None, "REQUEST_URI": None}, {"RAW_URI": "/", "REQUEST_URI": "/"}),
]

ONE_BLOCK = "The length of a body of one block is known, so Content-Length is sent (PEP 3333)."
CHANGED = [
    both(
        "1.2",
        "coding of a chunked request",
        message("POST", "/", CLOSE, chunks=[b"hello"]),
        Environ({"HTTP_TRANSFER_ENCODING": "chunked"}),
        Environ({"HTTP_TRANSFER_ENCODING": None}),
        "The body is decoded (RFC 9112 section 7.1.3); Bottle would decode it again.",
    ),
    both(
        "1.4",
        "one block without Content-Length",
        message("GET", "/one"),
        Stays(response("200 OK", *CODED, body=chunked(b"whole"))),
        Stays(response("200 OK", "Content-Length: 5", KEPT, body=b"whole")),
        ONE_BLOCK,
    ),
    both(
        "1.4",
        "bytes without Content-Length",
        message("GET", "/bytes"),
        Stays(response("200 OK", *CODED, body=chunked(b"whole"))),
        Stays(response("200 OK", "Content-Length: 5", KEPT, body=b"whole")),
        ONE_BLOCK,
    ),
    both(
        "1.4",
        "one block to HTTP/1.0 that asks for keep-alive",
        message("GET", "/one", "Connection: keep-alive", version="1.0"),
        Closes(response("200 OK", CLOSE, body=b"whole")),
        Stays(response("200 OK", "Content-Length: 5", KEPT, body=b"whole")),
        ONE_BLOCK,
    ),
    *(
        both(
            "1.4",
            f"no body: {name}",
            message("GET", f"/{name}"),
            Stays(response("200 OK", *CODED, body=b"0\r\n\r\n")),
            Stays(response("200 OK", "Content-Length: 0", KEPT)),
            ONE_BLOCK,
        )
        for name in ("empty", "empty_block", "empty_generator")
    ),
    both(
        "1.4",
        "list of several blocks in HTTP/1.0",
        message("GET", "/two", version="1.0"),
        Closes(response("200 OK", CLOSE, body=b"onetwo, too")),
        Closes(response("200 OK", "Content-Length: 11", CLOSE, body=b"onetwo, too")),
        "Its length is known. In HTTP/1.1 it is chunked as ever.",
    ),
    both(
        "1.4",
        "list of several blocks in HTTP/1.0, keep-alive",
        message("GET", "/two", "Connection: keep-alive", version="1.0"),
        Closes(response("200 OK", CLOSE, body=b"onetwo, too")),
        Stays(response("200 OK", "Content-Length: 11", KEPT, body=b"onetwo, too")),
        "Its length is known, so the connection can be kept.",
    ),
    both(
        "1.4",
        "several blocks, and the client closes",
        message("GET", "/two", CLOSE),
        Closes(response("200 OK", CLOSE, body=b"onetwo, too")),
        Closes(response("200 OK", CLOSE, "Transfer-Encoding: chunked", body=chunked(b"one", b"two, too"))),
        "A client sees whether it has the whole (RFC 9112 sections 6.3 and 7.1).",
    ),
    both(
        "1.4",
        "digits of a chunk's size",
        message("GET", "/large_block"),
        Stays(response("200 OK", *CODED, body=b"1a\r\n" + b"x" * 26 + b"\r\n0\r\n\r\n")),
        Stays(response("200 OK", *CODED, body=b"1A\r\n" + b"x" * 26 + b"\r\n0\r\n\r\n")),
        "Capital letters; either is right (RFC 9112 section 7.1).",
    ),
    both(
        "1.3",
        "bytes of an error",
        message("GET", "/%zz"),
        Closes(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        Closes(
            response(
                "400 Bad Request",
                "Content-Type: text/plain; charset=utf-8",
                "Content-Length: 16",
                CLOSE,
                body=b"400 Bad Request\n",
            )
        ),
        "Errors say what they are, their length, and that the connection ends.",
    ),
    dataclasses.replace(
        both(
            "1.3",
            "HTTP/1.1 without Host",
            message("GET", "/ok", host=None),
            OK_KEPT,
            Refused(400),
            "RFC 9112 section 3.2. BJOERN_REQUIRE_HOST=0 accepts it.",
        ),
        restored=False,
    ),
]

WIRES = FIXED + ADDED + CHANGED


@pytest.mark.parametrize("row", WIRES, ids=lambda row: f"{row.place} {row.name}")
def test_wire(row: Wire, bjoern: Bjoern, find: Find) -> None:
    row.check(find(row.restored), bjoern.is_old)


def test_date(bjoern: Bjoern, find: Find) -> None:
    """1.4, decided: Date is sent (RFC 9110 section 6.6.1). BJOERN_DATE_HEADER=0 leaves it out."""
    for restored in (True, False):
        date = find(restored).ask("GET", "/ok").get("Date")
        assert (date is None) == (restored or bjoern.is_old)


# Fixed: what takes more than one connection -------------------------------------------------------------------------


def test_a_finished_answer_does_not_wait_for_another_request(bjoern: Bjoern, find: Find) -> None:
    """1.4: in 3.2.2 it is sent a turn of the loop later, and its end another one."""
    server = find(True)
    with (
        contextlib.closing(Observer()) as first,
        contextlib.closing(Observer()) as last,
        contextlib.ExitStack() as stack,
    ):
        holding, client, behind = (stack.enter_context(server.connect()) for _ in range(3))
        for one in (holding, client, behind):
            assert one.ask("GET", "/ok").status == 200
        holding.send(message("GET", "/held", first.line))
        assert first.next() == "held"
        # While the server is busy both of these arrive, and it finds them together.
        client.send(message("GET", "/generator"))
        behind.send(message("GET", "/held", last.line))
        first.go()
        assert last.next() == "held"
        if bjoern.is_old:
            assert not has_news(client)
        else:
            assert client.recv_response().body == b"onetwo"
        last.go()
        assert [one.recv_response().status for one in (holding, behind)] == [200, 200]


def test_idle_connections_do_not_hold_the_end_up(bjoern: Bjoern, find: Find) -> None:
    """1.7: in 3.2.2 an idle connection is served on after SIGINT, and the server ends when its client goes."""
    server = ServerProcess(bjoern.python, "parity.apps:app")
    try:
        with server.connect() as idle:
            assert idle.ask("GET", "/ok").status == 200
            assert server.ask("GET", "/stop").body == b"ok"
            if bjoern.is_old:
                pulse(idle)
            else:
                idle.expect_close()
        assert server.wait() == 0
    finally:
        server.discard()


# Programs -------------------------------------------------------------------------------------------------------------


def error_of(name: str, call: str, was: str, now: str, decision: str = "", **codes: int) -> Script:
    """A row of 1.1: the error of a call, or "fine"."""
    source = f"try:\n    {call}\n    say('fine')\nexcept Exception as error:\n    say(type(error).__name__)"
    return Script("1.1", name, source, now, was, decision=decision, **codes)


UNDER_A_CLIENT = """
def serving(sock):
    aside(ask_and_interrupt, sock)
    try:
        bjoern.server_run(sock, app)
    except KeyboardInterrupt:
        pass

def app(environ, start_response):
    answer = [environ[name] for name in NAMES]
    if "SERVER_PORT" in NAMES:
        answer[-1] = answer[-1] and answer[-1] == str(PORT)
    start_response("200 OK", [])
    return [repr(answer).encode()]

"""

SCRIPTS = [
    error_of("IPv6 address", "bjoern.bind_and_listen('::1', 0)", "gaierror", "fine"),
    error_of("descriptor that is not open", "bjoern.server_run(999, app)", "", "OSError", code_was=-6),
    error_of("numeric port as text", "bjoern.bind_and_listen('127.0.0.1', '0')", "TypeError", "fine", "Accepted."),
    error_of(
        "enable_statsd, of 3.2.2's README",
        "bjoern.server_run(-1, app, enable_statsd=False)",
        "TypeError",
        "ValueError",
        "Accepted.",
    ),
    error_of(
        "application that is not callable",
        "bjoern.listen(None, '127.0.0.1', 0)",
        "fine",
        "TypeError",
        "Refused at the start instead of with 500 for every request.",
    ),
    error_of(
        "stale unix path",
        "path = f'unix:{sys.argv[1]}/s'; bjoern.bind_and_listen(path).close(); bjoern.bind_and_listen(path)",
        "OSError",
        "fine",
    ),
    error_of("the extension's name", "import _bjoern", "fine", "ModuleNotFoundError", "It is `bjoern._bjoern`."),
    Script(
        "1.1",
        "version and features",
        "say(*(hasattr(bjoern, name) for name in ('version', 'features', '__version__')))",
        "True True True",
        "False False False",
    ),
    Script(
        "1.2",
        "addresses of a unix socket",
        UNDER_A_CLIENT + "NAMES = ['REMOTE_ADDR']\nserving(bjoern.bind_and_listen('unix:' + sys.argv[1] + '/s'))",
        "['']",
        ANYTHING_ELSE,  # what the memory held
    ),
    Script(
        "1.2",
        "addresses of an IPv6 socket",
        UNDER_A_CLIENT
        + "NAMES = ['REMOTE_ADDR', 'SERVER_NAME', 'SERVER_PORT']\n"
        + "sock = socket.create_server(('::1', 0), family=socket.AF_INET6)\n"
        + "sock.setblocking(False)\n"
        + "PORT = sock.getsockname()[1]\n"
        + "serving(sock)",
        "['::1', '[::1]', True]",
        "['0.0.0.0', '', '']",
    ),
    Script(
        "1.2",
        "port of a second server",
        UNDER_A_CLIENT
        + "NAMES = ['SERVER_NAME', 'SERVER_PORT']\n"
        + "socks = [bjoern.bind_and_listen('127.0.0.1', 0) for _ in range(2)]\n"
        + "for sock in socks:\n"
        + "    PORT = sock.getsockname()[1]\n"
        + "    serving(sock)",
        "['127.0.0.1', True]\n['127.0.0.1', True]",
        "['127.0.0.1', True]\n['127.0.0.1', False]",
    ),
    Script(
        "1.2",
        "more in the environ",
        UNDER_A_CLIENT
        + "def app(environ, start_response):\n"
        + "    start_response('200 OK', [])\n"
        + "    return [repr([name in environ for name in ('SERVER_SOFTWARE', 'REMOTE_PORT')]).encode()]\n"
        + "serving(bjoern.bind_and_listen('127.0.0.1', 0))",
        "[True, True]",
        "[False, False]",
    ),
    Script(
        "1.4",
        "SystemExit of the application",
        "def app(environ, start_response):\n"
        "    sys.exit(7)\n"
        "sock = bjoern.listen(app, 'unix:' + sys.argv[1] + '/s')\n"
        "aside(lambda: get(sock.getsockname(), sock.family))\n"
        "try:\n"
        "    bjoern.run()\n"
        "finally:\n"
        "    say('finally', os.path.exists(sys.argv[1] + '/s'))",
        "finally False",
        "",
        code=7,
        code_was=7,
    ),
    Script(
        "1.4",
        "KeyboardInterrupt of the application",
        "def app(environ, start_response):\n"
        "    raise KeyboardInterrupt\n"
        "sock = bjoern.listen(app, '127.0.0.1', 0)\n"
        "address = sock.getsockname()\n"
        "def client():\n"
        "    if serves_on(address):\n"
        "        say('serves on')\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "thread = aside(client)\n"
        "serve()\n"
        "thread.join()",
        "interrupted None",
        "serves on\ninterrupted None",
        decision="It ends the server after the drain; in 3.2.2 it was an error like others.",
    ),
    Script(
        "1.7",
        "SIGTERM leaves no unix path",
        "import subprocess\n"
        "path = sys.argv[1] + '/s'\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    sock = bjoern.listen(app, 'unix:' + path)\n"
        "    def client():\n"
        "        say(get(path, socket.AF_UNIX))\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    aside(client)\n"
        "    bjoern.run()\n"
        "status = os.waitpid(child, 0)[1]\n"
        "say(os.WTERMSIG(status), os.path.exists(path))",
        "ok\n15 False",
        "ok\n15 True",
        decision="SIGTERM answers the requests at hand and clears away, then the process dies of it.",
    ),
    Script(
        "1.7",
        "SIGINT again, while an answer is not read",
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [b'x' * (32_000_000 if environ['PATH_INFO'] == '/large' else 2)]\n"
        "address = bjoern.listen(app, '127.0.0.1', 0).getsockname()\n"
        "def client():\n"
        "    slow, idle = socket.create_connection(address), socket.create_connection(address)\n"
        "    slow.sendall(b'GET /large HTTP/1.0\\r\\n\\r\\n')\n"
        "    slow.recv(1)\n"
        "    try:\n"
        "        for turn in range(8):\n"
        "            idle.sendall(b'GET / HTTP/1.1\\r\\nHost: test\\r\\n\\r\\n')\n"
        "            if not idle.recv(4096):\n"
        "                break\n"
        "            if turn == 0:\n"
        "                os.kill(os.getpid(), signal.SIGINT)\n"
        "    except OSError:\n"
        "        pass  # closed: the drain has begun\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    threading.Event().wait()\n"
        "aside(client)\n"
        "serve()",
        "interrupted None",
        "",
        code_was=-2,
        decision="It closes all connections, and KeyboardInterrupt leaves run().",
    ),
    Script(
        "1.7",
        "what a handler raises leaves run()",
        "handled = threading.Event()\n"
        "def handler(*_):\n"
        "    handled.set()\n"
        "    sys.exit(7)\n"
        "signal.signal(signal.SIGTERM, handler)\n"
        "sock = bjoern.listen(app, '127.0.0.1', 0)\n"
        "def client():\n"
        "    get(address)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    handled.wait()\n"
        "    if serves_on(address):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "address = sock.getsockname()\n"
        "aside(client)\n"
        "serve()",
        "",
        ANYTHING_ELSE,  # it is served on, or the process crashes with the exception of the handler still set
        code=7,
    ),
    Script(
        "1.7",
        "abstract socket",
        "sock = bjoern.listen(app, 'unix:@' + sys.argv[1])\n"
        "aside(ask_and_interrupt, sock)\n"
        "try:\n"
        "    serve()\n"
        "except ValueError as error:\n"
        "    say(error)",
        "ok\ninterrupted None",
        "ok\nunlink: embedded null character in path",
    ),
    Script(
        "1.7",
        "the first of two children leaves the unix path",
        "path = sys.argv[1] + '/s'\n"
        "sock = bjoern.listen(app, 'unix:' + path)\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    aside(ask_and_interrupt, sock)\n"
        "    try:\n"
        "        bjoern.run()\n"
        "    finally:\n"
        "        os._exit(0)\n"
        "os.waitpid(child, 0)\n"
        "say(os.path.exists(path))",
        "ok\nTrue",
        "ok\nFalse",
    ),
    Script(
        "1.7",
        "SIGINT is the main thread's",
        "sock = bjoern.listen(app, '127.0.0.1', 0)\n"
        "aside(bjoern.run)\n"
        "address = sock.getsockname()\n"
        "say(get(address))\n"
        "def ask_on():\n"
        "    try:\n"
        "        while get(address):\n"
        "            pass\n"
        "    except OSError:\n"
        "        return 'interrupted with the server'\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    say(ask_on())\n"
        "except KeyboardInterrupt:\n"
        "    say('interrupted', get(address))",
        "ok\ninterrupted ok",
        ANYTHING_ELSE,  # the server ends, and then the main thread is interrupted or not
    ),
    Script(
        "1.8",
        "statsd= that is on",
        "import warnings\n"
        "warnings.simplefilter('error')\n"
        "try:\n"
        "    bjoern.run(statsd={'enable': True, 'host': '', 'port': 0, 'ns': ''})\n"
        "except Exception as error:\n"
        "    say(type(error).__name__)",
        "RuntimeWarning",
        "RuntimeError",
        decision="Released builds of 3.2.2 ignore it silently; here a warning says that nothing is sent.",
    ),
]


@pytest.mark.parametrize("row", SCRIPTS, ids=lambda row: f"{row.place} {row.name}")
def test_script(row: Script, bjoern: Bjoern, tmp_path: Path) -> None:
    row.check(bjoern.python, str(tmp_path), bjoern.is_old)


def test_the_page_names_options_that_exist() -> None:
    """docs/migrating-from-bjoern-3.md, in the last column of its first table."""
    columns = [line.split("|") for line in PAGE.read_text("utf-8").splitlines() if line.count("|") == 6]
    named = [text for row in columns for text in re.findall("`([a-z_]+=[^`]+)`", row[5])]
    assert len(named) > 5
    for text in named:
        name, _, value = text.partition("=")
        Options.resolve("test", {name: ast.literal_eval(value)})  # raises where it is not one, or not so


def test_every_row_is_a_difference() -> None:
    for wire in WIRES:
        assert (wire.was, wire.said_before) != (wire.want, wire.said), wire.name
        assert wire.was is not None or wire.said_before, wire.name
    for script in SCRIPTS:
        assert script.was is not None, script.name
        assert (script.was, script.code_was) != (script.want, script.code), script.name
    for row in CHANGED:
        assert row.decision, row.name
