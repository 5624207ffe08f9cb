"""Workers and their supervisor: signals, deaths, reloads, and what is left behind.

How it works: the command serves a module from a folder of its own; the module is edited, processes get signals, and
what is said and answered is waited for. `Crowd` keeps connections busy and knows what was lost.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bjoern
from crowd import Crowd
from programs import GUARD, PRELUDE, End, Program, answer, ask, connect
from services import WHO, Service, is_gone, until

SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGKILL,
    signal.SIGQUIT,
    signal.SIGTERM,
)

VERSION = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"{}"]
"""

# A request that takes until the test makes a file.
SLOW = """
import os, time

def app(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        open("begun", "w").close()
        while not os.path.exists("go"):
            time.sleep(0.005)
    body = b"%d" % os.getpid()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""

# A worker that ends as soon as it is forked, once a file says so.
FRAIL = (
    WHO
    + """
def frail():
    if os.path.exists("frail"):
        os._exit(7)

os.register_at_fork(after_in_child=frail)
"""
)


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., Service]:
    """`serve("-w", "2", source=WHO)`: `bjoern -w 2 -b 127.0.0.1:0 module:app` in a folder, where the module lies."""

    def start(*arguments: str, source: str = WHO, bind: str = "127.0.0.1:0", **keywords: Any) -> Service:
        (tmp_path / "module.py").write_text(source)
        return Service("-b", bind, *arguments, "module:app", cwd=tmp_path, **keywords)

    return start


def failed(folder: Path, *arguments: str, source: str = WHO, **keywords: Any) -> End:
    """How the command ends that cannot serve."""
    (folder / "module.py").write_text(source)
    with Program("-m", "bjoern", *arguments, "module:app", cwd=folder, **keywords) as program:
        return program.end()


Serve = Callable[..., Service]

# Serving and stopping


def test_announced_once_all_serve(serve: Serve) -> None:
    with serve("-w", "3", "--threads", "2") as service:
        who = rf"pid {service.pid}, CPython \S+, 3 workers of 2 threads"
        assert re.fullmatch(rf"bjoern \S+ listening on http://127\.0\.0\.1:\d+ \({who}\)", service.lines[0])
        pid, parent = map(int, service.get().split())
        assert service.pid not in (pid, parent), "the supervisor neither serves nor forks those who do"
        service.stop()
        assert service.lines[1:] == []


@pytest.mark.parametrize(("number", "code"), [(SIGTERM, -SIGTERM), (SIGINT, 130), (SIGQUIT, 131)])
def test_stop(serve: Serve, tmp_path: Path, number: signal.Signals, code: int) -> None:
    with serve("-w", "2", "-p", "pid", bind=f"unix:{tmp_path}/s") as service:
        workers = service.workers(2)
        parent = int(service.get().split()[1])
        assert int((tmp_path / "pid").read_text()) == service.pid
        service.send(number)
        assert service.end() == code
        assert all(map(is_gone, [*workers, parent]))
    assert not (tmp_path / "s").exists()
    assert not (tmp_path / "pid").exists()


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
def test_requests_at_hand_are_answered(serve: Serve, tmp_path: Path, number: signal.Signals) -> None:
    with serve("-w", "2", "--log-level", "debug", source=SLOW) as service, connect(service.address) as client:
        ask(client, "/slow", "Connection: close")
        until((tmp_path / "begun").exists)
        service.send(number)
        service.wait("ended with exit code 0")  # the other one, which had nothing to do
        (tmp_path / "go").touch()
        assert answer(client).startswith(b"HTTP/1.1 200 ")
        service.end()


def test_second_signal_does_not_wait(serve: Serve, tmp_path: Path) -> None:
    with serve("-w", "2", "--log-level", "debug", source=SLOW) as service, connect(service.address) as client:
        ask(client, "/slow")
        until((tmp_path / "begun").exists)
        service.send(SIGTERM)
        service.wait("ended with exit code 0")  # the other one, which had nothing to do
        service.send(SIGTERM)
        assert service.end() == -SIGTERM


def test_a_worker_that_takes_too_long_to_end_is_killed(serve: Serve, tmp_path: Path) -> None:
    with serve("-w", "1", "--graceful-timeout", "100ms", source=SLOW) as service, connect(service.address) as client:
        ask(client, "/slow")
        until((tmp_path / "begun").exists)
        service.stop()


def test_signal_to_the_whole_group(tmp_path: Path) -> None:
    """As a terminal sends it: everybody hears SIGINT, and then SIGTERM from the supervisor."""
    (tmp_path / "module.py").write_text(WHO)
    program = "import os, sys\nos.setpgid(0, 0)\nfrom bjoern.cli import main\nmain()"
    with Service("-w", "2", "-b", "127.0.0.1:0", "module:app", cwd=tmp_path, program=("-c", program)) as service:
        service.workers(2)
        os.killpg(service.pid, SIGINT)
        assert service.end() == 130
        assert service.lines[1:] == []


def test_no_supervisor_without_need(serve: Serve) -> None:
    with serve() as service:
        assert service.worker() == service.pid


# Deaths


def test_a_dead_worker_is_replaced(serve: Serve) -> None:
    with serve("-w", "2") as service:
        before = service.workers(2)
        os.kill(min(before), SIGKILL)
        service.wait(f"(pid {min(before)}) was killed by SIGKILL and is replaced")
        until(lambda: len(service.workers(2) - before) == 1)
        service.stop()


def test_a_worker_that_exits_is_replaced(serve: Serve) -> None:
    source = WHO + "\n_who = app\ndef app(environ, start_response):\n"
    source += "    if environ['PATH_INFO'] == '/exit': raise SystemExit(5)\n    return _who(environ, start_response)\n"
    with serve("-w", "1", source=source) as service:
        first = service.worker()
        with connect(service.address) as client:
            ask(client, "/exit")
            while client.recv(4096):
                pass
        service.wait(f"worker 1 (pid {first}) ended with exit code 5 and is replaced")
        assert service.worker() != first


# What asyncio does with signals at its end: Python's wakeup descriptor is -1 from then on.
TAKES_THE_DESCRIPTOR = """
import asyncio, signal

