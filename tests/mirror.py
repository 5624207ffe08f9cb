"""The application of the wire cases, a server process for it, and one exchange with that server.

Knows: the answers of that application, sockets, bjoern's options.   Must not know: the cases, pytest.
Run as a program, it serves the application on a free port of 127.0.0.1, prints the port, and ends at SIGINT.
Invariant: every exchange ends with the server closing the connection, so nothing has to be waited for.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

GUARD = float(os.environ.get("TEST_GUARD", 30.0))  # seconds after which a wait counts as a hang
DAY = 86_400.0  # seconds: no timeout falls within a case
SHOWN_BYTES = 64  # a longer body is counted instead
FOLLOW_UP = b"GET /behind HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
FOLLOW_UP_ANSWER = '200 GET /behind ""'

_NAMED = {13: r"\r", 10: r"\n", 9: r"\t", 0: r"\0", 92: r"\\"}
_ANSWER = re.compile(rb"HTTP/1\.1 (([1-5][0-9][0-9]) [ -~]*)\r\n((?:[!-~]+: [ -~]*\r\n)*)\r\n")


def escape(data: bytes) -> str:
    """Bytes as printable ASCII, in the notation of the cases."""
    return "".join(_NAMED.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\x{byte:02X}") for byte in data)


def saw(method: bytes, target: bytes, body: bytes) -> str:
    """What the application says of a request."""
    shown = f"#{len(body)}" if len(body) > SHOWN_BYTES else f'"{escape(body)}"'
    return f"{escape(method)} {escape(target)} {shown}"


def app(environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], Any]) -> Iterable[bytes]:
    """Answers 200 to everything, with no body and what it saw."""
    method, target = (environ[key].encode("latin-1") for key in ("REQUEST_METHOD", "REQUEST_URI"))
    text = saw(method, target, environ["wsgi.input"].read())
    start_response("200 OK", [("Content-Length", "0"), ("Saw", text)])
    return []


def read_answers(taken: bytes) -> list[str]:
    """`200 GET / ""`, `400`, `100`, …: the answers in what a server sent.

    Raises AssertionError where one is not well-formed, or where one follows the last.
    """
    answers = []
    while taken:
        match = _ANSWER.match(taken)
        assert match, f"not an answer: {taken!r}"
        taken = taken[match.end() :]
        status, fields = match[2].decode(), match[3].decode().splitlines()
        if status != "100":
            body = b"" if status == "200" else match[1] + b"\n"
            assert f"Content-Length: {len(body)}" in fields, fields
            if taken or status == "200":  # what an error says is not sent to HEAD
                assert taken.startswith(body), f"not the body of {status}: {taken!r}"
                taken = taken[len(body) :]
            assert sum(field.startswith("Date: ") for field in fields) == 1, fields
            assert "Connection: close" not in fields or not taken, f"behind the last answer: {taken!r}"
        answers += [" ".join([status, *(field[5:] for field in fields if field.startswith("Saw: "))])]
    return answers


class Mirror:
    """A server in a process of its own; a context manager."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the server did not start: exit {self._process.wait(GUARD)}"
        self._address = ("127.0.0.1", int(line))
        self._pulse = self._connect()

    def __enter__(self) -> Mirror:
        return self

    def __exit__(self, *_: object) -> None:
        self._pulse.close()
        self._process.send_signal(signal.SIGINT)
        try:
            code = self._process.wait(GUARD)
        finally:
            self._process.kill()  # which is nothing to a process that has ended
        assert code == 0, f"the server ended with exit code {code}"

    def _connect(self) -> socket.socket:
        sock = socket.create_connection(self._address, GUARD)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def exchange(self, pieces: Iterable[bytes], finish: bool = False) -> tuple[list[str], bool]:
        """Sends `pieces`, each to be received by itself; the answers, and whether the connection was left open.

        With `finish` the client then ends its sending direction. Without, it sends one request more and asks for the
        connection to be closed behind it: only where the connection was open that one is answered.
        """
        taken = bytearray()
        with self._connect() as sock:
            closed = False
            for piece in pieces:
                if not closed:
                    _send(sock, piece)
                    self._let_it_be_received()
                    closed = _take_what_is_there(sock, taken)
            if finish and not closed:
                sock.shutdown(socket.SHUT_WR)
            elif not closed:
                _send(sock, FOLLOW_UP)
            while not closed:
                closed = _take(sock, taken)
        answers = read_answers(bytes(taken))
        left_open = not finish and answers[-1:] == [FOLLOW_UP_ANSWER]
        return answers[:-1] if left_open else answers, left_open

    def _let_it_be_received(self) -> None:
        """Two requests on another connection: the server answers the second after it has received what came before."""
        for _ in range(2):
            self._pulse.sendall(b"GET /pulse HTTP/1.1\r\nHost: h\r\n\r\n")
            answer = b""
            while not answer.endswith(b"\r\n\r\n"):
                data = self._pulse.recv(4096)
                assert data, "the server closed an idle connection"
                answer += data


def _send(sock: socket.socket, data: bytes) -> None:
    # A server that has refused may be gone before it was sent everything; its answers are still to be read.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        sock.sendall(data)


def _take(sock: socket.socket, taken: bytearray) -> bool:
    """Receives once; whether that was the end. TimeoutError says that the server neither answers nor closes."""
    try:
        data = sock.recv(65536)
    except ConnectionResetError:
        return True
    taken += data
    return not data


def _take_what_is_there(sock: socket.socket, taken: bytearray) -> bool:
    while select.select([sock], [], [], 0)[0]:
        if _take(sock, taken):
            return True
    return False


def serve() -> None:
    """The program: serves until SIGINT."""
    import bjoern

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job may have inherited SIG_IGN
    limits: dict[str, Any] = {"max_head": 4096, "max_fields": 20, "max_body": 65536}
    timeouts: dict[str, Any] = {"header_timeout": DAY, "body_timeout": DAY, "keep_alive": DAY}
    sock = bjoern.listen(app, "127.0.0.1", 0, **limits, **timeouts)
    print(sock.getsockname()[1], flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        bjoern.run()


if __name__ == "__main__":
    serve()
