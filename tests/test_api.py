"""The functions of bjoern 3, and `Server`.

How it works: what only raises is called here; what serves is a program, or a `Server` in a background thread.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import bjoern
from bjoern import drop_in
from bjoern.addresses import TcpAddress, UnixAddress
from programs import End, Program, ask, connect, get


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    if environ["PATH_INFO"] == "/exit":
        raise SystemExit(5)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


@pytest.fixture
def no_default() -> Iterator[None]:
    """Forgets a global server that the test has left."""
    yield
    if bjoern._default_instance:
        bjoern._default_instance[0].close()
    bjoern._default_instance = drop_in._default_server = None


# Names


def test_names_of_bjoern_3_and_new_ones() -> None:
    assert bjoern.DEFAULT_LISTEN_BACKLOG == 1024
    assert bjoern._default_instance is None
    assert bjoern.os is os  # type: ignore[attr-defined]
    assert bjoern.socket is socket  # type: ignore[attr-defined]
    assert bjoern.version >= (4, 0, 0)
    assert bjoern.__version__ == ".".join(map(str, bjoern.version))
    assert bjoern._bjoern.version == bjoern.version
    assert bjoern._bjoern.features == bjoern.features
    assert set(bjoern.features) >= {"has_signal_handling", "has_sigint_handling", "has_statsd", "has_statsd_tags"}
    assert all(hasattr(bjoern, name) for name in bjoern.__all__)


# What is wrong is said at once


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda: bjoern.run(),
            RuntimeError,
            "Must call bjoern.listen(wsgi_app, host, ...) before calling bjoern.run() without arguments.",
        ),
        (
            lambda: bjoern.listen(app),  # type: ignore[call-arg]
            TypeError,
            "listen() missing 1 required positional argument: 'host'",
        ),
        (lambda: bjoern.run(app), TypeError, "listen() missing 1 required positional argument: 'host'"),
        (lambda: bjoern.run(app, "127.0.0.1"), TypeError, "'NoneType' object cannot be interpreted as an integer"),
        (
            lambda: bjoern.run(app, "127.0.0.1", 0, foo=1),
            TypeError,
            "listen() got an unexpected keyword argument 'foo'",
        ),
        (
            lambda: bjoern.listen(app, "127.0.0.1", 0, max_boddy=1),
            TypeError,
            "listen() got an unexpected keyword argument 'max_boddy'; did you mean 'max_body'?",
        ),
        (
            lambda: bjoern.run(app, "127.0.0.1", 0, worker=2),
            TypeError,
            "listen() got an unexpected keyword argument 'worker'; did you mean 'workers'?",
        ),
        (lambda: bjoern.server_run(0, app, foo=1), TypeError, "server_run() got an unexpected keyword argument 'foo'"),
        (lambda: bjoern.Server(app, foo=1), TypeError, "Server() got an unexpected keyword argument 'foo'"),
        (
            lambda: bjoern.run(app, "::1", 0, keep_alive=True),
            TypeError,
            "keep_alive must be a number of seconds, got True",
        ),
        (
            lambda: bjoern.server_run(object(), app),  # type: ignore[arg-type]
            TypeError,
            "argument must be an int, or have a fileno() method.",
        ),
        (lambda: bjoern.server_run(-1, app), ValueError, "file descriptor cannot be a negative integer (-1)"),
        (lambda: bjoern.Server(app, []), ValueError, "no address to listen on: give at least one"),
        (
            lambda: bjoern.Server(app, "127.0.0.1:0", sockets=[0]),
            ValueError,
            "bind and sockets exclude each other: give the addresses, or sockets that listen",
        ),
    ],
)
def test_error(call: Callable[[], object], error: type[Exception], text: str, no_default: None) -> None:
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    assert str(caught.value) == text
    assert bjoern._default_instance is None


@pytest.mark.parametrize("call", [bjoern.run, bjoern.listen, bjoern.Server])
@pytest.mark.parametrize("what", [None, "module:app", 3])
def test_application_must_be_callable(call: Callable[..., object], what: object) -> None:
    arguments = ("127.0.0.1:0",) if call is bjoern.Server else ("127.0.0.1", 0)
    with pytest.raises(TypeError, match=r"^wsgi_app must be callable with \(environ, start_response\), got "):
        call(what, *arguments)


def test_descriptor_that_is_not_open() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        bjoern.server_run(reading, app)
    assert caught.value.errno == errno.EBADF


def test_descriptor_that_is_no_socket() -> None:
    with tempfile.TemporaryFile() as file, pytest.raises(OSError, match=r"[Ss]ocket") as caught:
        bjoern.server_run(file, app)
    assert caught.value.errno == errno.ENOTSOCK


def test_socket_that_does_not_listen() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(ValueError, match="is not listening"):
            bjoern.server_run(sock, app)


def test_malformed_variable_is_found_before_anything_is_bound(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BJOERN_KEEP_ALIVE", "soon")
    with pytest.raises(ValueError, match=r"^BJOERN_KEEP_ALIVE must be a duration"):
        bjoern.listen(app, f"unix:{tmp_path}/s")
    assert not list(tmp_path.iterdir())


def test_second_global_server(no_default: None) -> None:
    sock = bjoern.listen(app, "127.0.0.1", 0)
    assert bjoern._default_instance == (sock, app)
    with pytest.raises(RuntimeError, match=r"^Only one global server instance possible$"):
        bjoern.listen(app, "127.0.0.1", 0)


# statsd


def test_statsd_is_accepted_with_a_warning(no_default: None) -> None:
    config = {"enable": True, "host": "", "port": 8125, "ns": "bjoern"}
    with pytest.warns(RuntimeWarning, match="nothing is sent") as warned, pytest.raises(RuntimeError):
        bjoern.run(statsd=config)
    assert warned[0].filename == __file__
    with pytest.warns(RuntimeWarning, match="nothing is sent"), pytest.raises(ValueError, match="negative"):
        bjoern.server_run(-1, app, config)
    with pytest.warns(RuntimeWarning, match="nothing is sent"), pytest.raises(ValueError, match="negative"):
        bjoern.server_run(-1, app, enable_statsd=True)


@pytest.mark.parametrize("config", [None, {}, {"enable": False}])
def test_statsd_that_is_off_warns_of_nothing(config: dict[str, Any] | None) -> None:
    with warnings.catch_warnings(), pytest.raises(RuntimeError, match=r"^Must call"):
        warnings.simplefilter("error")
        bjoern.run(statsd=config)


# Programs written for bjoern 3

RUN = """
try:
    {0}
