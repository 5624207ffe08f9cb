"""The access log: a line for each request, whatever is in it; where it goes, when it is written, what it cannot do.

How it works: programs serve and write to a file, a socket or a device; lines are waited for, since they may follow the
answer. What each atom tells, and how bytes are escaped, are tables beside the engine's code.
Knows: the options, `programs`.   Must not know: how lines are gathered.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import Observer, Serve
from programs import GUARD, PRELUDE, Program, answer, ask, connect, get
from wire import message

SERVE = """
server = bjoern.Server(app, "127.0.0.1:0", **eval(sys.argv[1]))
signal.signal(signal.SIGUSR1, lambda number, frame: (server.reopen_logs(), say("reopened")))
say(server.addresses[0].port)
try:
    server.run()
except KeyboardInterrupt:
    say(server.stats()["log_lost"])
"""

COMBINED = re.compile(
    r"127\.0\.0\.1 - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000\] "
    r'"GET (\S+) HTTP/1\.1" 200 2 "-" "(curl \\"x\\")"'
)


@contextlib.contextmanager
def serving(**options: object) -> Iterator[tuple[Program, int]]:
    with Program.of(SERVE, repr(options)) as program:
        yield program, int(program.hear())


def lines(path: Path, count: int) -> list[str]:
    """The lines of a file, once there are so many."""
    deadline = time.monotonic() + GUARD
    while time.monotonic() < deadline:
        text = path.read_text()
        if text.count("\n") >= count:
            assert text.endswith("\n")
            return text.splitlines()
        time.sleep(0.005)
    raise AssertionError(f"not {count} lines:\n{text}")


@pytest.mark.parametrize("threads", [1, 4])
def test_each_request_is_a_line(tmp_path: Path, threads: int) -> None:
    log = tmp_path / "access.log"
    with serving(access_log=str(log), threads=threads) as (_, port):
        for number in range(20):
            with connect(port) as client:
                ask(client, f"/{number}", 'User-Agent: curl "x"', "Connection: close")
                assert answer(client).endswith(b"ok")
        found = [COMBINED.fullmatch(line) for line in lines(log, 20)]
    assert [match[1] for match in found if match] == [f"/{number}" for number in range(20)]


def test_what_a_peer_sends_is_json_all_the_same(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    with serving(access_log=str(log), access_log_format="json") as (_, port):
        with connect(port) as client:
            client.sendall(b'GET /%0a?"\\ HTTP/1.1\r\nHost: t\r\nUser-Agent: \xff\t"\\\r\nConnection: close\r\n\r\n')
            answer(client)
        with connect(port) as client:
            client.sendall(b"\x16\x03\x01 no request\r\n\r\n")
            answer(client)
        served, refused = map(json.loads, lines(log, 2))
    assert (served["target"], served["user_agent"], served["status"]) == ('/%0a?"\\', '\u00ff\t"\\', 200)
    assert (served["remote"], served["bytes"], served["referer"]) == ("127.0.0.1", 2, None)
    assert (refused["target"], refused["method"], refused["status"]) == ("\x16\x03\x01 no request", None, 400)


REFUSED = [
    (b"GET / HTTP/1.1\r\n\r\n", 400, "missing_host"),
    (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "bad_host"),
    (b"GET /#a HTTP/1.1\r\nHost: t\r\n\r\n", 400, "fragment_in_target"),
    (b"\x16\x03\x01 no request\r\n\r\n", 400, "bad_method"),
    (b"GET / HTTP/1.1\r\nHost: t\r\nForwarded: x\r\n\r\n", 400, "bad_forwarded"),
    (b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 11\r\n\r\n", 413, "body_too_large"),
    (b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n", 413, "body_too_large"),
    (b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 400, "bad_chunk_size"),
    (b"GET https://t/ HTTP/1.1\r\nHost: t\r\n\r\n", 421, "misdirected"),
    (b"GET / HTTP/2.0\r\nHost: t\r\n\r\n", 505, "version_not_supported"),
]


@pytest.mark.parametrize("log_format", ["%(s)s %(reason)s", "json"])
def test_why_requests_were_refused(tmp_path: Path, log_format: str) -> None:
    log = tmp_path / "access.log"
    with serving(access_log=str(log), access_log_format=log_format, max_body=10, forwarded_allow_ips="127.0.0.1") as (
        _,
        port,
    ):
        for wire, status, _ in [*REFUSED, (b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n", 200, "")]:
            with connect(port) as client:
                client.sendall(wire)
                assert answer(client).startswith(b"HTTP/1.1 %d " % status)
        found = lines(log, len(REFUSED) + 1)
    if log_format == "json":
        reasons: list[str | None] = [*(reason for _, _, reason in REFUSED), None]
        assert [json.loads(line)["reason"] for line in found] == reasons
    else:
        assert found == [*(f"{status} {reason}" for _, status, reason in REFUSED), "200 -"]


def test_what_the_application_answers_is_no_refusal(serve: Serve, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    server = serve("apps.broken:app", access_log=str(log), access_log_format="%(s)s %(reason)s")
    assert server.ask("GET", "/before").status == 500
    assert server.ask("GET", "/nowhere").status == 404
    server.wait_stderr("on purpose")
    assert lines(log, 2) == ["500 -", "404 -"]


def test_pipelined_requests_are_written_with_one_call() -> None:
    """Standard output is a socket that keeps writes apart."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(GUARD)
    command = [sys.executable, "-c", PRELUDE + SERVE, repr({"access_log": "-", "access_log_format": "%(U)s"})]
    with ours, subprocess.Popen(command, stdout=theirs) as process, theirs:
        try:
            with connect(int(ours.recv(100))) as client:
                client.sendall(b"".join(message("GET", f"/{number}") for number in range(10)))
                said = next(filter(bytes.strip, iter(lambda: ours.recv(1 << 16), b"")))  # behind the line of the port
                assert said.decode() == "".join(f"/{number}\n" for number in range(10))
        finally:
            process.kill()


