"""Holds connections that have made one request each and are idle, until its standard input ends.

Knows: sockets.   Must not know: which server answers.
Usage: idle.py PORT COUNT. Prints one line: how many are held.
"""

from __future__ import annotations

import socket
import sys

DEADLINE = 5.0  # seconds for one answer
REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def hold(port: int, count: int) -> list[socket.socket]:
    """`count` connections to 127.0.0.1, or fewer where one was refused or not answered in time."""
    held: list[socket.socket] = []
    try:
        for _ in range(count):
            peer = socket.create_connection(("127.0.0.1", port), DEADLINE)
            peer.sendall(REQUEST)
            if not peer.recv(65536).startswith(b"HTTP/1.1 200"):
                break
            held.append(peer)
    except OSError:
        pass  # the number tells
    return held


if __name__ == "__main__":
    connections = hold(int(sys.argv[1]), int(sys.argv[2]))
    print(len(connections), flush=True)
    sys.stdin.read()
