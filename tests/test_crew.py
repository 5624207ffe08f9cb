"""Several threads on one loop: who blocks holds nobody up, and every answer is its request's own.

How it works: calls of `apps.gated` tell where they are and wait until the test lets them go; meanwhile others ask.
Knows: `threads=`.   Must not know: which thread has the loop, and how it changes hands.
"""

from __future__ import annotations

import hashlib
import select
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from conftest import Calls, Serve
from programs import Program, get
from server_process import ServerProcess
from wire import Client, Response, message

GATED = "apps.gated:app"
THREADS = 4
SIZE = 8_000_000  # bytes of a response by write(): more than the sockets' buffers hold
WHERE = {"called": "call", "next": "next", "written": "write", "closed": "close", "read": "read"}  # by path


def expected(path: str, number: str) -> bytes:
    """What a call of the path answers that is told "go"."""
    return {
        "called": b"%b go",
        "next": b"first %b go",
        "written": b"x" * SIZE + b"%b go",
        "closed": b"first %b",
        "read": b"first %b go",
    }[path] % number.encode()


def wire(path: str, number: object, calls: Calls, *lines: str, version: str = "1.1") -> bytes:
    return message("GET", f"/{path}?id={number}&size={SIZE}", calls.line, *lines, version=version)


def quick(client: Client, number: object) -> Any:
    """A request that does not block: what it tells."""
    response = client.ask("GET", f"/quick?id={number}")
    seen = response.json()
    assert response.get("X-Id") == seen["id"] == seen["mark"] == str(number)
    return seen


def answered(response: Response, path: str, number: object) -> None:
    assert response.status == 200
    assert response.get("X-Id") == str(number)
    assert response.body == expected(path, str(number))


def release(calls: Calls, path: str, number: object) -> None:
    """Lets the call go, where it has not been heard of yet."""
    if path == "written":  # its client reads by now
        calls.at(f"write {number}")
    calls.at(f"{WHERE[path]} {number}").go()


class Blocked:
    """A client whose call waits at its gate."""

    def __init__(self, server: ServerProcess, calls: Calls, path: str, number: object) -> None:
        self.path, self.number = path, number
        self.client = server.connect(receive_buffer=4096 if path == "written" else None)
        self.client.send(wire(path, number, calls))
        self.call = calls.at(f"{WHERE[path]} {number}")

    def go(self) -> None:
        """Lets it go, and checks its answer."""
        if self.path == "written":
            response = self.client.recv_head()
            while sum(map(len, response.chunks)) < SIZE:
                response.chunks.append(self.client.recv_block(response))
            assert self.call.hear() == f"written {self.number}"
            self.call.go()
            while block := self.client.recv_block(response):
                response.chunks.append(block)
        else:
            self.call.go()
            response = self.client.recv_response()
        answered(response, self.path, self.number)


# Calls that block ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", WHERE)
def test_blocked_calls_hold_nobody_up(serve: Serve, calls: Calls, path: str) -> None:
    server = serve(GATED, threads=THREADS)
    blocked = [Blocked(server, calls, path, number) for number in range(THREADS - 1)]
    with server.connect() as client:
        for number in range(100, 105):
            quick(client, number)
    with server.connect() as client:
        quick(client, 105)
        for one in reversed(blocked):
            one.go()
            quick(client, one.number)
        for one in blocked:
            quick(one.client, 106)  # its connection goes on
            one.client.close()
        closed = quick(client, 107)["closed"]
    assert closed == (["2", "1", "0"] if path == "closed" else [])


def test_blocked_in_each_of_the_ways_at_once(serve: Serve, calls: Calls) -> None:
    server = serve(GATED, threads=len(WHERE) + 1)
    blocked = [Blocked(server, calls, path, number) for number, path in enumerate(WHERE)]
    with server.connect() as client:
        quick(client, 100)
        for one in blocked:
            one.go()
            quick(one.client, 101)
            quick(client, 102)


@pytest.mark.parametrize("path", WHERE)
def test_all_threads_blocked(serve: Serve, calls: Calls, path: str) -> None:
    """Who came meanwhile is served as soon as one is back, and on a connection that was known, too."""
    server = serve(GATED, threads=2)
    with server.connect() as known, server.connect() as new:
        quick(known, 1)
        blocked = [Blocked(server, calls, path, number) for number in range(2)]
        known.send(message("GET", "/quick?id=2"))
        new.send(message("GET", "/quick?id=3"))
        assert not select.select([known.sock, new.sock], [], [], 0.05)[0]
        blocked[0].go()
        assert known.recv_response().get("X-Id") == "2"
        assert new.recv_response().get("X-Id") == "3"
        blocked[1].go()


