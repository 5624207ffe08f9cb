"""Bottle's own server adapter, unchanged: `bottle.run(server="bjoern")` as its users write it.

Knows: Bottle's site as a program.   Must not know: what every site does (`test_sites.py`).
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from programs import Program
from wire import GUARD

pytest.importorskip("bottle", reason="`make frameworks` installs bottle")

TESTS = Path(__file__).parent.parent


@pytest.fixture
def port() -> Iterator[int]:
    """A port that nobody else gets: bound, but not listening, to be shared by SO_REUSEPORT, as the adapter asks for."""
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


@pytest.mark.parametrize(("number", "said"), [(signal.SIGINT, "Hit Ctrl-C to quit."), (signal.SIGTERM, "Listening on")])
def test_adapter(port: int, number: signal.Signals, said: str) -> None:
    address = f"http://127.0.0.1:{port}"
    with Program("-m", "frameworks.sites.bottle_site", "127.0.0.1", str(port), cwd=TESTS) as program:
        with requests.Session() as session:  # the adapter does not say when it listens: the client tries again
            session.mount("http://", HTTPAdapter(max_retries=Retry(connect=100, backoff_factor=0.01, backoff_max=0.1)))
            assert session.get(f"{address}/hello/you", timeout=GUARD).text == "Hello, you!"
            assert session.post(f"{address}/raw", data=b"x" * 2_000_000, timeout=GUARD).json()["size"] == 2_000_000
            assert [session.get(f"{address}/count", timeout=GUARD).json() for _ in range(3)] == [1, 2, 3]
        program.send(number)
        end = program.end()
    assert said in end.errors
    assert "Traceback" not in end.errors
    assert end.code == (0 if number is signal.SIGINT else -signal.SIGTERM)  # Bottle takes KeyboardInterrupt as an end
