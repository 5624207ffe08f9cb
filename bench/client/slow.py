"""Asks for one page again and again over a few connections, beside the load that is measured.

Knows: sockets.   Must not know: which server answers, why the page is slow.
Usage: slow.py PORT CLIENTS TARGET BODY, where every answer ends with BODY. Prints how many clients have had an answer,
once all have; when its standard input ends, the answers a second that all of them got together.
"""

from __future__ import annotations

import os
import selectors
import socket
import sys
import time
from contextlib import suppress

DEADLINE = 10.0  # seconds without any answer


class Client:
    """Asks, waits for the answer, asks again; over a new connection where the server has ended the last."""

    def __init__(self, port: int, target: str, body: bytes) -> None:
        self.port = port
        self.request = f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        self.body = body
        self.received = b""
        self.answered: list[float] = []  # the moments, in seconds of the monotonic clock

    def ask(self, selector: selectors.BaseSelector) -> None:
        peer = socket.create_connection(("127.0.0.1", self.port), DEADLINE)
        peer.sendall(self.request)
        selector.register(peer, selectors.EVENT_READ, self)

    def receive(self, peer: socket.socket, selector: selectors.BaseSelector) -> None:
        """Takes what is there; asks again if that ends an answer. Raises OSError where this is not an answer."""
        try:
            data = peer.recv(65536)
            self.received += data
            if data and self.received.endswith(self.body) and self.received.startswith(b"HTTP/1.1 200"):
                self.answered.append(time.monotonic())
                self.received = b""
                peer.sendall(self.request)
        except (BrokenPipeError, ConnectionResetError):
            data = b""
        if not data and self.received:
            raise ConnectionError(f"after {len(self.answered)} answers the server sent {self.received!r}")
        if not data:
            selector.unregister(peer)
            peer.close()
            self.ask(selector)

    def rate(self) -> float:
        """Answers a second between the first and the last: whole cycles, so that no edge counts."""
        return (len(self.answered) - 1) / (self.answered[-1] - self.answered[0]) if len(self.answered) > 1 else 0.0


def ask(port: int, count: int, target: str, body: bytes) -> None:
    clients = [Client(port, target, body) for _ in range(count)]
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        for client in clients:
            client.ask(selector)
        waiting = True
        while ready := selector.select(DEADLINE):
            for key, _ in ready:
                if key.fileobj is sys.stdin:
                    print(sum(client.rate() for client in clients))
                    return
                key.data.receive(key.fileobj, selector)
            if waiting and all(client.answered for client in clients):
                print(count, flush=True)
                waiting = False
    raise TimeoutError(f"nothing was answered for {DEADLINE:.0f} s")


def come_first() -> None:
    """Before the load on the same core, where that is allowed.

    It needs a fiftieth of the core; waiting for the load's time slice to end, some milliseconds in each hundred, would
    be counted as the server's.
    """
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


if __name__ == "__main__":
    come_first()
    try:
        ask(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4].encode())
    except OSError as error:
        sys.exit(f"{type(error).__name__}: {error}")