async def heeds_a_signal():
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR2, str)
    loop.remove_signal_handler(signal.SIGUSR2)
"""


@pytest.mark.parametrize("how", ["--preload", "--no-preload"])
@pytest.mark.parametrize("where", ["import", "request"])
def test_signals_are_heard_without_the_descriptor(serve: Serve, how: str, where: str) -> None:
    """By the process that forks, where the application took it at its import, and by a worker, where a request did."""
    source = TAKES_THE_DESCRIPTOR + WHO
    if where == "import":
        source += "\nasyncio.run(heeds_a_signal())\n"
    else:
        source += "\n_who = app\ndef app(*request):\n    asyncio.run(heeds_a_signal())\n    return _who(*request)\n"
    with serve("-w", "1", "--threads", "1", how, source=source) as service:  # only a main thread can take it
        for _ in range(2):
            worker = service.worker()
            os.kill(worker, SIGKILL)
            service.wait("was killed by SIGKILL and is replaced")
            until(lambda worker=worker: service.worker() != worker)  # type: ignore[misc]
        worker = service.worker()
        os.kill(worker, SIGTERM)
        until(lambda: service.worker() != worker)
        worker, parent = map(int, service.get().split())
        os.kill(parent, SIGKILL)  # and the worker hears of another generation
        service.wait("another one is started")
        until(lambda: is_gone(worker))
        service.worker()
        service.stop()
        assert "did not end in time" not in "\n".join(service.lines)


def test_the_end_of_the_supervisor_is_heard_without_the_descriptor(serve: Serve) -> None:
    source = TAKES_THE_DESCRIPTOR + WHO
    source += "\n_who = app\ndef app(*request):\n    asyncio.run(heeds_a_signal())\n    return _who(*request)\n"
    with serve("-w", "1", "--threads", "1", source=source) as service:
        worker = service.worker()
        service.send(SIGKILL)
        until(lambda: is_gone(worker))


# A handler that is a library's in C: `signal` knows nothing of it.
FAULTHANDLER = """
import faulthandler, signal
dump = open("dump", "w")
faulthandler.register(signal.SIGUSR1, dump)
"""


@pytest.mark.parametrize("how", [[], ["-w", "1", "--preload"], ["-w", "1", "--no-preload"]])
def test_a_handler_in_c_is_left_alone(serve: Serve, tmp_path: Path, how: list[str]) -> None:
    with serve(*how, "--access-log", "log", source=WHO + FAULTHANDLER) as service:
        worker = service.worker()
        (tmp_path / "log").rename(tmp_path / "renamed")
        service.send(signal.SIGUSR1)  # a supervisor passes it on
        until(lambda: "File" in (tmp_path / "dump").read_text())
        assert service.worker() == worker
        service.stop()
        assert not (tmp_path / "log").exists()


def test_a_handler_in_c_of_the_program_is_left_alone(tmp_path: Path) -> None:
    source = PRELUDE + FAULTHANDLER + "if __name__ == '__main__':\n    bjoern.run(app, '127.0.0.1', 0, workers=1)\n"
    (tmp_path / "program.py").write_text(source.replace("def app", WHO.replace("def app", "def who") + "def app"))
    with Service(cwd=tmp_path, program=("program.py",)) as service:
        service.send(signal.SIGUSR1)
        until(lambda: "File" in (tmp_path / "dump").read_text())
        service.stop()


def test_kill_costs_a_worker_its_own_requests_only(serve: Serve) -> None:
    with serve("-w", "2") as service, Crowd(service.address) as crowd:
        victim = service.worker()
        os.kill(victim, SIGKILL)
        service.wait("is replaced")
        crowd.wait_for(1000)
        # One that was accepted and not answered yet has no last answer.
        assert {lost.last.split()[0] for lost in crowd.lost if lost.last} <= {str(victim)}
        assert len(crowd.lost) <= 64


def test_the_workers_end_with_their_supervisor(serve: Serve) -> None:
    with serve("-w", "2") as service:
        workers = service.workers(2)
        parent = int(service.get().split()[1])
        service.send(SIGKILL)
        service.end()
        for pid in (*workers, parent):
            until(lambda: is_gone(pid))  # noqa: B023


def test_the_process_that_forks_is_replaced_and_nothing_is_lost(serve: Serve) -> None:
    with serve("-w", "2") as service, Crowd(service.address) as crowd:
        before = service.workers(2)
        os.kill(int(service.get().split()[1]), SIGKILL)
        service.wait("is gone: another one is started")
        service.wait("reloaded: 2 workers serve")
        until(lambda: not service.workers(2) & before)
        crowd.wait_for(500)
        assert crowd.lost == []
        for pid in before:
            until(lambda: is_gone(pid))  # noqa: B023


# Workers that cannot be started


def test_an_application_that_cannot_be_imported(tmp_path: Path) -> None:
    for arguments in (["-w", "2"], ["-w", "2", "--no-preload"]):
        code, _, errors = failed(tmp_path, *arguments, "-b", "unix:s", source="raise LookupError('no settings')")
        assert code == 4
        assert "importing 'module' raised LookupError: no settings; the traceback above says where" in errors
        assert 'module.py", line 1' in errors
        assert not (tmp_path / "s").exists()


def test_one_worker_that_cannot_import_is_tried_again(serve: Serve, tmp_path: Path) -> None:
    """Whoever comes first fails; the other serves, and is not disturbed."""
    source = "import os\ntry: os.mkdir('first')\nexcept FileExistsError: pass\nelse: raise LookupError('first')\n" + WHO
    with serve("-w", "2", "--no-preload", source=source) as service:
        assert any("raised LookupError: first" in line for line in service.lines)
        assert any("ended with exit code 4 before it served" in line for line in service.lines)
        service.workers(2)
        service.stop()


def test_no_worker_comes_up(tmp_path: Path) -> None:
    (tmp_path / "frail").touch()
    code, _, errors = failed(tmp_path, "-w", "2", "-b", "unix:s", source=FRAIL)
    assert code == 3
    assert errors.splitlines()[-1].endswith(
        "error: no worker can be started: the last one ended with exit code 7; see above for the reason"
    )
    assert not (tmp_path / "s").exists()


def test_no_worker_comes_up_any_more(serve: Serve, tmp_path: Path) -> None:
    with serve("-w", "1", source=FRAIL) as service:
        worker = service.worker()
        (tmp_path / "frail").touch()
        os.kill(worker, SIGKILL)
        service.wait("no worker can be started")
        assert service.end() == 3


def test_workers_come_up_again_after_a_while(serve: Serve, tmp_path: Path) -> None:
    with serve("-w", "1", source=FRAIL) as service:
        worker = service.worker()
        (tmp_path / "frail").touch()
        os.kill(worker, SIGKILL)
        for _ in range(3):
            service.wait("ended with exit code 7 before it served")
        (tmp_path / "frail").unlink()
        assert service.worker() != worker
        service.stop()


def test_the_process_that_imports_is_killed(tmp_path: Path) -> None:
    source = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"
    code, _, errors = failed(tmp_path, "-w", "2", "-b", "127.0.0.1:0", source=source)
    assert code == 3
    assert "no worker can be started" in errors


@pytest.mark.parametrize("extra", [[], ["-p", "pid"]])
def test_nothing_is_half_bound(tmp_path: Path, extra: list[str]) -> None:
    with bjoern.bind_and_listen("127.0.0.1", 0) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, _, errors = failed(tmp_path, "-w", "2", *extra, "-b", "unix:s", "-b", address)
    assert code == 1
    assert errors.startswith(f"bjoern: error: address already in use: {address} ")
    assert not (tmp_path / "s").exists()
    assert not (tmp_path / "pid").exists()


def test_an_access_log_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    code, _, errors = failed(tmp_path, "-w", "2", "--access-log", "folder", "-b", "unix:s")
    assert (code, errors) == (
        1,
        f"bjoern: error: {tmp_path}/folder: the access log cannot be opened (Is a directory)\n",
    )
    assert not (tmp_path / "s").exists()


# Reload


def reload(service: Service) -> None:
    service.send(SIGHUP)
    service.wait("reloaded:")


@pytest.mark.parametrize("preload", ["--preload", "--no-preload"])
def test_hup_takes_new_code(serve: Serve, tmp_path: Path, preload: str) -> None:
    with serve("-w", "2", preload, source=VERSION.format("one")) as service:
        assert service.get() == "one"
        (tmp_path / "module.py").write_text(VERSION.format("second"))
        reload(service)
        assert service.get() == "second"
        assert {service.get() for _ in range(5)} == {"second"}
        assert service.program.process.poll() is None, "the supervisor is the one it was"
        service.stop()


def test_hup_with_broken_code_changes_nothing(serve: Serve, tmp_path: Path) -> None:
    with serve("-w", "2", source=VERSION.format("one")) as service:
        (tmp_path / "module.py").write_text("def app(:")
        service.send(SIGHUP)
        service.wait("SyntaxError")
        service.wait("not reloaded: the workers from before go on")
        assert service.get() == "one"
        (tmp_path / "module.py").write_text(VERSION.format("third"))
        reload(service)
        until(lambda: service.get() == "third")
        service.stop()


def test_hup_with_workers_that_do_not_come_up_changes_nothing(serve: Serve, tmp_path: Path) -> None:
    with serve("-w", "2", source=FRAIL) as service:
        before = service.workers(2)
        (tmp_path / "frail").touch()
        service.send(SIGHUP)
        service.wait("not reloaded")
        assert service.worker() in before
        service.stop()


def test_hup_finishes_old_requests(serve: Serve, tmp_path: Path) -> None:
    with serve("-w", "1", source=SLOW) as service, connect(service.address) as client:
        ask(client, "/slow")
        until((tmp_path / "begun").exists)
        reload(service)
        service.worker()
        (tmp_path / "go").touch()
        response = answer(client)
        assert b"connection: close" in response.lower(), "so that the client knows"
        service.stop()


def test_hup_follows_a_link(tmp_path: Path) -> None:
    """The working directory is a link to a release, as deployments make it."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "module.py").write_text(VERSION.format(name))
    link = tmp_path / "current"
    link.symlink_to("one")
    with Service("-w", "1", "-b", "127.0.0.1:0", "--chdir", str(link), "module:app", cwd=tmp_path) as service:
        assert service.get() == "one"
        link.unlink()
        link.symlink_to("two")
        reload(service)
        until(lambda: service.get() == "two")
        service.stop()


