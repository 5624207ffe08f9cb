"""The scoreboard: what a process does can be read by another, and workers that share a socket share its connections.

How it works: a program maps memory, forks workers that serve one socket each with a row of it, and tells what it reads
there; the test is the client. What lies where, and when a worker yields, are tables beside the engine's code.
Knows: `_bjoern.Engine`, `programs`.   Must not know: how counting is done.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from bjoern import Options, _bjoern
from programs import Program, answer, ask, connect, get

WORKERS = """
import mmap, struct
from bjoern import Options, _bjoern

def pid_app(environ, start_response):
    if environ["PATH_INFO"] == "/gate":
        say("called")
        os.read(gate[0], 1)
    start_response("200 OK", [("Content-Length", str(len(PID)))])
    return [PID]

def worker(number):
    global PID
    PID = str(os.getpid()).encode()
    draining = lambda: say("draining")
    engine = _bjoern.Engine(pid_app, [sock.fileno()], options, draining, None, board, number)
    signal.signal(signal.SIGTERM, lambda *_: engine.stop())
    signal.set_wakeup_fd(engine.wakeup_fd, warn_on_full_buffer=False)
    crew = [threading.Thread(target=engine.work) for _ in range(options.threads if options.threads > 1 else 0)]
    for thread in crew: thread.start()
    engine.run()
    for thread in crew: thread.join()
    say("ended")

def row(number):
    words = struct.unpack_from(f"={_bjoern.BOARD_BYTES // 8}Q", board, number * _bjoern.BOARD_BYTES)
    return dict(zip(_bjoern.board_names(), words))

COUNT, options = int(sys.argv[1]), Options(**eval(sys.argv[2]))
board = mmap.mmap(-1, COUNT * _bjoern.BOARD_BYTES)
sock = bjoern.bind_and_listen("127.0.0.1", 0, listen_backlog=1024)
gate = os.pipe()
pids = []
for number in range(COUNT):
    pid = os.fork()
    if pid == 0:
        try:
            worker(number)
        finally:
            os._exit(0)
    pids.append(pid)
while any(row(number)["alive"] == 0 for number in range(COUNT)):
    pass
say(sock.getsockname()[1], *pids)
for line in sys.stdin:
    say(row(int(line)) if line != "go\\n" else os.write(gate[1], b"."))
"""


@contextlib.contextmanager
def workers(count: int, **options: object) -> Iterator[tuple[Program, int, list[int]]]:
    """The program, its port, and its workers' processes."""
    with Program.of(WORKERS, str(count), repr(options)) as program:
        port, *pids = map(int, program.hear().split())
        try:
            yield program, port, pids
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def row(program: Program, number: int = 0) -> dict[str, int]:
    program.tell(str(number))
    told: dict[str, int] = eval(program.hear())
    return told


def settled(program: Program, number: int = 0, **wanted: int) -> dict[str, int]:
    """The row, once it tells what it will have to; the test hangs where it never does."""
    while True:
        told = row(program, number)
        if all(told[name] == value for name, value in wanted.items()):
            return told


def asked(client: socket.socket) -> int:
    """The process that answers."""
    ask(client)
    received = client.recv(1000)
    assert received.startswith(b"HTTP/1.1 200 OK"), received
    return int(received.rpartition(b"\r\n")[2])


def test_names_and_size() -> None:
    names = _bjoern.board_names()
    assert len(set(names)) == len(names) <= _bjoern.BOARD_BYTES // 8
    assert _bjoern.BOARD_BYTES % 64 == 0, "workers write to cache lines of their own"
    expected = {"connections", "open", "requests", "failed", "bad_host", "alive", "busy", "queued", "out_since"}
    assert expected | {"bytes_sent", "bytes_received", "call_us", "latency_0", "latency_21", "log_lost"} <= set(names)