except KeyboardInterrupt:
    say("interrupted", bjoern._default_instance)
"""


def test_run_with_positional_arguments() -> None:
    with bjoern.bind_and_listen("127.0.0.1", 0, True) as holder:  # keeps the port free for the program
        port = holder.getsockname()[1]
        source = "say('ready')" + RUN.format(f"bjoern.run(app, 'localhost', {port}, True)")
        with Program.of(source) as program:
            assert program.hear() == "ready"
            holder.close()
            assert get_until_there(port).endswith(b"ok")
            program.send(signal.SIGINT)
            assert program.end() == End(0, "interrupted None\n", "")


def get_until_there(port: int) -> bytes:
    """The response of a server that is about to listen."""
    while True:
        try:
            return get(port)
        except ConnectionError:
            continue


def test_listen_then_run_once() -> None:
    source = """
sock = bjoern.listen(app, "127.0.0.1", "0")
say(sock.getsockname()[1])
while True:
    try:
        bjoern.run()
    except KeyboardInterrupt:
        say("interrupted", bjoern._default_instance, sock.fileno())
    except RuntimeError as error:
        say(error)
        break
"""
    with Program.of(source) as program:
        assert get(program.hear()).endswith(b"ok")
        program.send(signal.SIGINT)
        output = program.end().output.splitlines()
        assert output[0] == "interrupted None -1"
        assert output[1].startswith("Must call bjoern.listen(")


def test_closing_the_socket_in_a_handler() -> None:
    source = """
def stop(number, frame):
    bjoern._default_instance[0].close()
    os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGUSR1, stop)
say(bjoern.listen(app, "127.0.0.1", 0).getsockname()[1])
""" + RUN.format("bjoern.run()")
    with Program.of(source) as program:
        assert get(program.hear()).endswith(b"ok")
        program.send(signal.SIGUSR1)
        assert program.end() == End(0, "interrupted None\n", "")


def test_sigint_from_a_request_is_a_stop_button() -> None:
    source = """
def app(environ, start_response):
    os.kill(os.getpid(), signal.SIGINT)
    start_response("200 OK", [])
    return [b"ok"]

