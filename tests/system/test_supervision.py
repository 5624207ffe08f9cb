"""Workers under load: twenty times each of what must lose nothing, directly and through proxies; what they weigh.

How it works: as in test_supervisor.py, with 64 connections that ask without pause.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crowd import Crowd
from programs import GUARD
from services import WHO, Service, until

TIMES = 20
ROOT = Path(__file__).parents[2]


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., Service]:
    def start(*arguments: str, bind: str = "127.0.0.1:0") -> Service:
        (tmp_path / "module.py").write_text(WHO)
        return Service("-w", "2", "-b", bind, "--log-level", "debug", *arguments, "module:app", cwd=tmp_path)

    return start


Start = Callable[..., Service]


def hup(service: Service, crowd: Crowd) -> None:
    service.send(signal.SIGHUP)
    service.wait("reloaded: 2 workers serve")


def term(service: Service, crowd: Crowd) -> None:
    os.kill(int(crowd.latest.split()[0]), signal.SIGTERM)
    service.wait("serves")


def recycle(service: Service, crowd: Crowd) -> None:
    service.wait("has ended and is replaced")


@pytest.mark.parametrize("disturb", [hup, term, recycle])
def test_nothing_is_lost(serve: Start, disturb: Callable[[Service, Crowd], None]) -> None:
    with serve(*(["--max-requests", "2000~1000"] if disturb is recycle else [])) as service:
        with Crowd(service.address) as crowd:
            for _ in range(TIMES):
                disturb(service, crowd)
                crowd.wait_for(500)
        assert crowd.lost == []
        assert crowd.announced >= TIMES
        service.stop()


@pytest.mark.parametrize("disturb", [hup, term])
@pytest.mark.parametrize("unix", [False, True])
def test_nothing_is_lost_behind_nginx(
    serve: Start, nginx: Any, tmp_path: Path, disturb: Callable[[Service, Crowd], None], unix: bool
) -> None:
    with serve(bind=f"unix:{tmp_path}/s" if unix else "127.0.0.1:0") as service:
        _behind(nginx(_address(service)), service, disturb)


@pytest.mark.parametrize("disturb", [hup, term])
def test_nothing_is_lost_behind_haproxy(serve: Start, haproxy: Any, disturb: Callable[[Service, Crowd], None]) -> None:
    with serve() as service:
        _behind(haproxy(_address(service), 0), service, disturb)


def _address(service: Service) -> str | tuple[str, int]:
    text = service.address
    if text.startswith("unix:"):
        return text[len("unix:") :]
    host, _, port = text.removeprefix("http://").rpartition(":")
    return host, int(port)


def _behind(proxy: Any, service: Service, disturb: Callable[[Service, Crowd], None]) -> None:
    with Crowd(f"{proxy.address[0]}:{proxy.address[1]}") as crowd:
        for _ in range(5):
            disturb(service, crowd)
            crowd.wait_for(500)
    assert crowd.lost == []
    service.stop()


def test_a_killed_worker_is_replaced_twenty_times(serve: Start) -> None:
    with serve() as service:
        with Crowd(service.address) as crowd:
            for _ in range(TIMES):
                before = len(crowd.lost)
                victim = int(crowd.latest.split()[0])
                os.kill(victim, signal.SIGKILL)
                service.wait("is replaced")
                service.wait("serves")
                crowd.wait_for(2000)
                assert {lost.last.split()[0] for lost in crowd.lost[before:] if lost.last} <= {str(victim)}
        service.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_under_load_ends(serve: Start, number: signal.Signals) -> None:
    with serve("--graceful-timeout", "5") as service:
        crowd = Crowd(service.address)
        crowd.__enter__()
        service.send(number)
        service.end()
        assert not any(line.endswith("is killed") for line in service.lines)
        until(lambda: crowd.failed is not None)  # it is refused when it comes again
        assert crowd.failed is not None and crowd.failed.startswith("ConnectionRefusedError")


def test_what_the_second_worker_weighs() -> None:
    """The target is 3 MB of private memory at rest, after the preload of Django; what is measured is told."""
    pytest.importorskip("django", reason="Django is not installed")
    with Service("-w", "2", "-b", "127.0.0.1:0", "examples.django_app:app", cwd=ROOT) as service:
        service.send(signal.SIGUSR1)
        pids = []
        for number in (1, 2):
            line = service.wait(f"worker {number} (pid ")
            pids.append(int(line.partition("(pid ")[2].partition(")")[0]))
        private = []
        for pid in pids:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            private.append(sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_")))
        assert max(private) < 3 * 1024, f"private memory of the workers, in KiB: {private}"
        service.stop()


def test_systemds_own_tool_with_workers(tmp_path: Path) -> None:
    tool = shutil.which("systemd-socket-activate")
    if tool is None:
        pytest.skip("systemd-socket-activate is not installed: on Debian, it is in the package systemd")
    (tmp_path / "module.py").write_text(WHO)
    path = tmp_path / "s"
    command = [tool, "-l", str(path), sys.executable, "-m", "bjoern", "-w", "2", "module:app"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        until(path.exists)
        with Crowd(f"unix:{path}", 8) as crowd:
            for _ in range(3):
                process.send_signal(signal.SIGHUP)
                crowd.wait_for(2000)
        assert crowd.lost == []
        process.send_signal(signal.SIGTERM)
        assert process.wait(GUARD) == -signal.SIGTERM
    finally:
        process.kill()
        process.wait()
