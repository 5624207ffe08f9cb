"""Fixtures: servers in processes of their own, and an ear for what an application does.

Knows: pytest, `ServerProcess`.   Must not know: HTTP, bjoern's options.
`--server-python` names another interpreter to run the server, so that the same tests can look at another bjoern.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from server_process import ServerProcess
from wire import GUARD

Serve = Callable[..., ServerProcess]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--server-python", default=sys.executable, help="the interpreter that runs the servers")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(6 * GUARD))  # a hang, not a measurement


@pytest.fixture(scope="session")
def server_python(pytestconfig: pytest.Config) -> str:
    return str(pytestconfig.getoption("--server-python"))


@pytest.fixture
def serve(server_python: str) -> Iterator[Serve]:
    """`serve("apps.echo:app", **options)`: a server for this test alone; alive at the end, and it stops cleanly."""
    running: list[ServerProcess] = []

    def start(app: str, **options: Any) -> ServerProcess:
        running.append(ServerProcess(server_python, app, **options))
        return running[-1]

    try:
        yield start
        for server in running:
            if not server.ended:
                server.check()
                server.stop()
    finally:
        for server in running:
            server.discard()


@pytest.fixture(scope="session")
def servers(server_python: str) -> Iterator[dict[str, ServerProcess]]:
    """The servers that tests share, by application; stopped at the end."""
    running: dict[str, ServerProcess] = {}
    try:
        yield running
        for server in running.values():
            server.stop()
    finally:
        for server in running.values():
            server.discard()


@pytest.fixture
def shared(servers: dict[str, ServerProcess], server_python: str) -> Iterator[Serve]:
    """`shared("apps.echo:app")`: a server with default options that outlives the test; checked after each."""
    used: list[ServerProcess] = []

    def find(app: str) -> ServerProcess:
        if app not in servers or servers[app].process.poll() is not None:
            servers[app] = ServerProcess(server_python, app)
        servers[app].begin()
        used.append(servers[app])
        return servers[app]

    yield find
    for server in used:
        server.check()


class Observer:
    """What an application tells while it runs (`apps.observed`), line by line, and a gate it waits at."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(GUARD)
        self._peer: socket.socket | None = None
        self._buffer = b""
        self.line = f"X-Observer: {self._listener.getsockname()[1]}"  # the request field that introduces it

    def _connected(self) -> socket.socket:
        if self._peer is None:
            self._peer, _ = self._listener.accept()
            self._peer.settimeout(GUARD)
        return self._peer

    def next(self) -> str:
        """The next thing the application says; "" once it has hung up."""
        peer = self._connected()
        while b"\n" not in self._buffer:
            data = peer.recv(4096)
            if not data:
                return ""
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def all(self) -> list[str]:
        """Everything the application says until it hangs up."""
        return list(iter(self.next, ""))

    def go(self, times: int = 1) -> None:
        """Opens the gate `times` times."""
        self._connected().sendall(b"." * times)

    def close(self) -> None:
        self._listener.close()
        if self._peer is not None:
            self._peer.close()


@pytest.fixture
def observer() -> Iterator[Observer]:
    watching = Observer()
    yield watching
    watching.close()


class Call:
    """A call of the application that tells where it is (`apps.gated`), and waits there for `go`."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(GUARD)
        self._sock, self._file = sock, sock.makefile("rb")

    def hear(self) -> str:
        """Where it is now; "" once it has hung up."""
        return self._file.readline().decode().rstrip("\n")

    def go(self, word: str = "go") -> None:
        self._sock.sendall(word.encode() + b"\n")

    def close(self) -> None:
        self._file.close()
        self._sock.close()


class Calls:
    """The calls that run now, by what they tell."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(GUARD)
        self._found: dict[str, Call] = {}
        self._all: list[Call] = []
        self.line = f"X-Calls: {self._listener.getsockname()[1]}"  # the request field that introduces it

    def at(self, where: str) -> Call:
        """The call that tells `where`, as "call 7": waits until there is one."""
        while where not in self._found:
            sock, _ = self._listener.accept()
            self._all.append(call := Call(sock))
            self._found[call.hear()] = call
        return self._found.pop(where)

    def has_news(self) -> bool:
        """Whether a call has come that nobody has asked for."""
        self._listener.settimeout(0.0)
        try:
            self._all.append(Call(self._listener.accept()[0]))
        except BlockingIOError:
            return bool(self._found)
        finally:
            self._listener.settimeout(GUARD)
        return True

    def close(self) -> None:
        self._listener.close()
        for call in self._all:
            call.close()


@pytest.fixture
def calls() -> Iterator[Calls]:
    watching = Calls()
    yield watching
    watching.close()