say(bjoern.listen(app, "127.0.0.1", 0).getsockname()[1])
""" + RUN.format("bjoern.run()")
    with Program.of(source) as program:
        assert get(program.hear()).endswith(b"ok")
        assert program.end() == End(0, "interrupted None\n", "")


def test_run_in_a_thread() -> None:
    source = """
sock = bjoern.listen(app, "127.0.0.1", 0)
threading.Thread(target=bjoern.run, daemon=True).start()
say(sock.getsockname()[1])
sys.stdin.readline()
say("done")
"""
    with Program.of(source) as program:
        assert get(program.hear()).endswith(b"ok")
        program.tell()
        assert program.end() == End(0, "done\n", "")


def test_server_run_leaves_the_socket_open(tmp_path: Path) -> None:
    source = """
sock = bjoern.bind_and_listen(sys.argv[1])
say("listening")
try:
    bjoern.server_run(sock if sys.argv[2] == "socket" else sock.fileno(), app, None)
except KeyboardInterrupt:
    say(sock.fileno() > 0, os.path.exists(sys.argv[1][5:]))
"""
    for kind in ("socket", "descriptor"):
        path = f"unix:{tmp_path}/{kind}"
        with Program.of(source, path, kind) as program:
            assert program.hear() == "listening"
            assert get(path).endswith(b"ok")
            program.send(signal.SIGINT)
            assert program.end() == End(0, "True True\n", "")


def test_server_run_of_the_extension() -> None:
    """bjoern 3 had it as well, with statsd as further positional arguments."""
    source = """
sock = bjoern.bind_and_listen("127.0.0.1", 0)
say(sock.getsockname()[1])
""" + RUN.format("bjoern._bjoern.server_run(sock, app)")
    with Program.of(source) as program:
        assert get(program.hear()).endswith(b"ok")
        program.send(signal.SIGINT)
        assert program.end() == End(0, "interrupted None\n", "")


def test_forked_processes_share_a_unix_path(tmp_path: Path) -> None:
    """The first child to end leaves the path to the others."""
    source = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"%d" % os.getpid()]

bjoern.listen(app, sys.argv[1])
reading, writing = os.pipe()
children = []
for _ in range(3):
    child = os.fork()
    if not child:
        try:
            os.write(writing, b"x")
            bjoern.run()
        except KeyboardInterrupt:
            pass
        os._exit(0)
    os.read(reading, 1)  # CPython forgets signals that come while it forks
    children.append(child)
say(*children)
for child in children:
    sys.stdin.readline()
    os.kill(child, signal.SIGINT)
    say(os.waitpid(child, 0)[1], os.path.exists(sys.argv[1][5:]))
"""
    path = f"unix:{tmp_path}/s"
    with Program.of(source, path) as program:
        children = [int(word) for word in program.hear().split()]
        for gone in range(len(children)):
            assert int(get(path).rpartition(b"\r\n")[2]) in children[gone:]
            program.tell()
            assert program.hear() == "0 True"
        assert program.end().code == 0


def test_unix_path_is_removed(tmp_path: Path) -> None:
    source = "bjoern.listen(app, sys.argv[1])\nsay('listening')" + RUN.format("bjoern.run()")
    path = f"unix:{tmp_path}/s"
    with Program.of(source, path) as program:
        assert program.hear() == "listening"
        assert get(path).endswith(b"ok")
        program.send(signal.SIGINT)
        assert program.end() == End(0, "interrupted None\n", "")
    assert not list(tmp_path.iterdir())


def test_abstract_name() -> None:
    source = "bjoern.listen(app, sys.argv[1])\nsay('listening')" + RUN.format("bjoern.run()")
    name = f"unix:@bjoern-test-{os.getpid()}"
    with Program.of(source, name) as program:
        assert program.hear() == "listening"
        assert get(name).endswith(b"ok")
        program.send(signal.SIGINT)
        assert program.end() == End(0, "interrupted None\n", "")


# Server


def test_server_as_a_context() -> None:
    with bjoern.Server(app, "127.0.0.1:0") as server:
        assert server.addresses == (TcpAddress("127.0.0.1", server.addresses[0].port),)  # type: ignore[union-attr]
        assert server.url == f"http://{server.addresses[0]}"
        assert get(server.url).endswith(b"ok")
        assert server.stats()["requests"] == 1
    with pytest.raises(ConnectionError):
        connect(server.url)
    assert server.stats()["requests"] == 1, "still told afterwards"