def test_released_by_a_signal_handler(serve: Serve, calls: Calls) -> None:
    """With all threads in Python code: the main thread is free for signals."""
    server = serve(GATED, threads=THREADS)
    clients = [server.connect() for _ in range(2 * THREADS)]
    for number, client in enumerate(clients):
        client.send(wire("event", number, calls))
    told = [calls.at(f"event {number}") for number in range(THREADS)]
    server.process.send_signal(signal.SIGUSR1)
    for number, client in enumerate(clients):
        assert client.recv_response().body == str(number).encode()
        quick(client, number)
    assert len(told) == THREADS


@pytest.mark.parametrize("threads", [1, 2])
def test_a_call_may_ask_its_own_server(serve: Serve, calls: Calls, threads: int) -> None:
    """The same calls, one after the other where there is one thread: nothing of one is in another."""
    server = serve(GATED, threads=threads)
    clients = [server.connect() for _ in range(5)]
    for number, client in enumerate(clients):
        client.send(wire("called", number, calls))
    for number, client in enumerate(clients):
        calls.at(f"call {number}").go(f"word{number}")
        assert client.recv_response().body == f"{number} word{number}".encode()


# Connections that were handed over -----------------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order(serve: Serve, calls: Calls) -> None:
    server = serve(GATED, threads=THREADS)
    paths = ["called", "quick", "next", "read", "quick", "closed", "called"]
    with server.connect() as client, server.connect() as other:
        client.send(b"".join(wire(path, number, calls) for number, path in enumerate(paths)))
        for number, path in enumerate(paths):
            if path != "quick":
                call = calls.at(f"{WHERE[path]} {number}")
                quick(other, 100 + number)
                call.go()
                answered(client.recv_response(), path, number)
            else:
                assert client.recv_response().json()["id"] == str(number)
        quick(client, 200)


@pytest.mark.parametrize("path", ["called", "next", "closed", "read"])
def test_next_request_sent_while_the_call_runs(serve: Serve, calls: Calls, path: str) -> None:
    server = serve(GATED, threads=THREADS)
    with server.connect() as other:
        for number in range(3):
            one = Blocked(server, calls, path, number)
            one.client.send(message("GET", "/quick?id=next")[:20])
            quick(other, 100)
            one.client.send(message("GET", "/quick?id=next")[20:])
            quick(other, 101)
            one.go()
            assert one.client.recv_response().json()["id"] == "next"
            quick(one.client, 102)
            one.client.close()


@pytest.mark.parametrize("path", WHERE)
@pytest.mark.parametrize("leave", [Client.close, Client.reset])
def test_client_goes_while_its_call_runs(serve: Serve, calls: Calls, path: str, leave: Any) -> None:
    server = serve(GATED, threads=2)
    with server.connect() as other:
        for number in range(4):  # more than there are threads
            one = Blocked(server, calls, path, number)
            leave(one.client)
            quick(other, 100)
            if path != "written":  # whose write() fails
                one.call.go()
            while one.call.hear():  # until it hangs up
                one.call.go()
            quick(other, 101)


@pytest.mark.parametrize("path", WHERE)
def test_client_half_closes_while_its_call_runs(serve: Serve, calls: Calls, path: str) -> None:
    server = serve(GATED, threads=2)
    one = Blocked(server, calls, path, 1)
    one.client.half_close()
    with server.connect() as other:
        quick(other, 100)
        one.go()
        one.client.expect_close()


@pytest.mark.parametrize("path", ["called", "next", "closed", "read"])
def test_http_1_0_ends_with_the_connection(serve: Serve, calls: Calls, path: str) -> None:
    server = serve(GATED, threads=2)
    with server.connect() as client, server.connect() as other:
        client.send(wire(path, 1, calls, version="1.0"))
        call = calls.at(f"{WHERE[path]} 1")
        quick(other, 100)
        call.go()
        response = client.recv_response()
        assert response.closes
        answered(response, path, 1)
        client.expect_close()