def test_hup_twice_in_a_row(serve: Serve) -> None:
    with serve("-w", "2") as service:
        before = service.workers(2)
        service.send(SIGHUP)
        service.send(SIGHUP)
        service.wait("reloaded:")
        until(lambda: not service.workers(2) & before)
        service.stop()


# Nothing lost; make system has each of these twenty times


def hup(service: Service, crowd: Crowd) -> None:
    reload(service)


def term(service: Service, crowd: Crowd) -> None:
    os.kill(int(crowd.latest.split()[0]), SIGTERM)
    service.wait("serves")


def test_nothing_is_lost_when_workers_have_had_their_requests(serve: Serve) -> None:
    with serve("-w", "2", "--max-requests", "500~500", "--log-level", "debug") as service:
        with Crowd(service.address) as crowd:
            for _ in range(4):
                service.wait("has ended and is replaced")
            assert crowd.lost == []
            assert crowd.announced
        service.stop()


@pytest.mark.parametrize("disturb", [hup, term])
def test_nothing_is_lost(serve: Serve, disturb: Callable[[Service, Crowd], None]) -> None:
    with serve("-w", "2", "--log-level", "debug") as service, Crowd(service.address) as crowd:
        for _ in range(3):
            disturb(service, crowd)
            crowd.wait_for(200)
        assert crowd.lost == []
        assert crowd.announced, "connections were closed by agreement"


