"""A raw HTTP/1.1 client for tests: it sends what it is told, byte for byte, and believes nothing it is sent.

Knows: RFC 9112 as a strict recipient reads a response, sockets.   Must not know: bjoern, pytest, WSGI.
Invariant: what follows a response stays in the buffer, so a connection out of step fails at the next response.
"""

from __future__ import annotations

import json
import os
import re
import socket
import struct
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Literal

GUARD = float(os.environ.get("TEST_GUARD", 30.0))  # seconds after which a wait counts as a hang; no test measures time

Address = tuple[str, int] | str  # (host, port), or the path of a unix socket
Framing = Literal["none", "length", "chunked", "close"]
Fields = list[tuple[str, str]]

STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) ([\t\x20-\x7e\x80-\xff]*)")
FIELD_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[\t ]*([\t\x20-\x7e\x80-\xff]*?)[\t ]*")
CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,16}")
ONCE = ("connection", "content-length", "date", "server", "transfer-encoding")


class WireError(AssertionError):
    """The server sent something that RFC 9112 does not allow."""


class Closed(WireError):
    """The connection ended inside a response, or where one was due."""


@dataclass
class Response:
    """A whole response: `framing` says how its end was found, `chunks` where the server cut it."""

    status: int
    reason: str
    fields: Fields
    framing: Framing
    interim: list[int] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def get(self, name: str) -> str | None:
        """The value of the one field called `name`, None where there is none; a repeated one is an error."""
        values = [value for key, value in self.fields if key.lower() == name.lower()]
        if len(values) > 1:
            raise WireError(f"{name} is there {len(values)} times: {values}")
        return values[0] if values else None

    def json(self) -> Any:
        return json.loads(self.body)

    def check_error(self, *statuses: int, html: bool = False) -> None:
        """An error of the server's own: its status as text or as a page, its length, the date, the end announced."""
        status = f"{self.status} {self.reason}"
        kind, text = "text/plain", f"{status}\n"
        if html:
            page = f'<!doctype html>\n<html lang="en"><title>{status}</title><h1>{status}</h1></html>\n'
            kind, text = "text/html", page
        names = ("Content-Type", "Content-Length", "Connection", "Retry-After")
        said = [self.get(name) for name in names]
        expected = [f"{kind}; charset=utf-8", str(len(text)), "close", "1" if self.status == 503 else None]
        body = "" if self.framing == "none" else text  # to HEAD
        if self.status not in statuses or (said, self.body) != (expected, body.encode()) or self.get("Date") is None:
            raise WireError(f"not an error with {statuses}: {self}")

    @property
    def closes(self) -> bool:
        return (self.get("Connection") or "").lower() == "close"


def message(
    method: str = "GET",
    target: str = "/",
    *lines: str,
    body: bytes | None = None,
    chunks: list[bytes] | None = None,
    version: str = "1.1",
    host: str | None = "test",
) -> bytes:
    """The bytes of a request. `body` adds Content-Length, `chunks` a chunked body; `lines` are sent as they are."""
    head = [f"{method} {target} HTTP/{version}", *([f"Host: {host}"] if host is not None else []), *lines]
    content = body or b""
    if body is not None:
        head.append(f"Content-Length: {len(body)}")
    if chunks is not None:
        head.append("Transfer-Encoding: chunked")
        content = chunked(*chunks)
    return "\r\n".join([*head, "", ""]).encode("latin-1") + content


def chunked(*blocks: bytes) -> bytes:
    """The chunked coding of `blocks`, last chunk included (RFC 9112 section 7.1)."""
    return b"".join(b"%x\r\n%b\r\n" % (len(block), block) for block in blocks) + b"0\r\n\r\n"