def test_a_renamed_log_is_left_when_logs_are_reopened(tmp_path: Path) -> None:
    log, old = tmp_path / "access.log", tmp_path / "access.log.1"
    with serving(access_log=str(log), access_log_format="%(U)s") as (program, port):
        get(port, "/first")
        lines(log, 1)
        log.rename(old)
        get(port, "/second")
        assert lines(old, 2) == ["/first", "/second"]
        program.send(signal.SIGUSR1)
        assert program.hear() == "reopened"
        get(port, "/third")
        assert lines(log, 1) == ["/third"]
    assert lines(old, 2) == ["/first", "/second"]


def test_a_log_that_cannot_be_reopened_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    reopen = SERVE.replace('(server.reopen_logs(), say("reopened"))', "reopen()")
    source = """
def reopen():
    try:
        server.reopen_logs()
    except OSError as error:
        say(error.filename, "|", error.strerror)
"""
    options = {"access_log": str(folder / "access.log"), "access_log_format": "%(U)s"}
    with Program.of(source + reopen, repr(options)) as program:
        port = int(program.hear())
        get(port, "/first")
        folder.rename(tmp_path / "moved")
        program.send(signal.SIGUSR1)
        said = program.hear()
        assert said == f"{folder}/access.log | the access log cannot be opened (No such file or directory)"
        get(port, "/still")
        assert lines(tmp_path / "moved" / "access.log", 2) == ["/first", "/still"]


def test_lines_do_not_wait_for_requests_that_take_long(tmp_path: Path, serve: Serve, observer: Observer) -> None:
    log = tmp_path / "access.log"
    server = serve("apps.observed:app", access_log=str(log), access_log_format="%(U)s %(B)s", threads=2)
    with server.connect() as slow:
        slow.send(message("GET", "/hold?gated=1", observer.line))
        assert observer.next()
        server.ask("GET", "/history")
        assert len(lines(log, 1)) == 1
        observer.go()
        assert slow.recv_head().status == 200
        assert lines(log, 2)[1].startswith("/hold ")  # written by the thread that was out, or by the one that led


