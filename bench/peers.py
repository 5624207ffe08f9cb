"""The servers that are compared, as data, and the virtual environment that holds them.

Knows: how each server is started in one process (or with the processes it needs), PyPI by way of pip.
Must not know: what is asked of the servers, how it is measured.
Run as a program it makes `.venv-bench/` and says what could not be installed, and why.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / ".venv-bench"
PYTHON = ENVIRONMENT / "bin" / "python"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
UNAVAILABLE = ENVIRONMENT / "unavailable.json"  # distribution to the reason it is not there
INSTALL_DEADLINE = 600.0  # seconds for one distribution; uWSGI compiles for about a minute


@dataclass(frozen=True)
class Peer:
    """One server in one configuration.

    `command` is an argument list; `{bin}`, `{module}`, `{app}` and `{port}` stand for the environment's programs,
    the application's module and name, and the port on 127.0.0.1; `{free_threaded}` for the free-threaded CPython that
    the caller names. `every` = 2: takes part in every second round.
    `collects_bodies`: the application is called once the whole body is there, so that a slow client holds nobody up.
    """

    name: str
    distribution: str
    command: tuple[str, ...]
    every: int = 1
    collects_bodies: bool = False
    note: str = ""


def _call(statement: str, python: str = "{bin}/python") -> tuple[str, ...]:
    """The command of a server that is a function to call."""
    return (python, "-c", "from {module} import {app} as app; " + statement)


OWN = "bjoern-rs"  # the distribution that this checkout is
BJOERN = "bjoern 4"
BJOERN_3 = "bjoern 3.2.2"
GUNICORN = "gunicorn gthread"

# In the order of the tables. bjoern 4 is this checkout's python/, found before the bjoern 3.2.2 that is installed.
PEERS = (
    Peer(BJOERN, OWN, _call("import bjoern; bjoern.run(app, '127.0.0.1', {port})"), collects_bodies=True),
    Peer(BJOERN_3, "bjoern", _call("import bjoern; bjoern.run(app, '127.0.0.1', {port})"), collects_bodies=True),
    Peer(
        "fastpysgi",
        "fastpysgi",
        _call("import fastpysgi; fastpysgi.run(app, '127.0.0.1', {port})"),
        collects_bodies=True,
    ),
    Peer(
        "FastWSGI", "fastwsgi", _call("import fastwsgi; fastwsgi.run(app, '127.0.0.1', {port})"), collects_bodies=True
    ),
    Peer(
        "granian, 1 thread",
        "granian",
        ("{bin}/granian", "--interface", "wsgi", "--port", "{port}", "--blocking-threads", "1", "{module}:{app}"),
        note="--blocking-threads 1",
    ),
    Peer(
        "granian",
        "granian",
        ("{bin}/granian", "--interface", "wsgi", "--port", "{port}", "{module}:{app}"),
        every=2,
        note="as it comes",
    ),
    Peer(
        GUNICORN,
        "gunicorn",
        ("{bin}/gunicorn", "-k", "gthread", "-b", "127.0.0.1:{port}", "{module}:{app}"),
        note="-k gthread, one thread",
    ),
    Peer(
        "uWSGI",
        "uwsgi",
        (
            *("{bin}/uwsgi", "--http", "127.0.0.1:{port}", "--http-keepalive", "--http-auto-chunked"),
            *("--master", "--disable-logging", "--virtualenv", "{bin}/..", "--module", "{module}:{app}"),
        ),
        every=2,
        note="its own HTTP router before one worker, without a log",
    ),
    Peer(
        "waitress",
        "waitress",
        ("{bin}/waitress-serve", "--listen", "127.0.0.1:{port}", "{module}:{app}"),
        every=2,
        collects_bodies=True,
    ),
    Peer("cheroot", "cheroot", ("{bin}/cheroot", "--bind", "127.0.0.1:{port}", "{module}:{app}"), every=2),
)

# The same servers with threads: how each is told.
THREADS = 16
_TOLD = {
    "granian": ("--blocking-threads", str(THREADS)),
    GUNICORN: ("--threads", str(THREADS)),
    "uWSGI": ("--threads", str(THREADS)),
    "waitress": ("--threads", str(THREADS)),
    "cheroot": ("--threads", str(THREADS)),
}


def with_threads(name: str) -> str:
    """What a server of `PEERS` is called among `CREWS`."""
    return f"{name}, {THREADS} threads"


def _crew(peer: Peer, told: tuple[str, ...]) -> Peer:
    program, *arguments = peer.command
    return replace(peer, name=with_threads(peer.name), command=(program, *told, *arguments), every=2)


def _own(name: str, threads: int, python: str = "{bin}/python") -> Peer:
    run = f"import bjoern; bjoern.run(app, '127.0.0.1', {{port}}, threads={threads})"
    return Peer(name, OWN, _call(run, python), collects_bodies=True)


BJOERN_THREADS = with_threads(BJOERN)
ONE_THREAD = f"{BJOERN}, 1 thread"
CREWS = (
    _own(BJOERN_THREADS, THREADS),
    _own(ONE_THREAD, 1),
    *(_crew(peer, _TOLD[peer.name]) for peer in PEERS if peer.name in _TOLD),
)

# On a free-threaded CPython: a loop for each thread, up to one for each core.
TWO_LOOPS, ONE_LOOP = f"{BJOERN}, two loops", f"{BJOERN}, one loop"
LOOPS = (_own(TWO_LOOPS, 2, "{free_threaded}"), _own(ONE_LOOP, 1, "{free_threaded}"))

EVERYONE = (*PEERS, *CREWS, *LOOPS)


def unavailable() -> dict[str, str]:
    """Why a distribution could not be installed, by its name. Raises SystemExit where there is no environment."""
    if not UNAVAILABLE.exists():
        sys.exit(f"{ENVIRONMENT.name}/ is not complete: run bench/peers.py first (`make bench` does)")
    reasons: dict[str, str] = json.loads(UNAVAILABLE.read_text())
    return reasons


def versions() -> dict[str, str]:
    """The installed distributions and their versions."""
    listing = "import importlib.metadata as m, json; "
    listing += "print(json.dumps({d.name.lower(): d.version for d in m.distributions()}))"
    answer = subprocess.run([PYTHON, "-I", "-c", listing], check=True, capture_output=True, text=True)
    found: dict[str, str] = json.loads(answer.stdout)
    return found


def lacks_free_threading(python: str | None) -> str | None:
    """Why the interpreter at this path cannot run the servers of `LOOPS`; None where it can."""
    if not python:
        return "no free-threaded interpreter was given (--free-threaded PYTHON, or BENCH_FREE_THREADED)"
    asked = "import sys; assert not getattr(sys, '_is_gil_enabled', lambda: True)(), 'it has a GIL'; import bjoern; "
    asked += "assert not sys._is_gil_enabled(), 'the extension switches the GIL on'"
    environ = {"PYTHONPATH": str(ROOT / "python")}
    try:
        done = subprocess.run([python, "-c", asked], env=environ, capture_output=True, text=True)
    except OSError as error:
        return str(error)
    return f"{python}: {done.stderr.strip().splitlines()[-1]}" if done.returncode else None


def install() -> dict[str, str]:
    """Makes the environment from this interpreter, so that bjoern's extension fits it; what failed, and why."""
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)], check=True)
    failed: dict[str, str] = {}
    for line in REQUIREMENTS.read_text().splitlines():
        requirement = line.partition("#")[0].strip()
        if not requirement:
            continue
        print(f"installing {requirement}", flush=True)
        # Not from pip's cache: what it holds may have been compiled against another build of the same CPython.
        command = [str(PYTHON), "-m", "pip", "install", "--quiet", "--no-cache-dir", "--disable-pip-version-check"]
        try:
            done = subprocess.run([*command, requirement], capture_output=True, text=True, timeout=INSTALL_DEADLINE)
            error = "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        except subprocess.TimeoutExpired:
            error = f"pip took longer than {INSTALL_DEADLINE:.0f} s"
        if error:
            failed[requirement.partition("=")[0].partition("<")[0]] = error
            print(f"  not installed: {error}", flush=True)
    UNAVAILABLE.write_text(json.dumps(failed, indent=1) + "\n")
    return failed


if __name__ == "__main__":
    if install():
        print("Some could not be installed and are left out. Compilers, Python's headers and libev's are what is most")
        print("often missing (Debian: apt-get install gcc python3-dev libev-dev).")