@pytest.mark.parametrize("size", [1000, 3_000_000])  # in memory, in a file
def test_uploads_while_others_block(serve: Serve, calls: Calls, size: int) -> None:
    server = serve(GATED, threads=2)
    body = bytes(range(250)) * (size // 250)
    halves = body[: size // 2], body[size // 2 :]
    blocked = Blocked(server, calls, "called", 0)
    with server.connect() as client, server.connect() as other:
        for number in range(1, 4):
            head = message("POST", f"/upload?id={number}", calls.line, "Transfer-Encoding: chunked")
            client.send(head + b"%x\r\n%b\r\n" % (len(halves[0]), halves[0]))
            quick(other, 100)
            client.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(halves[1]), halves[1]))
            call = calls.at(f"upload {number}")
            client.send(message("POST", "/upload?id=again", calls.line, body=body))
            call.go()
            assert client.recv_response().body.decode() == hashlib.sha256(body).hexdigest()
            calls.at("upload again").go()
            assert client.recv_response().body.decode() == hashlib.sha256(body).hexdigest()
        blocked.go()


def test_a_slow_reader_holds_no_thread(serve: Serve) -> None:
    """A response that its client does not take waits by itself, unless the application waits for it in write()."""
    server = serve("apps.blocks:app", threads=2)
    clients = [server.connect(receive_buffer=4096) for _ in range(5)]
    for client in clients:
        client.send(message("GET", "/generator?size=8000000&block=50000"))
    heads = [client.recv_head() for client in clients]
    with server.connect() as other:
        for _ in range(20):
            assert other.ask("GET", "/one").status == 200
    for client, head in zip(clients, heads, strict=True):
        assert sum(map(len, iter(lambda c=client, h=head: c.recv_block(h), b""))) == 8_000_000  # type: ignore[misc]


# Which thread, which request -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 16])
def test_multithread_is_said_where_it_is_so(serve: Serve, calls: Calls, threads: int) -> None:
    server = serve(GATED, threads=threads)
    with server.connect() as client:
        told = [quick(client, number) for number in range(5)]
    assert {seen["multithread"] for seen in told} == {threads > 1}
    assert {seen["main"] for seen in told} == {threads == 1}


def test_threads_have_names(serve: Serve, calls: Calls) -> None:
    server = serve(GATED, threads=2)
    with server.connect() as client:
        names = {quick(client, 0)["thread"]}
        blocked = Blocked(server, calls, "called", 1)
        names.add(quick(client, 2)["thread"])
        blocked.go()
        blocked.client.close()
    assert names <= {"bjoern-1", "bjoern-2"}
    tasks: list[str] = []
    while "bjoern-watch" not in tasks:  # it says so itself, when it has begun
        tasks = [path.read_text().strip() for path in Path(f"/proc/{server.pid}/task").glob("*/comm")]
    assert len(tasks) == 4  # the main one, two that run the application, and the watch


def test_every_answer_goes_to_its_client(serve: Serve, calls: Calls) -> None:
    server = serve(GATED, threads=THREADS)

    def play(number: int) -> None:
        with server.connect() as client:
            for turn in range(200):
                quick(client, f"{number}.{turn}")

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(play, range(8))) == [None] * 8


def test_context_variables_are_the_requests_own(serve: Serve, calls: Calls) -> None:
    """Where one call is interrupted by others, and a response goes on in another thread than it began in."""
    server = serve(GATED, threads=3)
    blocked = [Blocked(server, calls, path, f"{path}1") for path in ("called", "next")]
    with server.connect() as other:
        quick(other, "2")
        for one in blocked:
            one.go()  # it answers with its variable
            quick(one.client, "3")


# Options -------------------------------------------------------------------------------------------------------------


def test_the_command_has_them(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [str(environ['wsgi.multithread']).encode()]\n"
    )
    flags = ["--threads", "16", "--timeout", "30s", "--slow-request", "500ms", "--max-queue", "100"]
    with Program("-m", "bjoern", "--bind", "127.0.0.1:0", *flags, "hello:app", cwd=tmp_path) as program:
        line = program.announced()
        assert line.endswith(", 16 threads)")
        assert get(line.split(" on ")[1].split(" ")[0]).endswith(b"True")
        program.send(signal.SIGTERM)
        assert program.end().code == -signal.SIGTERM
    with Program("-m", "bjoern", "--bind", "127.0.0.1:0", "--threads", "1", "hello:app", cwd=tmp_path) as program:
        line = program.announced()
        assert line.endswith(", 1 thread)")
        assert get(line.split(" on ")[1].split(" ")[0]).endswith(b"False")