@pytest.mark.parametrize("threads", [1, 2])
def test_the_last_answers_are_lines_before_the_process_ends(tmp_path: Path, threads: int) -> None:
    log = tmp_path / "access.log"
    with serving(access_log=str(log), access_log_format="%(U)s %(s)s", threads=threads) as (program, port):
        with connect(port) as client:
            ask(client, "/gate")
            assert program.hear() == "called"
            program.send(signal.SIGTERM)
            program.tell()
            assert answer(client).endswith(b"ok")
        assert program.end().code == -signal.SIGTERM
    assert log.read_text() == "/gate 200\n"


def test_a_full_disk_is_told_once_and_lines_are_counted() -> None:
    with serving(access_log="/dev/full") as (program, port):
        for _ in range(3):
            assert get(port).endswith(b"ok")
        program.send(signal.SIGINT)
        end = program.end()
    said = "bjoern: error: the access log cannot be written, and lines are lost: No space left on device\n"
    assert (end.errors, end.output) == (said, "3\n")


def test_a_pipe_that_nobody_reads_does_not_stop_the_server(tmp_path: Path) -> None:
    fifo = tmp_path / "log"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    with serving(access_log=str(fifo), access_log_format="%(U)s " + "x" * 1000) as (_, port):
        with connect(port) as client:
            for _ in range(200):  # more than a pipe holds
                ask(client)
                assert client.recv(1000).endswith(b"ok")
        assert os.read(reader, 4).startswith(b"/ x")
    os.close(reader)


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("", "--access-log must be a path, or - for standard output, got ''"),
        ("missing/log", "{}/missing/log: the access log cannot be opened (No such file or directory)"),
        (".", "{}: the access log cannot be opened (Is a directory)"),
    ],
)
def test_a_log_that_cannot_be_opened_is_one_line(tmp_path: Path, log: str, said: str) -> None:
    (tmp_path / "hello.py").write_text("def app(environ, start_response): pass\n")
    sock = tmp_path / "sock"
    with Program("-m", "bjoern", "--access-log", log, "-b", f"unix:{sock}", "hello:app", cwd=tmp_path) as program:
        end = program.end()
    assert (end.code, end.output) == (2 if not log else 1, "")
    assert end.errors.splitlines() == [f"bjoern: error: {said.format(tmp_path)}"]
    assert not sock.exists()


@pytest.mark.parametrize("workers", [[], ["-w", "1"]])
def test_an_application_that_changes_the_directory(tmp_path: Path, workers: list[str]) -> None:
    source = PRELUDE + "os.mkdir('elsewhere')\nos.chdir('elsewhere')\n"
    (tmp_path / "hello.py").write_text(source)
    log, address = tmp_path / "log", f"unix:{tmp_path}/s"
    arguments = ["--access-log", "log", "--access-log-format", "%(U)s", "-b", address, *workers, "hello:app"]
    with Program("-m", "bjoern", *arguments, cwd=tmp_path) as program:
        program.announced()
        get(address, "/first")
        assert lines(log, 1) == ["/first"]
        log.rename(tmp_path / "log.1")
        program.send(signal.SIGUSR1)
        while not log.exists():
            get(address, "/any")
        assert list((tmp_path / "elsewhere").iterdir()) == []


def test_an_unknown_atom_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text("def app(environ, start_response): pass\n")
    with Program("-m", "bjoern", "--access-log-format", "%(h)s %(z)s", "hello:app", cwd=tmp_path) as program:
        end = program.end()
    assert (end.code, len(end.errors.splitlines())) == (2, 1)
    assert (
        "--access-log-format must be a format of lines, got '%(h)s %(z)s': %(z)s is no atom; there are h l"
        in end.errors
    )
