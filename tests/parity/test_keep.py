"""What bjoern 3.2.2 does and this bjoern does as well: every row passes on both.

Knows: the checklist of 3.2.2.   Must not know: how either is made.
Bytes are compared with BJOERN_REQUIRE_HOST=0 and BJOERN_DATE_HEADER=0. Where only the status of an error is the same
(3.2.2 sends no field with it, this bjoern Content-Length and Connection), the row says `Refused`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from parity.conftest import Bjoern, Find
from parity.rows import Answer, Closes, Environ, Refused, Script, Stays, Wire, response
from wire import chunked, message

CLOSE = "Connection: close"
KEPT = "Connection: Keep-Alive"
CODED = (KEPT, "Transfer-Encoding: chunked")
OK_KEPT = Stays(response("200 OK", "Content-Length: 2", KEPT, body=b"ok"))
OK_CLOSED = Closes(response("200 OK", "Content-Length: 2", CLOSE, body=b"ok"))


def environ(name: str, sent: bytes, **wanted: object) -> Wire:
    return Wire("1.2", name, sent, Environ(wanted))


def closing(target: str, *lines: str, **how: bytes) -> bytes:
    return message("GET" if not how else "POST", target, *lines, CLOSE, **how)  # type: ignore[arg-type]


ENVIRONS = [
    environ("decoded path, raw query", closing("/a%20b%2F+?c=%20d"), PATH_INFO="/a b/+", QUERY_STRING="c=%20d"),
    environ("path is latin-1", closing("/%C3%A4%ff"), PATH_INFO="/\xc3\xa4\xff"),
    environ("nothing is normalized", closing("//a/../b/."), PATH_INFO="//a/../b/."),
    environ("fields", closing("/", "x-a-B:  c"), HTTP_X_A_B="c", HTTP_HOST="test", HTTP_CONNECTION="close"),
    environ("field value is latin-1", closing("/", "X-A: \xe4"), HTTP_X_A="\xe4"),
    environ("names with underscores", closing("/", "X_A: b", "X-A: c", "X_A: d"), HTTP_X_A="c"),
    environ(
        "content fields",
        closing("/", "Content-Type: a/b", body=b"hello"),
        **{"CONTENT_TYPE": "a/b", "CONTENT_LENGTH": "5", "HTTP_CONTENT_TYPE": None, "HTTP_CONTENT_LENGTH": None},
        **{"wsgi.input": "BytesIO", "read": "hello", "value": "hello"},
    ),
    environ("no body", closing("/"), **{"CONTENT_LENGTH": None, "wsgi.input": "BytesIO", "read": ""}),
    environ("HTTP/1.1", closing("/"), SERVER_PROTOCOL="HTTP/1.1", REQUEST_METHOD="GET"),
    environ("HTTP/1.0", message(version="1.0", host=None), SERVER_PROTOCOL="HTTP/1.0", HTTP_HOST=None),
    environ("addresses", closing("/"), REMOTE_ADDR="127.0.0.1", SERVER_NAME="127.0.0.1"),
    environ("application root", closing("/a"), SCRIPT_NAME=""),
    environ(
        "what is WSGI's",
        closing("/"),
        **{"wsgi.version": [1, 0], "wsgi.url_scheme": "http", "wsgi.input_terminated": True, "wsgi.run_once": False},
        **{"wsgi.multithread": False, "wsgi.multiprocess": True, "wsgi.file_wrapper": "type"},
    ),
    environ("absolute target", closing("http://test/a?b"), PATH_INFO="/a", QUERY_STRING="b", HTTP_HOST="test"),
    environ("asterisk", message("OPTIONS", "*", CLOSE), PATH_INFO="*", REQUEST_METHOD="OPTIONS"),
    environ("chunked", closing("/", chunks=[b"hel", b"lo"]), read="hello"),  # type: ignore[arg-type]
    *(
        environ(method, message(method, "/", CLOSE), REQUEST_METHOD=method)
        for method in ("PUT", "DELETE", "TRACE", "M-SEARCH", "PROPFIND", "MKCOL", "UNSUBSCRIBE", "PATCH")
    ),
    Wire(
        "1.2",
        "environ is fresh",
        (message("GET", "/environment"), message("GET", "/environment")),
        Stays(OK_KEPT.wire * 2),
    ),
]


def requests(name: str, sent: bytes | tuple[bytes, ...], want: Answer) -> Wire:
    return Wire("1.3", name, sent, want)


EXPECTING = message("POST", "/", "Expect: 100-continue", CLOSE, "Content-Length: 5")
REQUESTS = [
    requests("bad escape", message("GET", "/%zz"), Refused(400)),
    requests("byte outside ASCII in the target", message("GET", "/\xe4"), Refused(400)),
    requests("length that is no number", message("POST", "/", "Content-Length: a"), Refused(400)),
    requests("negative length", message("POST", "/", "Content-Length: -1"), Refused(400)),
    requests("noise", b"\x16\x03\x01\x02\x00\r\n\r\n", Refused(400)),
    requests("no target", b"GET\r\n\r\n", Refused(400)),
    requests("another expectation", message("POST", "/", "Expect: 200-ok", body=b""), Refused(417)),
    requests("expectation of HTTP/1.0", message("GET", "/ok", "Expect: x", version="1.0"), OK_CLOSED),
    requests("expectation, body there", message("GET", "/ok", "Expect: 100-continue", body=b"hello"), OK_KEPT),
    requests(
        "expectation, body later",
        (message("POST", "/ok", "Expect: 100-continue", "Content-Length: 5"), b"hello"),
        Stays(b"HTTP/1.1 100 Continue\r\n\r\n" + OK_KEPT.wire),
    ),
    requests("one request after another", (message("GET", "/ok"), message("GET", "/ok")), Stays(OK_KEPT.wire * 2)),
    requests(
        "body, then another request",
        (message("POST", "/ok", body=b"x"), message("GET", "/ok")),
        Stays(OK_KEPT.wire * 2),
    ),
    requests("head in two pieces", (message("GET", "/ok")[:20], message("GET", "/ok")[20:]), OK_KEPT),
    requests("body in two pieces", (message("POST", "/ok", "Content-Length: 5") + b"he", b"llo"), OK_KEPT),
]


def responses(name: str, sent: bytes, want: Answer, said: str = "") -> Wire:
    return Wire("1.4", name, sent, want, said=said)


def kind(name: str, *lines: str, body: bytes) -> Wire:
    return responses(name, message("GET", f"/{name}"), Stays(response("200 OK", *lines, body=body)))


ITEMS = "TypeError: wsgi iterable items must be bytes (got '{}' object instead)"
RESPONSES = [
    # Who keeps the connection: version, Content-Length, what the client asks for
    responses("1.0", message("GET", "/ok", version="1.0"), OK_CLOSED),
    responses("1.0 keep-alive", message("GET", "/ok", "Connection: keep-alive", version="1.0"), OK_KEPT),
    responses(
        "1.0 unknown", message("GET", "/generator", version="1.0"), Closes(response("200 OK", CLOSE, body=b"onetwo"))
    ),
    responses(
        "1.0 keep-alive, unknown",
        message("GET", "/generator", "Connection: keep-alive", version="1.0"),
        Closes(response("200 OK", CLOSE, body=b"onetwo")),
    ),
    responses("1.1", message("GET", "/ok"), OK_KEPT),
    responses("1.1 close", closing("/ok"), OK_CLOSED),
    responses("1.1 CLOSE", message("GET", "/ok", "Connection: CLOSE"), OK_CLOSED),
    responses(
        "1.1 unknown", message("GET", "/two"), Stays(response("200 OK", *CODED, body=chunked(b"one", b"two, too")))
    ),
    responses("204", message("GET", "/204"), Stays(response("204 No Content", KEPT))),
    responses("304", message("GET", "/304"), Stays(response("304 Not Modified", KEPT))),
    responses(
        "404 is kept",
        message("GET", "/404_known"),
        Stays(response("404 Not Found", "Content-Length: 2", KEPT, body=b"no")),
    ),
    # What is sent as it is
    responses(
        "verbatim",
        message("GET", "/verbatim"),
        Stays(
            response(
                "299 Well,  then",
                *("x-LOWER: a  b", "Set-Cookie: 1", "X-B: \xe4", "Set-Cookie: 2", "content-length: 2"),
                KEPT,
                body=b"ok",
            )
        ),
    ),
    # What may be returned
    kind("known_bytes", "Content-Length: 2", KEPT, body=b"ok"),
    kind("known_two", "Content-Length: 2", KEPT, body=b"ok"),
    kind("generator", *CODED, body=chunked(b"one", b"two")),
    kind("tuple", "Content-Length: 2", KEPT, body=b"ok"),
    kind("map", "Content-Length: 2", KEPT, body=b"ok"),
    kind("file", *CODED, body=chunked(b"one\n", b"two\n")),
    kind("lazy", "Content-Length: 2", KEPT, body=b"ok"),
    kind("empty_known", "Content-Length: 0", KEPT, body=b""),
    # What may not
    responses("str", message("GET", "/str"), Refused(500), ITEMS.format("str")),
    responses("list of str", message("GET", "/list_of_str"), Refused(500), ITEMS.format("str")),
    responses("bytearray", message("GET", "/bytearray"), Refused(500), ITEMS.format("bytearray")),
    responses("int", message("GET", "/int"), Refused(500), "TypeError: 'int' object is not iterable"),
    responses("None", message("GET", "/none"), Refused(500), "TypeError: 'NoneType' object is not iterable"),
    responses(
        "str behind a block",
        message("GET", "/late_str"),
        Closes(response("200 OK", *CODED, body=b"3\r\none\r\n")),
        ITEMS.format("str"),
    ),
    responses("exception", message("GET", "/failing"), Refused(500), "ValueError: before anything"),
    responses(
        "exception behind a block",
        message("GET", "/leaving"),
        Closes(response("200 OK", *CODED, body=b"3\r\none\r\n")),
        "ValueError: in the middle",
    ),
    responses(
        "no start_response",
        message("GET", "/silent"),
        Refused(500),
        "RuntimeError: wsgi application returned before start_response was called",
    ),
    # close()
    responses("close()", message("GET", "/closing"), OK_KEPT, "Closing: closed"),
    responses("close() of one block", message("GET", "/closing_one"), OK_KEPT, "Closing: closed"),
    responses(
        "close() behind an exception",
        message("GET", "/closing_error"),
        Closes(response("200 OK", *CODED, body=b"3\r\none\r\n")),
        "Closing: closed",
    ),
    responses("exception in close()", message("GET", "/close_error"), OK_KEPT, "ValueError: in close"),
]


def calls(name: str, want: Answer, said: str = "") -> Wire:
    return Wire("1.5", name, message("GET", f"/{name}"), want, said=said)


FIELDS = "start_response argument 2 must be a list of 2-tuples (field: str, value: str)"
CALLS = [
    calls("no_arguments", Refused(500), "TypeError: start_response expected at least 2 arguments, got 0"),
    calls("four_arguments", Refused(500), "TypeError: start_response expected at most 3 arguments, got 4"),
    calls(
        "headers_tuple",
        Refused(500),
        "TypeError: start response argument 2 must be a list of 2-tuples (got 'tuple' object instead)",
    ),
    calls("headers_subclass", OK_KEPT),
    calls("header_list", Refused(500), f"TypeError: {FIELDS} (found invalid 'list' object at position 0)"),
    calls("header_int", Refused(500), f"TypeError: {FIELDS} (found invalid ('str', 'int') tuple at position 1)"),
    calls("header_euro", Refused(500), f"TypeError: {FIELDS} (found invalid ('str', 'str') tuple at position 0)"),
    calls("status_short", Refused(500), "ValueError: 'status' must be 3-digit"),
    calls(
        "exc_info_int",
        Refused(500),
        "TypeError: start_response argument 3 must be a 3-tuple (got 'int' object instead)",
    ),
    calls("exc_info_none", OK_KEPT),
    calls(
        "twice",
        Refused(500),
        "TypeError: 'start_response' called twice without passing 'exc_info' the second time",
    ),
    calls(
        "replaced",
        Stays(response("503 Sorry", "X-Second: 2", "Content-Length: 2", KEPT, body=b"no")),
        "ValueError: in time",
    ),
    calls("too_late", Stays(response("200 OK", "Content-Length: 12", KEPT, body=b"first caught"))),
    calls("copied", Stays(response("200 OK", "X-A: a", "Content-Length: 2", KEPT, body=b"ok"))),
    calls("errors", OK_KEPT, "on wsgi.errors"),
]


def files(name: str, length: int, body: bytes) -> Wire:
    want = Stays(response("200 OK", f"Content-Length: {length}", KEPT, body=body))
    return Wire("1.6", name, message("GET", f"/{name}"), want)


FILES = [
    files("wrapped", 100, b"0123456789" * 10),
    files("wrapped_from_95", 5, b"56789"),
    files("wrapped_blocks", 5, b"56789"),
    files("wrapped_bytesio", 10, b"abcdefghij"),
    files("wrapped_reader", 6, b"onetwo"),
    Wire(
        "1.6",
        "wrapped_bytesio_unknown",
        message("GET", "/wrapped_bytesio_unknown"),
        Stays(response("200 OK", *CODED, body=chunked(b"abcd", b"efgh", b"ij"))),
    ),
    Wire(
        "1.6",
        "wrapper",
        closing("/wrapper"),
        Closes(
            response("200 OK", "Content-Length: 51", CLOSE, body=b'["FileWrapper", ["close"], true, ["ab", "cd", "e"]]')
        ),
    ),
]

WIRES = ENVIRONS + REQUESTS + RESPONSES + CALLS + FILES


@pytest.mark.parametrize("row", WIRES, ids=lambda row: f"{row.place} {row.name}")
def test_wire(row: Wire, bjoern: Bjoern, find: Find) -> None:
    row.check(find(row.restored), bjoern.is_old)


def test_close_when_the_client_goes(bjoern: Bjoern, find: Find) -> None:
    """1.4: close() is called, too, where nobody is left to read."""
    server = find(True)
    with server.connect(receive_buffer=4096) as client:
        client.send(message("GET", "/endless"))
        client.recv_head()
        client.reset()
    assert server.wait_stderr("Closing: closed").count("Closing: closed") == 1


def raising(call: str, want: str) -> Script:
    """A row of 1.1: the error of a call."""
    source = f"try:\n    {call}\nexcept Exception as error:\n    say(f'{{type(error).__name__}}: {{error}}')"
    return Script("1.1", call, source, want)


SCRIPTS = [
    Script(
        "1.1",
        "names",
        "for name in 'bind_and_listen listen run server_run os socket _bjoern _default_instance'.split():\n"
        "    getattr(bjoern, name)\n"
        "say(bjoern.DEFAULT_LISTEN_BACKLOG, bjoern._default_instance)",
        "1024 None",
    ),
    Script(
        "1.1",
        "the extension's version and features",
        "extension = bjoern._bjoern\n"
        "say(type(extension.version).__name__, len(extension.version), extension.version >= (3, 2, 2))\n"
        "say(*sorted(extension.features), extension.features['has_signal_handling'])",
        "tuple 3 True\nhas_sigint_handling has_signal_handling has_statsd has_statsd_tags True",
    ),
    Script(
        "1.1",
        "bind_and_listen",
        "sock = bjoern.bind_and_listen('127.0.0.1', 0)\n"
        "say(isinstance(sock, socket.socket), sock.getblocking(), sock.family == socket.AF_INET)\n"
        "say(*(bool(sock.getsockopt(socket.SOL_SOCKET, option))\n"
        "    for option in (socket.SO_ACCEPTCONN, socket.SO_REUSEADDR, socket.SO_REUSEPORT)))",
        "True False True\nTrue True False",
    ),
    Script(
        "1.1",
        "reuse_port by position",
        "sock = bjoern.bind_and_listen('localhost', 0, True, 10)\n"
        "say(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT), sock.getsockname()[0])",
        "1 127.0.0.1",
    ),
    Script(
        "1.1",
        "abstract and unix sockets",
        "path = sys.argv[1] + '/s'\n"
        "names = [bjoern.bind_and_listen(f'unix:{path}').getsockname() == path]\n"
        "names += [bjoern.bind_and_listen(f'unix:@{path}').getsockname() == b'\\0' + path.encode()]\n"
        "say(*names, os.path.exists(path))",
        "True True True",
    ),
    raising(
        "bjoern.listen(app, '127.0.0.1', 0); bjoern.listen(app, '127.0.0.1', 0)",
        "RuntimeError: Only one global server instance possible",
    ),
    raising(
        "bjoern.run()",
        "RuntimeError: Must call bjoern.listen(wsgi_app, host, ...) before calling bjoern.run() without arguments.",
    ),
    raising(
        "bjoern.listen(app, '127.0.0.1', 0, foo=1)", "TypeError: listen() got an unexpected keyword argument 'foo'"
    ),
    raising("bjoern.run(app, '127.0.0.1', 0, foo=1)", "TypeError: listen() got an unexpected keyword argument 'foo'"),
    raising("bjoern.listen(app)", "TypeError: listen() missing 1 required positional argument: 'host'"),
    raising("bjoern.server_run(object(), app)", "TypeError: argument must be an int, or have a fileno() method."),
    Script(
        "1.1",
        "server_run of the extension without arguments",
        "try:\n    bjoern._bjoern.server_run()\nexcept TypeError:\n    say('TypeError')",
        "TypeError",
    ),
    raising("bjoern.server_run(-1, app)", "ValueError: file descriptor cannot be a negative integer (-1)"),
    Script(
        "1.1",
        "errors by their type",
        "used = bjoern.bind_and_listen('127.0.0.1', 0)\n"
        "for port in (None, used.getsockname()[1]):\n"
        "    try:\n"
        "        bjoern.listen(app, '127.0.0.1', port)\n"
        "    except (TypeError, OSError) as error:\n"
        "        say(type(error).__name__, getattr(error, 'errno', None))",
        "TypeError None\nOSError 98",
    ),
    Script(
        "1.1",
        "listen, then run",
        "sock = bjoern.listen(app, '127.0.0.1', 0)\n"
        "say(bjoern._default_instance == (sock, app))\n"
        "aside(ask_and_interrupt, sock)\n"
        "serve()\n"
        "say(sock.fileno())",
        "True\nok\ninterrupted None\n-1",
    ),
    Script(
        "1.1",
        "run with arguments by position",
        "holder = bjoern.bind_and_listen('127.0.0.1', 0, True)\n"
        "port = holder.getsockname()[1]\n"
        "def client():\n"
        "    while bjoern._default_instance is None:\n"
        "        pass\n"
        "    holder.close()\n"
        "    ask_and_interrupt(bjoern._default_instance[0])\n"
        "aside(client)\n"
        "serve(app, 'localhost', port, True)",
        "ok\ninterrupted None",
    ),
    Script(
        "1.1",
        "run again with another listen",
        "for _ in range(2):\n    aside(ask_and_interrupt, bjoern.listen(app, '127.0.0.1', 0))\n    serve()",
        "ok\ninterrupted None\nok\ninterrupted None",
    ),
    *(
        Script(
            "1.1",
            f"server_run on a {what}",
            "sock = bjoern.bind_and_listen('unix:' + sys.argv[1] + '/s')\n"
            "aside(ask_and_interrupt, sock)\n"
            "try:\n"
            f"    bjoern.server_run({given}, app)\n"
            "except KeyboardInterrupt:\n"
            "    say(sock.fileno() > 0, os.path.exists(sys.argv[1] + '/s'))",
            "ok\nTrue True",
        )
        for what, given in (("socket", "sock"), ("descriptor", "sock.fileno()"))
    ),
    Script(
        "1.1",
        "server_run of the extension",
        "sock = bjoern.bind_and_listen('127.0.0.1', 0)\n"
        "aside(ask_and_interrupt, sock)\n"
        "try:\n"
        "    bjoern._bjoern.server_run(sock, app)\n"
        "except KeyboardInterrupt:\n"
        "    say('interrupted')",
        "ok\ninterrupted",
    ),
    Script(
        "1.7",
        "unix path is removed",
        "sock = bjoern.listen(app, 'unix:' + sys.argv[1] + '/s')\n"
        "aside(ask_and_interrupt, sock)\n"
        "serve()\n"
        "say(os.path.exists(sys.argv[1] + '/s'))",
        "ok\ninterrupted None\nFalse",
    ),
    Script(
        "1.7",
        "SIGINT from a request is a stop button",
        "def app(environ, start_response):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    start_response('200 OK', [])\n"
        "    return [b'asked', b' to stop']\n"
        "sock = bjoern.listen(app, '127.0.0.1', 0)\n"
        "answers = []\n"
        "client = aside(lambda: answers.append(get(sock.getsockname())))\n"
        "serve()\n"
        "client.join()\n"
        "say(*answers)",
        "interrupted None\nasked to stop",
    ),
    Script(
        "1.7",
        "socket closed in a handler, then SIGINT",
        "def stop(number, frame):\n"
        "    bjoern._default_instance[0].close()\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "signal.signal(signal.SIGUSR1, stop)\n"
        "sock = bjoern.listen(app, '127.0.0.1', 0)\n"
        "def client():\n"
        "    say(get(sock.getsockname()))\n"
        "    os.kill(os.getpid(), signal.SIGUSR1)\n"
        "aside(client)\n"
        "serve()",
        "ok\ninterrupted None",
    ),
    Script(
        "1.7",
        "a handler for SIGINT is called once and run() returns",
        "signal.signal(signal.SIGINT, lambda *_: say('handled'))\n"
        "aside(ask_and_interrupt, bjoern.listen(app, '127.0.0.1', 0))\n"
        "serve()",
        "ok\nhandled\nreturned",
    ),
    Script(
        "1.7",
        "SIGINT is ignored: run() returns",
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "aside(ask_and_interrupt, bjoern.listen(app, '127.0.0.1', 0))\n"
        "serve()",
        "ok\nreturned",
    ),
    Script(
        "1.7",
        "a handler that returns lets the server go on",
        "handled = threading.Event()\n"
        "signal.signal(signal.SIGUSR1, lambda *_: handled.set())\n"
        "sock = bjoern.listen(app, '127.0.0.1', 0)\n"
        "def client():\n"
        "    say(get(sock.getsockname()))\n"
        "    os.kill(os.getpid(), signal.SIGUSR1)\n"
        "    handled.wait()\n"
        "    ask_and_interrupt(sock)\n"
        "aside(client)\n"
        "serve()",
        "ok\nok\ninterrupted None",
    ),
    Script(
        "1.7",
        "in a thread",
        "sock = bjoern.listen(app, '127.0.0.1', 0)\n"
        "threading.Thread(target=bjoern.run, daemon=True).start()\n"
        "say(get(sock.getsockname()))",
        "ok",
    ),
    Script(
        "1.7",
        "other threads run while it waits",
        "sock = bjoern.listen(app, '127.0.0.1', 0)\n"
        "def client():\n"
        "    say(sum(number % 3 for number in range(300000)))\n"
        "    ask_and_interrupt(sock)\n"
        "aside(client)\n"
        "serve()",
        "300000\nok\ninterrupted None",
    ),
    Script(
        "1.7",
        "forked after listen",
        "sock = bjoern.listen(app, '127.0.0.1', 0)\n"
        "children = []\n"
        "reading, writing = os.pipe()\n"
        "for _ in range(2):\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        try:\n"
        "            os.write(writing, b'x')\n"
        "            bjoern.run()\n"
        "        except KeyboardInterrupt:\n"
        "            os._exit(0)\n"
        "    os.read(reading, 1)\n"
        "    children.append(child)\n"
        "say(*(get(sock.getsockname()) for _ in range(20)))\n"
        "for child in children:\n"
        "    os.kill(child, signal.SIGINT)\n"
        "    say(os.waitpid(child, 0)[1])",
        " ".join(["ok"] * 20) + "\n0\n0",
    ),
    Script(
        "1.7",
        "server_run in a process of multiprocessing",
        "import multiprocessing\n"
        "sock = bjoern.bind_and_listen('127.0.0.1', 0)\n"
        "process = multiprocessing.get_context('fork').Process(target=bjoern.server_run, args=(sock, app))\n"
        "process.start()\n"
        "say(get(sock.getsockname()))\n"
        "os.kill(process.pid, signal.SIGINT)\n"
        "process.join()\n"
        "say(process.exitcode)",
        "ok\n1",
    ),
    Script(
        "1.7",
        "SIGTERM kills",
        "sock = bjoern.listen(app, '127.0.0.1', 0)\n"
        "def client():\n"
        "    say(get(sock.getsockname()))\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "aside(client)\n"
        "serve()",
        "ok",
        code=-15,
    ),
    Script(
        "1.8",
        "statsd= that is off",
        "sock = bjoern.listen(app, '127.0.0.1', 0)\n"
        "aside(ask_and_interrupt, sock)\n"
        "try:\n"
        "    bjoern.run(statsd={'enable': False, 'host': '', 'port': 0, 'ns': ''})\n"
        "except KeyboardInterrupt:\n"
        "    say('interrupted')",
        "ok\ninterrupted",
    ),
]


@pytest.mark.parametrize("row", SCRIPTS, ids=lambda row: f"{row.place} {row.name}")
def test_script(row: Script, bjoern: Bjoern, tmp_path: Path) -> None:
    row.check(bjoern.python, str(tmp_path), bjoern.is_old)