def test_fewer_and_more_workers(serve: Serve) -> None:
    with serve("-w", "1") as service, Crowd(service.address) as crowd:
        service.send(signal.SIGTTIN)
        service.wait("2 workers from now on")
        until(lambda: len(service.workers(2)) == 2)
        service.send(signal.SIGTTOU)
        service.wait("1 worker from now on")
        crowd.wait_for(500)
        service.send(signal.SIGTTOU)
        service.wait("1 worker from now on")
        crowd.wait_for(100)
        assert crowd.lost == []


# Other signals, and other watches


def test_status(serve: Serve) -> None:
    with serve("-w", "2") as service:
        first, second = sorted(service.workers(2))
        service.send(signal.SIGUSR1)
        service.wait("2 of 2 workers serve")
        lines = sorted(service.wait(": serving for ") for _ in range(2))
        assert f"worker 1 (pid {first})" in lines[0]
        assert re.search(r"serving for \d+s, \d+ requests?, \d+ open, 0 busy, 0 queued, \d+ MiB$", lines[0])
        assert f"worker 2 (pid {second})" in lines[1]
        service.send(signal.SIGUSR2)
        service.wait("SIGHUP replaces all but the supervisor")
        service.stop()


def test_max_rss(serve: Serve) -> None:
    source = WHO + "\nkept = []\n_who = app\ndef app(environ, start_response):\n"
    source += "    if environ['PATH_INFO'] == '/grow': kept.append(b'x' * (200 << 20))\n"
    source += "    return _who(environ, start_response)\n"
    with serve("-w", "1", "--max-rss", "150M", source=source) as service:
        before = int(service.get("/grow").split()[0])
        service.wait("more than max_rss, and is replaced")
        until(lambda: service.worker() != before)
        until(lambda: is_gone(before))
        service.stop()


@pytest.mark.parametrize("threads", [1, 3])
def test_a_worker_that_hangs_is_killed(serve: Serve, tmp_path: Path, threads: int) -> None:
    arguments = ["-w", "1", "--threads", str(threads), "--worker-timeout", "500ms"]
    with serve(*arguments, source=SLOW) as service:
        clients = []
        for _ in range(threads):  # a free thread alone accepts, in whatever loop it is
            clients.append(connect(service.address))
            ask(clients[-1], "/slow")
            until((tmp_path / "begun").exists)
            (tmp_path / "begun").unlink()
        service.wait(f"(pid {service_worker(service)}) is killed and replaced: ")
        service.wait('module.py", line 8 in app')  # where it hangs
        for client in clients:
            with pytest.raises(ConnectionResetError):
                if not client.recv(1):
                    raise ConnectionResetError
            client.close()
        service.worker()
        service.stop()