def test_server_on_several_addresses(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with bjoern.Server(app, ["127.0.0.1:0", TcpAddress("127.0.0.1", 0), f"unix:{path}"]) as server:
        assert len({str(address) for address in server.addresses}) == 3
        assert server.addresses[2] == UnixAddress(str(path))
        for address in server.addresses:
            assert get(str(address)).endswith(b"ok")
    assert not path.exists()


def test_server_on_sockets_of_the_caller() -> None:
    with bjoern.bind_and_listen("127.0.0.1", 0) as one, bjoern.bind_and_listen("127.0.0.1", 0) as other:
        with bjoern.Server(app, sockets=[one, other.fileno()]) as server:
            for address in server.addresses:
                assert get(str(address)).endswith(b"ok")
        assert one.fileno() > 0
        os.fstat(other.fileno())


def test_unix_url() -> None:
    name = f"unix:@bjoern-test-{os.getpid()}"
    with bjoern.Server(app, name) as server:
        assert server.url == name


def test_all_addresses_or_none(tmp_path: Path) -> None:
    with bjoern.bind_and_listen("127.0.0.1", 0) as taken, pytest.raises(OSError, match="already in use"):
        bjoern.Server(app, [f"unix:{tmp_path}/s", f"127.0.0.1:{taken.getsockname()[1]}"])
    assert not list(tmp_path.iterdir())


def test_ready_is_called_before_serving() -> None:
    server = bjoern.Server(app, "127.0.0.1:0")
    server.run(ready=server.stop)


@pytest.mark.parametrize("graceful", [True, False])
def test_stop_from_another_thread(graceful: bool) -> None:
    server = bjoern.Server(app, "127.0.0.1:0")
    thread = threading.Thread(target=server.run)
    thread.start()
    with connect(server.url) as idle:
        ask(idle)
        assert idle.recv(1)
        server.stop(graceful)
        server.stop(graceful)
        thread.join()
    server.stop()  # once more does no harm


@pytest.mark.parametrize("graceful", [True, False])
def test_stop_before_run(graceful: bool) -> None:
    server = bjoern.Server(app, "127.0.0.1:0")
    server.stop(graceful)
    server.run()
    with pytest.raises(ConnectionError):
        connect(server.url)


def test_server_runs_once() -> None:
    server = bjoern.Server(app, "127.0.0.1:0")
    server.stop()
    server.run()
    with pytest.raises(RuntimeError, match="a server runs once; make a new Server to serve again"):
        server.run()


def test_server_that_never_runs_can_be_closed(tmp_path: Path) -> None:
    server = bjoern.Server(app, f"unix:{tmp_path}/s")
    assert server.stats() == {}
    server.close()
    server.close()
    assert not list(tmp_path.iterdir())


def test_context_raises_what_run_raised() -> None:
    with (
        pytest.raises(SystemExit) as caught,
        bjoern.Server(app, "127.0.0.1:0") as server,
        connect(server.url) as client,
    ):
        ask(client, "/exit")
        while client.recv(1 << 16):
            pass
    assert caught.value.code == 5


def test_error_of_the_block_goes_first() -> None:
    with pytest.raises(KeyError, match="mine"), bjoern.Server(app, "127.0.0.1:0") as server:
        with connect(server.url) as client:
            ask(client, "/exit")
            while client.recv(1 << 16):
                pass
        raise KeyError("mine")


# Options arrive


def test_options_as_keywords() -> None:
    with bjoern.Server(app, "127.0.0.1:0", server_header="test", date_header=False) as server:
        head = get(server.url).lower()
    assert b"\r\nserver: test\r\n" in head
    assert b"\r\ndate: " not in head


def test_options_as_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BJOERN_SERVER_HEADER", "variable")
    monkeypatch.setenv("BJOERN_DATE_HEADER", "0")
    with bjoern.Server(app, "127.0.0.1:0", date_header=True) as server:
        head = get(server.url).lower()
    assert b"\r\nserver: variable\r\n" in head
    assert b"\r\ndate: " in head, "the keyword goes before the variable"


def test_options_of_listen(no_default: None) -> None:
    bjoern.listen(app, "127.0.0.1", 0, keep_alive=5)
    assert drop_in._default_server is not None
    assert drop_in._default_server.options.keep_alive == 5.0
