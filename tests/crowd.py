"""A crowd of kept connections that ask without pause, and know what they were owed.

Knows: sockets, the head of a response, when a connection is over by agreement.   Must not know: who serves, pytest.
A request is lost where it was sent whole on a connection that the server had not announced to close, and not answered.
"""

from __future__ import annotations

import re
import selectors
import socket
import threading
from collections import Counter
from types import TracebackType
from typing import NamedTuple

from programs import GUARD, connect

REQUEST = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


class Lost(NamedTuple):
    """A request that was not answered: what its connection had been answered last, and what came instead."""

    last: str
    reason: str


class _Connection:
    """One of the crowd: its request is on its way until it has been answered."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.received = b""
        self.is_new = True
        self.last = ""


class Crowd:
    """`with Crowd(address) as crowd:` so many connections ask until the block ends."""

    def __init__(self, address: str | int, size: int = 64, request: bytes = REQUEST) -> None:
        self._address, self._size, self._request = address, size, request
        self._selector = selectors.DefaultSelector()
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ending = False
        self.answered = 0
        self.latest = ""  # the body of the latest answer
        self.bodies: Counter[str] = Counter()  # how often each body was the answer
        self.announced = 0  # connections that the server closed by agreement
        self.lost: list[Lost] = []
        self.failed: str | None = None

    def __enter__(self) -> Crowd:
        self._thread.start()
        self.wait_for(self._size)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ending = True
        self._thread.join(GUARD)
        assert error or not self._thread.is_alive(), "requests are neither answered nor lost"
        assert error or self.failed is None, self.failed

    def wait_for(self, more: int) -> None:
        """Until so many more requests have been answered."""
        with self._news:
            wanted = self.answered + more
            came = self._news.wait_for(lambda: self.answered >= wanted or self.failed is not None, GUARD)
        assert came, f"no more than {self.answered} of {wanted} answers came; lost: {self.lost[:5]}"
        assert self.failed is None, self.failed

    def _run(self) -> None:
        try:
            for _ in range(self._size):
                self._ask(_Connection(connect(self._address)))
            while self._selector.get_map():
                events = self._selector.select(GUARD)
                if not events:
                    raise AssertionError(f"no answer in {GUARD:.0f} s")
                before = self.answered
                for key, _ in events:
                    self._hear(key.data)
                if self.answered != before:
                    with self._news:
                        self._news.notify_all()
        except BaseException as error:
            with self._news:
                self.failed = f"{type(error).__name__}: {error}"
                self._news.notify_all()
        finally:
            for key in list(self._selector.get_map().values()):
                key.data.socket.close()
            self._selector.close()

    def _ask(self, connection: _Connection) -> None:
        """Sends a request, whole: it is small, and nothing else is on its way."""
        connection.received = b""
        connection.socket.setblocking(False)
        if connection.is_new:
            connection.is_new = False
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        try:
            sent = connection.socket.send(self._request)
        except OSError as error:  # closed by now, which nobody had announced
            self._miss(connection, f"{type(error).__name__} when sending")
            return
        assert sent == len(self._request)

    def _hear(self, connection: _Connection) -> None:
        try:
            block = connection.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self._miss(connection, type(error).__name__)
            return
        if not block:
            self._miss(connection, f"the end after {connection.received[:40]!r}")
            return
        connection.received += block
        head, blank, body = connection.received.partition(b"\r\n\r\n")
        if not blank:
            return
        if not head.startswith(b"HTTP/1.1 200"):
            self._miss(connection, repr(head[:40]))
            return
        length = _LENGTH.search(head)
        assert length, head
        if len(body) < int(length[1]):
            return
        self.answered += 1
        connection.last = self.latest = body.decode()
        self.bodies[self.latest] += 1
        if _CLOSE.search(head):
            self.announced += 1
            self._replace(connection)
        elif self._ending:
            self._drop(connection)
        else:
            self._ask(connection)

    def _miss(self, connection: _Connection, reason: str) -> None:
        self.lost.append(Lost(connection.last, reason))
        self._replace(connection)

    def _replace(self, connection: _Connection) -> None:
        self._drop(connection)
        if not self._ending:
            self._ask(_Connection(connect(self._address)))

    def _drop(self, connection: _Connection) -> None:
        self._selector.unregister(connection.socket)
        connection.socket.close()