@pytest.mark.parametrize("how", ["it is stopped", "a thread keeps the GIL"])
def test_a_worker_without_a_sign_of_life_is_killed(serve: Serve, how: str) -> None:
    if how == "a thread keeps the GIL" and not getattr(sys, "_is_gil_enabled", lambda: True)():
        pytest.skip("there is no GIL to keep")
    source = WHO + "\nimport ctypes, threading\n_who = app\ndef app(environ, start_response):\n"
    source += (
        "    if environ['PATH_INFO'] == '/keep': threading.Thread(target=ctypes.PyDLL(None).sleep, args=[60]).start()\n"
    )
    source += "    return _who(environ, start_response)\n"
    with serve("-w", "1", "--worker-timeout", "500ms", source=source) as service, connect(service.address) as client:
        worker = service.worker()
        if how == "it is stopped":
            os.kill(worker, signal.SIGSTOP)
        else:
            ask(client, "/keep")
        service.wait(f"(pid {worker}) is killed and replaced: ")
        assert service.worker() != worker
        service.stop()


def test_an_idle_worker_shows_that_it_lives(serve: Serve) -> None:
    with serve("-w", "1", "--worker-timeout", "20") as service:
        worker = service.worker()
        looks = Path(f"/proc/{worker}/status")

        def woken() -> int:
            match = re.search(r"^voluntary_ctxt_switches:\s*(\d+)", looks.read_text(), re.MULTILINE)
            assert match
            return int(match[1])

        before = woken()
        until(lambda: woken() > before + 2)  # it is asked again only when it has answered
        assert service.worker() == worker
        service.stop()
        assert service.lines[1:] == []


def service_worker(service: Service) -> int:
    """The process of the only worker, which does not answer: from the status."""
    service.send(signal.SIGUSR1)
    match = re.search(r"worker 1 \(pid (\d+)\)", service.wait("worker 1 (pid "))
    assert match
    return int(match[1])


