"""How light the server is: sizes, memory, the cost of importing it, what it does while nothing happens.

Knows: /proc, maturin's wheel.   Must not know: requests' speed.
Each measure has a limit; one that is passed makes the program end with 1.
"""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from peers import ROOT, THREADS
from processes import ProcessGroup, free_port

import bjoern._bjoern as extension

BENCH = Path(__file__).resolve().parent
IDLE_CONNECTIONS = 10_000
IMPORT_PAIRS = 40  # interpreters started with the import, and as many without, in turn
QUIET = 3.0  # seconds in which an idle server must not wake up
SERVE = "from apps import hello; import bjoern; bjoern.run(hello, '127.0.0.1', {port})"
# As many threads as MEETING says: the server's, and plain ones that run the same application.
SERVE_MEETING = """
from meeting import barrier, meet
import bjoern
bjoern.run(meet, '127.0.0.1', {port}, threads=barrier.parties)
"""
PLAIN_MEETING = """
from meeting import barrier, meet
import threading, time
def work():
    meet({}, lambda status, fields: None)
    time.sleep(60)
for _ in range(barrier.parties):
    threading.Thread(target=work).start()
"""
# A server's modules: what it imports, it imports before it serves.
SERVED = (
    "import sys; bare = set(sys.modules); from apps import hello; import bjoern\n"
    "server = bjoern.Server(hello, bjoern.addresses.TcpAddress('127.0.0.1', 0))\n"
    "server.run(ready=server.stop)\n"
    "print(*sorted(set(sys.modules) - bare))"
)


@dataclass(frozen=True)
class Limit:
    """`measure()` gives a number in `unit`, which is to be `most` at most."""

    title: str
    unit: str
    most: float
    measure: Callable[[], float]


def _environ() -> dict[str, str]:
    # Compiled files may be written: an import that compiles anew each time is not what users have.
    return {"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT / 'python'}:{BENCH}"}


def extension_size() -> float:
    return Path(extension.__file__).stat().st_size / 1e6


def wheel_size() -> float:
    """Builds the wheel as a release does, short of compiling what is compiled already."""
    maturin = shutil.which("maturin", path=str(Path(sys.executable).parent)) or "maturin"
    with tempfile.TemporaryDirectory() as out:
        command = [maturin, "build", "--release", "--locked", "--quiet", "-i", sys.executable, "--out", out]
        subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
        return next(Path(out).glob("*.whl")).stat().st_size / 1e3


@contextmanager
def _serving() -> Iterator[tuple[ProcessGroup, int]]:
    port = free_port()
    with ProcessGroup([sys.executable, "-c", SERVE.format(port=port)], _environ()) as server:
        server.wait_listening(port)
        time.sleep(0.2)  # the connection that wait_listening made is gone, too
        yield server, port


def added_memory() -> float:
    """The server that listens, beside an interpreter that has imported what the server has, bjoern excepted.

    About a third is pages of the interpreter's own code, which only the one that serves has touched.
    """
    names = subprocess.run(
        [sys.executable, "-c", SERVED],
        env=_environ(),
        check=True,
        capture_output=True,
        text=True,
    )
    others = [name for name in names.stdout.split() if name.partition(".")[0] not in ("bjoern", "_bjoern")]
    bare = f"import importlib\nfor name in {others!r}: importlib.import_module(name)\nimport time; time.sleep(60)"
    differences = []
    for _ in range(3):
        with ProcessGroup([sys.executable, "-c", bare], _environ()) as interpreter, _serving() as (server, _port):
            time.sleep(0.3)
            differences.append((server.pss() - interpreter.pss()) / 1e6)
    return median(differences)


