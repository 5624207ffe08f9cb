"""The servers of the parity suite: the bjoern under test, and bjoern 3.2.2.

Knows: `ServerProcess`, which options bring the old bytes back.   Must not know: what is compared.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import NamedTuple
from unittest import mock

import pytest

from parity.install import Unavailable, interpreter
from server_process import ServerProcess

pytest.register_assert_rewrite("parity.rows")

# What the old bytes need: 3.2.2 sends no Date, and HTTP/1.1 without Host is served.
RESTORED = {"BJOERN_REQUIRE_HOST": "0", "BJOERN_DATE_HEADER": "0"}

OURS, OLD = "ours", "bjoern-3.2.2"


class Bjoern(NamedTuple):
    """One of the two: its name, and the interpreter that has it."""

    name: str
    python: str

    @property
    def is_old(self) -> bool:
        return self.name == OLD


@pytest.fixture(scope="session", params=[OURS, OLD])
def bjoern(request: pytest.FixtureRequest, server_python: str) -> Bjoern:
    if request.param == OURS:
        return Bjoern(OURS, server_python)
    try:
        return Bjoern(OLD, str(interpreter()))
    except Unavailable as unavailable:
        pytest.skip(str(unavailable))


Find = Callable[[bool], ServerProcess]


@pytest.fixture(scope="session")
def running() -> Iterator[dict[tuple[str, bool], ServerProcess]]:
    servers: dict[tuple[str, bool], ServerProcess] = {}
    try:
        yield servers
    finally:
        for server in servers.values():
            if server.process.poll() is None:
                server.process.send_signal(signal.SIGINT)
                server.wait()
            server.discard()


@pytest.fixture
def find(bjoern: Bjoern, running: dict[tuple[str, bool], ServerProcess]) -> Iterator[Find]:
    """`find(restored)`: the server of `parity.apps`, with the old bytes or its own; it outlives the test."""
    used: list[ServerProcess] = []

    def found(restored: bool = True) -> ServerProcess:
        key = (bjoern.name, restored)
        if key not in running or running[key].process.poll() is not None:
            with mock.patch.dict(os.environ, RESTORED if restored else {}):
                running[key] = ServerProcess(bjoern.python, "parity.apps:app")
        running[key].begin()
        running[key].stderr()  # what is said unasked is no fault here: 3.2.2 tells of every client that goes
        used.append(running[key])
        return running[key]

    yield found
    for server in used:
        server.check()