def test_logs_are_reopened(serve: Serve, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    with serve("-w", "2", "--access-log", str(log)) as service:
        service.worker()
        until(lambda: log.read_text().count("GET / ") == 1)
        log.rename(tmp_path / "old.log")
        service.send(signal.SIGUSR1)
        until(lambda: service.worker() > 0 and log.exists() and log.read_text().count("GET / ") > 0)
        service.stop()


def test_several_threads_at_import_are_warned_of(serve: Serve) -> None:
    source = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n" + WHO
    with serve("-w", "1", source=source) as service:
        assert "importing the application started 1 thread" in service.lines[0] + service.lines[1]
        service.stop()


def test_what_was_registered_for_the_end_is_run(serve: Serve, tmp_path: Path) -> None:
    source = WHO + "\nimport atexit\natexit.register(lambda: open(f'ended-{os.getpid()}', 'w').close())\n"
    with serve("-w", "2", source=source) as service:
        workers = service.workers(2)
        service.stop()
    assert {path.name for path in tmp_path.glob("ended-*")} == {f"ended-{pid}" for pid in workers}


@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
def test_what_was_registered_for_the_end_is_not_cut_short(serve: Serve, tmp_path: Path, number: signal.Signals) -> None:
    """A terminal's SIGINT reaches all, and is followed by the supervisor's SIGTERM."""
    source = (
        WHO
        + """
import atexit, time

@atexit.register
def finish():
    open("begun", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.005)
    open("ended", "w").close()
"""
    )
    with serve("-w", "1", source=source) as service:
        worker = service.worker()
        os.kill(worker, SIGINT)
        until((tmp_path / "begun").exists)
        os.kill(worker, number)
        until(lambda: is_gone(worker) or not has_signals_pending(worker))
        (tmp_path / "go").touch()
        until(lambda: is_gone(worker))
        assert (tmp_path / "ended").exists()
        service.stop()
        assert service.lines[1:] == []


@pytest.mark.parametrize("preload", ["--preload", "--no-preload"])
def test_handlers_of_the_application_are_left_alone(serve: Serve, tmp_path: Path, preload: str) -> None:
    source = (
        WHO + "\nimport signal\nsignal.signal(signal.SIGUSR2, lambda *_: open(f'heard-{os.getpid()}', 'w').close())\n"
    )
    with serve("-w", "1", preload, source=source) as service:
        worker = service.worker()
        os.kill(worker, signal.SIGUSR2)
        until((tmp_path / f"heard-{worker}").exists)
        service.stop()
    assert len(list(tmp_path.glob("heard-*"))) == 1


@pytest.mark.parametrize("preload", ["--preload", "--no-preload"])
def test_a_worker_that_ignores_sigterm_ends_gracefully(serve: Serve, tmp_path: Path, preload: str) -> None:
    source = SLOW + "\nimport signal\nsignal.signal(signal.SIGTERM, lambda *_: open('ignored', 'w').close())\n"
    with serve("-w", "1", preload, source=source) as service, connect(service.address) as client:
        ask(client, "/slow")
        until((tmp_path / "begun").exists)
        reload(service)
        until((tmp_path / "ignored").exists)
        (tmp_path / "go").touch()
        response = answer(client)
        assert response.startswith(b"HTTP/1.1 200 ")
        until(lambda: is_gone(int(response.partition(b"\r\n\r\n")[2])))
        service.stop()
        assert not any("killed" in line for line in service.lines)


def has_signals_pending(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return any(int(mask, 16) for mask in re.findall(r"^(?:SigPnd|ShdPnd):\s*(\w+)$", status, re.MULTILINE))


# The service manager


class Manager:
    """What a service says to systemd."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(GUARD)

    def hear(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self._socket.recv(4096).decode().splitlines())

    def close(self) -> None:
        self._socket.close()


def test_notify(serve: Serve, tmp_path: Path) -> None:
    manager = Manager(tmp_path)
    with serve("-w", "2", environ={"NOTIFY_SOCKET": manager.path}) as service:
        assert manager.hear()["READY"] == "1"
        service.send(SIGHUP)
        reloading = manager.hear()
        assert reloading["RELOADING"] == "1"
        assert int(reloading["MONOTONIC_USEC"]) > 0
        assert manager.hear()["READY"] == "1"
        (tmp_path / "module.py").write_text("def app(:")
        service.send(SIGHUP)
        assert manager.hear()["RELOADING"] == "1"
        assert manager.hear()["READY"] == "1", "it serves as before"
        service.send(SIGTERM)
        assert manager.hear()["STOPPING"] == "1"
        service.end()
    manager.close()


def test_notify_without_workers(serve: Serve, tmp_path: Path) -> None:
    manager = Manager(tmp_path)
    source = WHO + "\nvariables = sorted(name for name in os.environ if name in ('NOTIFY_SOCKET', 'LISTEN_FDS'))\n"
    with serve(source=source, environ={"NOTIFY_SOCKET": manager.path}) as service:
        assert manager.hear()["READY"] == "1"
        assert service.worker() == service.pid
    manager.close()


def test_watchdog(serve: Serve, tmp_path: Path) -> None:
    manager = Manager(tmp_path)
    with serve(environ={"NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "100000"}) as service:
        assert service.worker() != service.pid, "a supervisor is needed"
        heard = [manager.hear() for _ in range(4)]
        assert heard[0]["READY"] == "1"
        assert [message.get("WATCHDOG") for message in heard[1:]] == ["1"] * 3
        service.stop()
    manager.close()


ACTIVATE = """
import os, sys
count = int(sys.argv[1])
for target, source in enumerate(map(int, sys.argv[2:2 + count]), 3):
    os.dup2(source, target)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(count))
os.execv(sys.executable, [sys.executable, "-m", "bjoern", *sys.argv[2 + count:]])
"""


@pytest.mark.parametrize("workers", [[], ["-w", "2"]])
def test_sockets_of_the_service_manager(tmp_path: Path, workers: list[str]) -> None:
    (tmp_path / "module.py").write_text(WHO)
    with bjoern.bind_and_listen("127.0.0.1", 0) as one, bjoern.bind_and_listen("127.0.0.1", 0) as other:
        high = [os.dup(sock.fileno()) for sock in (one, other)]
        high = [os.dup(number) if number < 10 else number for number in high]
        program = ("-c", ACTIVATE, "2", *map(str, high))
        with Service(*workers, "module:app", cwd=tmp_path, fds=tuple(high), program=program) as service:
            ports = [sock.getsockname()[1] for sock in (one, other)]
            assert service.addresses == [f"http://127.0.0.1:{port}" for port in ports]
            service.worker()
            if workers:
                reload(service)
                service.worker()
            service.stop()
        for number in high:
            os.close(number)


def test_socket_activation_by_systemds_own_tool(tmp_path: Path) -> None:
    tool = shutil.which("systemd-socket-activate")
    if tool is None:
        pytest.skip("systemd-socket-activate is not installed: on Debian, it is in the package systemd")
    (tmp_path / "module.py").write_text(WHO)
    path = tmp_path / "s"
    command = [tool, "-l", str(path), sys.executable, "-m", "bjoern", "-w", "1", "module:app"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        until(path.exists)
        with connect(f"unix:{path}") as client:  # which starts it
            ask(client, "/", "Connection: close")
            assert answer(client).startswith(b"HTTP/1.1 200 ")
        process.send_signal(SIGTERM)
        assert process.wait(GUARD) == -SIGTERM
    finally:
        process.kill()
        process.communicate()


# Whose process it is


def as_root() -> None:
    if os.geteuid():
        pytest.skip("needs root")


def test_user_and_group(serve: Serve, tmp_path: Path) -> None:
    as_root()
    source = "import os\ndef app(environ, start_response):\n    start_response('200 OK', [])\n"
    source += "    return [repr((os.getresuid(), os.getresgid(), os.getgroups())).encode()]\n"
    with serve("-w", "1", "--user", "0", "--group", "65534", source=source, bind=f"unix:{tmp_path}/s") as service:
        assert service.get() == "((0, 0, 0), (65534, 65534, 65534), [65534])" or service.get().startswith(
            "((0, 0, 0), (65534, 65534, 65534), "
        )
        assert (tmp_path / "s").stat().st_gid == 65534
        service.stop()


def python_for_anybody(package: str) -> str:
    """An interpreter like this one that any user can run, and import bjoern with."""
    system = shutil.which("python{}.{}".format(*sys.version_info), path="/usr/local/bin:/usr/bin")
    for python in filter(None, (sys.executable, system)):
        command, environ = [python, "-c", "import bjoern"], {"PYTHONPATH": package}
        with contextlib.suppress(OSError):
            if not subprocess.run(
                command, user=65534, group=65534, cwd="/", env=environ, stderr=subprocess.DEVNULL
            ).returncode:
                return python
    pytest.skip("there is no Python of this version whose files another user can read")


def test_another_user_serves() -> None:
    as_root()
    package = str(Path(bjoern.__file__).parents[1])
    python, environ = python_for_anybody(package), {"PYTHONPATH": package}
    source = "import os\nids = os.getuid(), os.getgid()\ndef app(environ, start_response):\n"
    source += "    start_response('200 OK', [])\n    return [repr((ids, os.getuid())).encode()]\n"
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        (Path(folder) / "module.py").write_text(source)
        arguments = ["-u", "65534", "-g", "65534", "-b", "127.0.0.1:0", "module:app"]
        with Service(*arguments, cwd=Path(folder), environ=environ, python=python) as service:
            assert service.get() == "((65534, 65534), 65534)", "the application was imported by that user"
            reload(service)
            service.stop()


def test_unknown_user(tmp_path: Path) -> None:
    code, _, errors = failed(tmp_path, "-u", "nobody-of-that-name", "-b", "unix:s")
    assert (code, errors) == (
        2,
        "bjoern: error: user: there is no user 'nobody-of-that-name'; give the name or number of one\n",
    )
    code, _, errors = failed(tmp_path, "-g", "nobody-of-that-name", "-b", "unix:s")
    assert code == 2
    assert not (tmp_path / "s").exists()


def test_umask(serve: Serve, tmp_path: Path) -> None:
    with serve("-m", "027", "-w", "1", bind=f"unix:{tmp_path}/s") as service:
        assert (tmp_path / "s").stat().st_mode & 0o777 == 0o750
        service.stop()


def test_orphans_are_reaped_as_process_1(tmp_path: Path) -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-pf", "true"], capture_output=True).returncode:
        pytest.skip("unshare(1) cannot make a namespace of processes here")
    source = """
import os, subprocess, sys

def app(environ, start_response):
    start_response("200 OK", [])
    if environ["PATH_INFO"] == "/orphan":  # its parent ends first, so it is process 1's
        run = subprocess.run(["sh", "-c", "(sleep 0.05; exit 3) & echo $!"], stdout=subprocess.PIPE)
        return [run.stdout.strip()]
    pid = environ["PATH_INFO"][1:]
    return [b"there" if os.path.exists(f"/proc/{pid}") else b"gone"]
"""
    (tmp_path / "module.py").write_text(source)
    command = ["unshare", "-pf", "--mount-proc", "--kill-child", sys.executable, "-m", "bjoern", "-w", "1"]
    process = subprocess.Popen(
        [*command, "-b", f"unix:{tmp_path}/s", "module:app"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        assert "listening on" in process.stderr.readline()

        def ask_for(path: str) -> str:
            with connect(f"unix:{tmp_path}/s") as client:
                ask(client, path, "Connection: close")
                return answer(client).partition(b"\r\n\r\n")[2].decode()

        pid = ask_for("/orphan")
        until(lambda: ask_for(f"/{pid}") == "gone")
    finally:
        process.kill()
        process.communicate()


# Messages


def test_json_messages(serve: Serve) -> None:
    source = WHO + "\n_who = app\ndef app(environ, start_response):\n"
    source += "    if environ['PATH_INFO'] == '/fail': {}['missing']\n"
    source += "    environ['wsgi.errors'].write('said\\n')\n    return _who(environ, start_response)\n"
    with serve("-w", "1", "--log-format", "json", source=source) as service:
        worker = service.worker()
        service.wait('"said"')
        with connect(service.address) as client:
            ask(client, "/fail", "Connection: close")
            assert answer(client).startswith(b"HTTP/1.1 500 ")
        service.wait("KeyError")
        os.kill(worker, SIGKILL)
        service.wait("is replaced")
        service.stop()
    records = [json.loads(line) for line in service.lines]
    assert [record["level"] for record in records] == ["info", "error", "error", "warning"]
    assert [record["pid"] for record in records] == [service.pid, worker, worker, service.pid]
    assert [record.get("worker") for record in records] == [None, 1, 1, None]
    assert records[0]["message"].startswith("bjoern ")
    assert records[2]["message"] == "KeyError: 'missing'"
    assert records[2]["traceback"].startswith("Traceback (most recent call last):\n")
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d{4}$", record["time"]) for record in records)


def test_a_slow_request_is_one_record_of_its_worker(serve: Serve, tmp_path: Path) -> None:
    source = "import time\n" + WHO + "\n_who = app\ndef app(environ, start_response):\n"
    source += "    while environ['PATH_INFO'] == '/slow' and not os.path.exists('go'): time.sleep(0.01)\n"
    source += "    return _who(environ, start_response)\n"
    with serve("-w", "1", "--log-format", "json", "--slow-request", "10ms", source=source) as service:
        with connect(service.address) as client:
            ask(client, "/slow", "Connection: close")
            record = json.loads(service.wait("GET /slow has been running for "))
            (tmp_path / "go").touch()
            worker = int(answer(client).partition(b"\r\n\r\n")[2].split()[0])
        service.stop()
    assert (record["level"], record["pid"], record["worker"]) == ("warning", worker, 1)
    assert record["message"].startswith("GET /slow has been running for ")
    assert "time.sleep(0.01)" in record["traceback"]


def test_json_of_what_is_written_in_pieces() -> None:
    source = """
from bjoern import messages

def fail():
    sys.stderr.write("Traceback (most recent call last):\\n")
    sys.stderr.write("  File\\n")
    other = threading.Thread(target=print, args=("other",), kwargs={"file": sys.stderr})
    other.start()
    other.join()
    sys.stderr.write("Error: this\\n")

messages.configure("info", "json")
sys.stderr.write("one, ")
thread = threading.Thread(target=fail)
thread.start()
thread.join()
sys.stderr.write("two\\nthe end")
"""
    with Program.of(source) as program:
        code, _, errors = program.end()
    records = [json.loads(line) for line in errors.splitlines()]
    assert (code, [record["message"] for record in records]) == (0, ["other", "Error: this", "one, two", "the end"])
    assert records[1]["traceback"] == "Traceback (most recent call last):\n  File\nError: this\n"


def test_json_errors_of_the_command(tmp_path: Path) -> None:
    code, _, errors = failed(tmp_path, "--log-format", "json", "-b", "unix:nowhere/s")
    record = json.loads(errors)
    assert (code, record["level"]) == (1, "error")
    assert "its directory does not exist" in record["message"]


def test_level(serve: Serve, tmp_path: Path) -> None:
    with serve("-w", "1", "--log-level", "warning", bind=f"unix:{tmp_path}/s", listens=False) as service:
        service.addresses = [f"unix:{tmp_path}/s"]
        until((tmp_path / "s").exists)
        worker = service.worker()
        service.send(signal.SIGUSR1)
        os.kill(worker, SIGKILL)
        service.wait("was killed by SIGKILL")
        service.stop()
        assert len(service.lines) == 1


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("BJOERN_WORKRES", "BJOERN_WORKERS"),
        ("BJOERN_CHDIRS", "BJOERN_CHDIR"),
        ("BJOERN_HOST", "BJOERN_BIND"),
        ("BJOERN_PORT", "PORT or BJOERN_BIND"),
    ],
)
def test_variables_that_look_like_an_options(serve: Serve, name: str, meant: str) -> None:
    with serve(environ={name: "2", "BJOERN_SIGNAL_CHECK_INTERVAL": "1"}) as service:
        assert service.lines[0] == f"bjoern: warning: {name} is not an option's variable; did you mean {meant}?"
        assert "listening on" in service.lines[1]


def test_variables_that_look_like_an_options_in_a_program(tmp_path: Path) -> None:
    source = PRELUDE + f"bjoern.run(app, 'unix:{tmp_path}/s')"
    environ = {"BJOERN_WORKRES": "2", "BJOERN_CHDIRS": "2", "BJOERN_HOST": "x", "BJOERN_PORT": "x"}
    with Service(cwd=tmp_path, program=("-c", source), environ=environ, listens=False) as service:
        service.addresses = [f"unix:{tmp_path}/s"]
        service.wait("BJOERN_WORKRES")
        until((tmp_path / "s").exists)
        assert service.get() == "ok"
        service.stop()
    assert service.lines == [
        "bjoern: warning: BJOERN_WORKRES is not an option's variable; did you mean BJOERN_WORKERS?"
    ]


def test_web_concurrency(serve: Serve) -> None:
    with serve(environ={"WEB_CONCURRENCY": "2"}) as service:
        assert len(service.workers(2)) == 2
        service.stop()


# In a program


PROGRAM = """
import module
say("imported", os.getpid())
try:
    bjoern.run(module.app, "127.0.0.1", 0, workers=2)
except KeyboardInterrupt:
    say("interrupted", os.getpid())
say("returned", os.getpid())
"""


def test_run_with_workers(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(VERSION.format("one"))
    with Service(cwd=tmp_path, program=("-c", PRELUDE + PROGRAM)) as service:
        assert service.program.hear() == f"imported {service.pid}"
        assert service.get() == "one"
        (tmp_path / "module.py").write_text(VERSION.format("second"))
        reload(service)
        assert service.program.hear().startswith("imported "), "the program runs again, up to here"
        until(lambda: service.get() == "second")
        service.send(SIGINT)
        assert service.end() == 0
        assert service.program.hear() == f"interrupted {service.pid}"
        assert service.program.hear() == f"returned {service.pid}"
        assert service.program.hear() == ""


def test_workers_need_the_main_thread() -> None:
    source = """
def serve():
    try:
        bjoern.run(app, "127.0.0.1", 0, workers=2)
    except RuntimeError as error:
        say(error)

thread = threading.Thread(target=serve)
thread.start()
thread.join()
"""
    with Program.of(source) as program:
        assert program.end() == End(0, "workers= needs the main thread: there the signals are heard\n", "")


def test_what_is_no_business_of_a_server() -> None:
    with pytest.raises(
        TypeError, match=r"unexpected keyword argument 'workers'; bjoern.run\(app, ...\) and the command"
    ):
        bjoern.Server(lambda environ, start_response: [], "127.0.0.1:0", workers=2)
    with pytest.raises(TypeError, match=r"^listen\(\) got an unexpected keyword argument 'chdir'; only the command"):
        bjoern.run(lambda environ, start_response: [], "127.0.0.1", 0, chdir="/")