class Client:
    """One connection."""

    def __init__(self, address: Address, receive_buffer: int | None = None, source: str | None = None) -> None:
        """Connects, from the address `source` where it is given.

        `receive_buffer` bounds SO_RCVBUF (bytes), so that a client that does not read is soon full.
        """
        family = (
            socket.AF_UNIX if isinstance(address, str) else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        )
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.settimeout(GUARD)
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source is not None:
            self.sock.bind((source, 0))
        self.sock.connect(address)
        if family != socket.AF_UNIX:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """Closes with RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def half_close(self) -> None:
        """Sends FIN and goes on reading."""
        self.sock.shutdown(socket.SHUT_WR)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def ask(
        self,
        method: str = "GET",
        target: str = "/",
        *lines: str,
        body: bytes | None = None,
        chunks: list[bytes] | None = None,
        version: str = "1.1",
        host: str | None = "test",
    ) -> Response:
        """Sends one request and receives its response."""
        self.send(message(method, target, *lines, body=body, chunks=chunks, version=version, host=host))
        return self.recv_response(method)

    def recv_response(self, method: str = "GET") -> Response:
        """The next final response; the interim ones before it are kept in `interim`."""
        response = self.recv_head(method)
        while True:
            block = self.recv_block(response)
            if not block:
                return response
            response.chunks.append(block)

    def recv_head(self, method: str = "GET") -> Response:
        """The head of the next final response; its body is for `recv_block`."""
        interim = []
        while True:
            status, reason, fields = self._recv_status_and_fields()
            if status >= 200:
                break
            interim.append(status)
        response = Response(status, reason, fields, "close", interim)
        for name in ONCE:
            response.get(name)
        date = response.get("Date")
        if date is not None and (len(date) != 29 or not date.endswith(" GMT") or not parsedate_to_datetime(date)):
            raise WireError(f"not an IMF-fixdate (RFC 9110 5.6.7): {date}")
        response.framing = self._framing(method, response)
        return response

    @staticmethod
    def _framing(method: str, response: Response) -> Framing:
        length, coding = response.get("Content-Length"), response.get("Transfer-Encoding")
        said = [value for value in (length, coding) if value is not None]
        if coding not in (None, "chunked") or len(said) > (response.status != 204):
            raise WireError(f"framing nobody may trust (RFC 9112 6.3): {response.fields}")
        if length is not None and not re.fullmatch("[0-9]+", length):
            raise WireError(f"Content-Length: {length}")
        if method == "HEAD" or response.status in (204, 304):
            return "none"
        if coding:
            return "chunked"
        if length is not None:
            return "length"
        if not response.closes:
            raise WireError(f"a body without an end on a connection that stays open: {response.fields}")
        return "close"

    def recv_block(self, response: Response) -> bytes:
        """The next piece of the body: a chunk, or all that Content-Length or the close delimits; b"" at the end."""
        if response.framing == "chunked":
            size = self._recv_line()
            if not CHUNK_SIZE.fullmatch(size):
                raise WireError(f"chunk size {size!r}")
            block = self.recv_exactly(int(size, 16))
            if self._recv_line() != b"":
                raise WireError("a chunk that does not end where its size says, or trailers")
            return block
        if response.framing == "none" or response.chunks:
            return b""
        if response.framing == "length":
            return self.recv_exactly(int(response.get("Content-Length") or 0))
        return self.recv_until_close()

    def recv_exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            self._fill()
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    def recv_until_close(self) -> bytes:
        """Everything up to a clean end (FIN, not RST)."""
        while data := self.sock.recv(65536):
            self.buffer += data
        data, self.buffer = bytes(self.buffer), bytearray()
        return data

    def recv_until_end(self) -> tuple[bytes, bool]:
        """Everything up to the end of the connection, and whether that was a clean one."""
        try:
            return self.recv_until_close(), True
        except ConnectionResetError:
            data, self.buffer = bytes(self.buffer), bytearray()
            return data, False

    def expect_close(self) -> None:
        """The server has nothing more to say and closes cleanly."""
        rest = self.recv_until_close()
        if rest:
            raise WireError(f"{len(rest)} bytes behind the last response: {rest[:200]!r}")

    def expect_refusal(self, *statuses: int, method: str = "GET", html: bool = False) -> Response:
        """An error of the server's own, and the end of the connection."""
        response = self.recv_response(method)
        response.check_error(*statuses, html=html)
        self.expect_close()
        return response

    def _recv_status_and_fields(self) -> tuple[int, str, Fields]:
        line = self._recv_line()
        matched = STATUS_LINE.fullmatch(line)
        if not matched:
            raise WireError(f"not a status line: {line[:200]!r}")
        fields = []
        while field_line := self._recv_line():
            parsed = FIELD_LINE.fullmatch(field_line)
            if not parsed:
                raise WireError(f"not a field line: {field_line[:200]!r}")
            fields.append((parsed[1].decode("latin-1"), parsed[2].decode("latin-1")))
        return int(matched[1]), matched[2].decode("latin-1"), fields

    def _recv_line(self) -> bytes:
        start = 0
        while (end := self.buffer.find(b"\n", start)) < 0:
            start = len(self.buffer)
            self._fill()
        line = bytes(self.buffer[: end + 1])
        del self.buffer[: end + 1]
        if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
            raise WireError(f"a line that does not end in CR LF: {line[:200]!r}")
        return line[:-2]

    def _fill(self) -> None:
        data = self.sock.recv(262144)
        if not data:
            raise Closed(f"the connection ended; left unread: {bytes(self.buffer[:200])!r}")
        self.buffer += data