@pytest.mark.parametrize(
    ("board", "worker", "error"),
    [
        (bytes(_bjoern.BOARD_BYTES), 0, BufferError),
        (memoryview(bytearray(2 * _bjoern.BOARD_BYTES))[::2], 0, BufferError),
        (bytearray(_bjoern.BOARD_BYTES - 8), 0, ValueError),
        (bytearray(0), 0, ValueError),
        (memoryview(mmap.mmap(-1, 2 * _bjoern.BOARD_BYTES))[4 : 4 + _bjoern.BOARD_BYTES], 0, ValueError),
        (mmap.mmap(-1, _bjoern.BOARD_BYTES), 1, ValueError),
        (mmap.mmap(-1, _bjoern.BOARD_BYTES), -1, OverflowError),
        (5, 0, TypeError),
    ],
)
def test_a_board_that_is_none(board: Any, worker: int, error: type[Exception]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock, pytest.raises(error):
        _bjoern.Engine(lambda *_: [], [sock.fileno()], Options(), None, None, board, worker)


def test_a_process_can_read_what_another_does() -> None:
    with workers(1) as (program, port, _):
        with connect(port) as client:
            for _ in range(5):
                asked(client)
            told = settled(program, open=1, requests=5, busy=0, out_since=0)
            assert (told["connections"], told["alive"]) == (1, 1)
            assert sum(count for name, count in told.items() if name.startswith("latency_")) == 5
            assert told["bytes_received"] > 100 < told["bytes_sent"]
        settled(program, open=0)


def test_a_worker_in_its_application_says_since_when() -> None:
    with workers(1, threads=2) as (program, port, _), connect(port) as one:
        before = time.monotonic() * 1000
        ask(one, "/gate")
        assert program.hear() == "called"
        settled(program, busy=1, out_since=0)  # the other thread leads
        with connect(port) as other:  # by now, so that it is the other thread's where each has a loop
            ask(other, "/gate")
            assert program.hear() == "called"
            told = row(program)
            assert (told["busy"], told["requests"]) == (2, 2)
            assert before - 100 <= told["out_since"] <= time.monotonic() * 1000  # the clock may be some ticks behind
            for _ in range(2):
                program.tell("go")
                assert program.hear() == "1"
            assert one.recv(1000)
            assert other.recv(1000)
        settled(program, busy=0, out_since=0)


@pytest.mark.parametrize("threads", [1, 3])
def test_max_requests_ends_the_engine_after_a_drain(threads: int) -> None:
    with workers(1, threads=threads, max_requests=3) as (program, port, _):
        with connect(port) as idle, connect(port) as client:
            first, second = asked(idle), asked(client)
            assert first == second
            ask(client)
            assert b"\r\nConnection: close\r\n" in answer(client)
            assert answer(idle) == b"", "an idle connection is closed"
        assert {program.hear(), program.hear()} == {"draining", "ended"}
        assert row(program)["alive"] == 0


def test_max_requests_ends_a_server() -> None:
    serve = """
server = bjoern.Server(app, "127.0.0.1:0", max_requests=2)
say(server.addresses[0].port)
server.run()
say("returned", server.stats()["requests"])
"""
    with Program.of(serve) as program:
        port = program.hear()
        assert get(port).endswith(b"ok")
        assert get(port).endswith(b"ok")
        end = program.end()
    assert (end.code, end.output, end.errors) == (0, "returned 2\n", "")


@pytest.mark.parametrize("together", [True, False], ids=["at once", "one after the other"])
def test_workers_share_connections_fairly(together: bool) -> None:
    """400 connections that stay, over four workers, again and again: the largest share is 1.5 smallest ones at most."""
    with workers(4) as (program, port, pids):
        for _ in range(5):
            with contextlib.ExitStack() as stack:
                if together:
                    clients = [stack.enter_context(connect(port)) for _ in range(400)]
                    shares = Counter(map(asked, clients))
                else:
                    shares = Counter(asked(stack.enter_context(connect(port))) for _ in range(400))
                assert sum(row(program, number)["open"] for number in range(4)) == 400
            assert set(shares) == set(pids)
            assert max(shares.values()) <= 1.5 * min(shares.values()), shares
            for number in range(4):
                settled(program, number, open=0)


def test_a_worker_that_hangs_does_not_hold_up_those_it_has_fewer_than() -> None:
    with workers(2) as (program, port, _), connect(port) as hanging:
        ask(hanging, "/gate")
        assert program.hear() == "called"
        with contextlib.ExitStack() as stack:
            shares = Counter(asked(stack.enter_context(connect(port))) for _ in range(50))
        assert list(shares.values()) == [50]


def test_a_worker_that_drains_leaves_the_queue_to_the_others() -> None:
    with workers(3) as (program, port, pids):
        for leaving in pids[:2]:
            waiting = [connect(port) for _ in range(100)]
            os.kill(leaving, signal.SIGTERM)
            later = [connect(port) for _ in range(100)]
            for client in waiting + later:
                with client:
                    ask(client)
                    assert client.recv(1000).startswith(b"HTTP/1.1 200 OK")
            assert program.hear() == "ended"
        settled(program, 0, alive=0, open=0)
        assert row(program, 2)["alive"] == 1


def test_counts_go_on_where_a_worker_has_been_killed() -> None:
    board = mmap.mmap(-1, _bjoern.BOARD_BYTES)
    words = memoryview(board).cast("Q")
    names = _bjoern.board_names()
    for name in ("requests", "open", "busy", "alive", "out_since"):
        words[names.index(name)] = 7
    with socket.create_server(("127.0.0.1", 0)) as sock:
        engine = _bjoern.Engine(lambda *_: [], [sock.fileno()], Options(), None, None, board)
    told = dict(zip(names, words, strict=False))
    assert [told[name] for name in ("requests", "open", "busy", "alive", "out_since")] == [7, 0, 0, 0, 0]
    assert engine.stats()["requests"] == 7