def test_help_lists_them(tmp_path: Path) -> None:
    with Program("-m", "bjoern", "--help", cwd=tmp_path) as program:
        output = program.end().output
    for flag in ("--threads N", "--timeout TIME", "--slow-request TIME", "--max-queue N"):
        assert flag in output


@pytest.mark.parametrize(
    ("arguments", "environ", "words"),
    [
        (["--threads", "0"], {}, "--threads must be at least 1, got "),
        (["--threads", "-1"], {}, "--threads must be a whole number, got '-1'"),
        (["--threads", "x"], {}, "--threads must be a whole number, got 'x'"),
        (["--max-queue", "-1"], {}, "--max-queue must be a whole number"),
        (["--timeout", "soon"], {}, "--timeout must be a duration"),
        ([], {"BJOERN_THREADS": "0"}, "BJOERN_THREADS must be at least 1, got "),
        ([], {"BJOERN_SLOW_REQUEST": "-1"}, "BJOERN_SLOW_REQUEST must be a duration"),
    ],
)
def test_wrong_values_of_the_command(tmp_path: Path, arguments: list[str], environ: dict[str, str], words: str) -> None:
    with Program("-m", "bjoern", *arguments, "hello:app", cwd=tmp_path, environ=environ) as program:
        end = program.end()
    assert end.code == 2
    assert end.errors.startswith(f"bjoern: error: {words}")
    assert end.errors.count("\n") == 1


# What cannot be had --------------------------------------------------------------------------------------------------

SCARCE = """
import resource, time
SETUP
server = bjoern.Server(app, sys.argv[1], threads=8, graceful_timeout=0.1)
address = server.addresses[0]
try:
    server.run()
except RuntimeError as error:
    say(error)
RESTORE
end = time.monotonic() + 10
while len(os.listdir("/proc/self/task")) > 1 and time.monotonic() < end:
    os.sched_yield()  # Linux lists a thread for a moment after it could be joined (CLONE_CHILD_CLEARTID, clone(2))
tasks = {open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task")}
say(len(tasks), len(os.listdir("/proc/self/task")), threading.active_count(), os.path.exists(sys.argv[1][5:]))
say(server.sockets[0].fileno())
"""


@pytest.mark.parametrize(
    ("setup", "restore"),
    [
        ("threading.stack_size(1 << 50)", ""),
        (  # room for some stacks of 64 MiB, and not for eight
            "threading.stack_size(64 << 20)\n"
            "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() + (300 << 20)\n"
            "before = resource.getrlimit(resource.RLIMIT_AS)\n"
            "resource.setrlimit(resource.RLIMIT_AS, (size, before[1]))",
            "resource.setrlimit(resource.RLIMIT_AS, before)",
        ),
    ],
    ids=["stack", "memory"],
)
def test_threads_that_cannot_be_started(tmp_path: Path, setup: str, restore: str) -> None:
    path = tmp_path / "s"
    source = SCARCE.replace("SETUP", setup).replace("RESTORE", restore)
    with Program.of(source, f"unix:{path}") as program:
        assert "of 8 threads could be started" in (line := program.hear())
        assert "threads=" in line
        assert program.hear() == "1 1 1 False", "nothing is left running"
        assert program.hear() == "-1", "the socket is closed"
        assert program.end().errors == ""


def test_an_idle_server_does_not_wake_up(serve: Serve, calls: Calls) -> None:
    """None of its threads, also after a time when they were all busy."""
    server = serve(GATED, threads=THREADS)
    blocked = [Blocked(server, calls, "called", number) for number in range(THREADS)]
    for one in blocked:
        one.go()
    for one in blocked:
        quick(one.client, one.number)

    def waits() -> list[str]:
        lines = "".join(path.read_text() for path in sorted(Path(f"/proc/{server.pid}/task").glob("*/status")))
        return [line for line in lines.splitlines() if line.startswith("voluntary_ctxt_switches")]

    looks = [waits()]
    while looks[-2:-1] != looks[-1:]:  # what helped goes to sleep
        assert len(looks) < 10, looks
        select.select([], [], [], 1.2)  # more than the longest wait for a connection that another thread has served
        looks.append(waits())
    quick(blocked[0].client, 1)


def test_many_threads_do_nothing_by_being_there(serve: Serve, calls: Calls) -> None:
    """As many as one may want, and all of them at work at once."""
    server = serve(GATED, threads=64)
    blocked = [Blocked(server, calls, "called", number) for number in range(64)]
    for one in blocked:
        one.go()