def idle_connection() -> float:
    """What 10,000 connections add that have made one request each, divided by their number."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with _serving() as (server, port):
        _hold(port, 1).communicate()
        before = server.pss()
        holder = _hold(port, IDLE_CONNECTIONS)
        after = server.pss()
        holder.communicate()
        return (after - before) / IDLE_CONNECTIONS


def _hold(port: int, count: int) -> subprocess.Popen[str]:
    holder = subprocess.Popen(
        [sys.executable, str(BENCH / "client" / "idle.py"), str(port), str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    held = int(holder.stdout.readline() or 0)
    if held < count:
        holder.communicate()
        sys.exit(f"{held:,} of {count:,} connections were served: is the limit of open files (ulimit -n) below that?")
    return holder


def thread_memory() -> float:
    """What a thread of the server adds that has served, less what a plain thread adds that has run the same function.

    The server with one thread runs in the main one; with more, all of them are threads beside it. The plain ones are
    beside a main thread, too, which waits for them to end: so their first is counted against their sixteenth.
    """

    def each(pss: Callable[[int], int], beside: int) -> float:
        return (pss(THREADS) - pss(1)) / (THREADS - beside)

    return median((each(_pss_served, 0) - each(_pss_plain, 1)) / 1e3 for _ in range(3))


def _pss_served(threads: int) -> int:
    """PSS in bytes of a server whose threads have all served, at the same time."""
    port = free_port()
    environ = _environ() | {"MEETING": str(threads)}
    with ProcessGroup([sys.executable, "-c", SERVE_MEETING.format(port=port)], environ) as server:
        server.wait_listening(port)
        for _ in range(3):
            _meet(port)
        time.sleep(0.3)
        return server.pss()


def _meet(port: int) -> None:
    """Asks over as many connections as the server has threads, at most. Raises ConnectionError where one is refused."""
    clients = [socket.create_connection(("127.0.0.1", port), 10.0) for _ in range(THREADS)]
    for client in clients:
        client.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    for client in clients:
        with client:
            answer = client.recv(65536).partition(b"\r\n")[0]
            if answer != b"HTTP/1.1 200 OK":
                raise ConnectionError(f"not all of the threads served at the same time: {answer.decode()!r}")


def _pss_plain(threads: int) -> int:
    """PSS in bytes of an interpreter with plain threads, which have all run the application."""
    with ProcessGroup([sys.executable, "-c", PLAIN_MEETING], _environ() | {"MEETING": str(threads)}) as interpreter:
        time.sleep(1.0)
        return interpreter.pss()


def import_time() -> float:
    """CPU milliseconds of `import bjoern` beside a bare interpreter: the difference of the medians."""
    spent: dict[str, list[float]] = {"pass": [], "import bjoern": []}
    for _ in range(IMPORT_PAIRS):
        for statement, times in spent.items():
            process = subprocess.Popen([sys.executable, "-c", statement], env=_environ())
            usage = os.wait4(process.pid, 0)[2]
            process.returncode = 0  # it is waited for already
            times.append((usage.ru_utime + usage.ru_stime) * 1e3)
    return median(spent["import bjoern"]) - median(spent["pass"])


def wake_ups() -> float:
    """Times that any thread of an idle server was put on a core."""
    with _serving() as (server, port):
        _hold(port, 1).communicate()
        time.sleep(0.5)
        before = _switches(server.process.pid)
        time.sleep(QUIET)
        return _switches(server.process.pid) - before


def _switches(pid: int) -> int:
    count = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        count += sum(int(line.split()[1]) for line in status.read_text().splitlines() if "ctxt_switches" in line)
    return count


LIMITS = (
    Limit("the extension, stripped", "MB", 1.0, extension_size),
    Limit("the wheel", "kB", 500.0, wheel_size),
    Limit("a server that listens, beside an interpreter with the same imports", "MB of PSS", 0.6, added_memory),
    Limit("an idle connection that has made a request", "bytes of PSS", 256.0, idle_connection),
    Limit("a thread that has served, beside a plain one that ran the same", "kB of PSS", 100.0, thread_memory),
    Limit("import bjoern, beside a bare interpreter", "ms of CPU", 3.0, import_time),
    Limit(f"an idle server in {QUIET:.0f} s", "wake-ups", 0.0, wake_ups),
)


def main() -> None:
    passed = 0
    for limit in LIMITS:
        try:
            value = limit.measure()
        except ConnectionError as reason:
            passed += 1
            print(f"{limit.title}: not measured: {reason}", flush=True)
            continue
        passed += value > limit.most
        verdict = "" if value <= limit.most else "  <-- more than the limit"
        print(f"{limit.title}: {value:.3g} {limit.unit} (at most {limit.most:g}){verdict}", flush=True)
    if passed:
        sys.exit(1)


if __name__ == "__main__":
    main()
