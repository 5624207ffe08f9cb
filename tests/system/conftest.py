"""Fixtures: proxies in front of servers. A test is skipped, with the reason, where the machine lacks what it needs.

Run by `make system`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from system.proxies import HAProxy, Nginx, Proxy, found

InFront = Callable[..., Proxy]


def need(program: str) -> None:
    if found(program) is None:
        pytest.skip(f"{program} is not installed: on Debian, apt-get install {program}")


@pytest.fixture
def wrk() -> None:
    need("wrk")


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[InFront]:
    """`nginx(server.address, *lines)`"""
    need("nginx")
    yield from _running(tmp_path, Nginx)


@pytest.fixture
def haproxy(tmp_path: Path) -> Iterator[InFront]:
    """`haproxy(server.address, example, *pairs)`"""
    need("haproxy")
    yield from _running(tmp_path, HAProxy)


def _running(folder: Path, kind: Callable[..., Proxy]) -> Iterator[InFront]:
    running: list[Proxy] = []

    def start(*arguments: object) -> Proxy:
        place = folder / str(len(running))
        place.mkdir()
        running.append(kind(place, *arguments))
        return running[-1]

    try:
        yield start
    finally:
        for proxy in running:
            proxy.stop()
