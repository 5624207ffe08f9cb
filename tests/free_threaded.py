"""A free-threaded CPython (PEP 703): one that is there, or one that is built from Debian's source and kept.

Knows: apt's mirror, how CPython is configured, the user's cache.   Must not know: bjoern, what is tested with it.
Invariant: what stands in the cache under its final name is whole and has been tried; one process at a time builds.
Run as a program it prints the interpreter's path. Where none can be had it exits with 77 (as test programs of
Automake do that are skipped), and the last line on standard error says why. Progress goes to standard error, too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

RELEASE = "3.14.7"
MINOR = RELEASE.rpartition(".")[0]
# Of Debian's pool, which keeps a release for some months. Another one is another number and another hash.
SOURCE = f"pool/main/p/python{MINOR}/python{MINOR}_{RELEASE}.orig.tar.xz"
SHA256 = "3b48dac8fb59f62eaa67ac83c1eb12bda1b7a08406dd286e252c11a66be27f81"

# Without debugging information and symbols, the tests and libpython.a: 100 MB less in the cache.
CONFIGURE = ["--quiet", "--disable-gil", "--disable-test-modules", "--without-static-libpython", "--without-ensurepip"]
CONFIGURE += ["CFLAGS=-O2 -g0", "LDFLAGS=-s"]

ON_PATH = ("python3.14t", "python3.15t")
# What an interpreter must be able to do. PyO3 knows free-threaded ones from 3.14 on.
CHECK = """
import sys, sysconfig
assert sysconfig.get_config_var("Py_GIL_DISABLED") and sys.version_info >= (3, 14)
import ctypes, ensurepip, sqlite3, ssl, venv, zlib
print(sys.executable)
"""

# Headers without which CPython builds but fails CHECK, and Debian's packages of them.
HEADERS = {"ffi.h": "libffi-dev", "openssl/ssl.h": "libssl-dev", "sqlite3.h": "libsqlite3-dev", "zlib.h": "zlib1g-dev"}
PROGRAMS = {"cc": "gcc", "make": "make"}
APT_HELPER = "/usr/lib/apt/apt-helper"  # downloads as apt does: its mirrors, its proxies, its checks

BUILD_DEADLINE = 1200.0  # seconds; two minutes are usual with two cores to itself
DEADLINE = 300.0  # seconds for anything else
UNAVAILABLE = 77


class Unavailable(Exception):
    """No free-threaded CPython can be had here; the text says why."""


def interpreter() -> Path:
    """A free-threaded CPython's path; built where there is none yet, which takes minutes.

    Raises Unavailable where it cannot be built.
    """
    for name in ON_PATH:
        found = shutil.which(name)
        if found and (python := _tried(found)):
            return python
    home = cache() / f"cpython-{RELEASE}t"
    kept = home / "bin" / f"python{MINOR}t"
    try:
        with _alone(cache() / "lock"):
            if not _tried(kept):
                _build(home, kept)
    except OSError as error:
        raise Unavailable(f"no CPython {RELEASE}t: {error}; it is built and kept in {cache()}") from None
    return kept


def cache() -> Path:
    """Where what takes long to make is kept, outside of any checkout."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bjoern"


def _tried(python: str | Path) -> Path | None:
    """The interpreter's own name for itself, where it can do what it must."""
    try:
        done = subprocess.run([python, "-c", CHECK], capture_output=True, text=True, timeout=DEADLINE)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return Path(done.stdout.strip()) if done.returncode == 0 else None


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process at a time; the lock goes with the process, whatever becomes of it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another process builds it; waiting")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(home: Path, python: Path) -> None:
    """Downloads, compiles and installs below a name of its own, then gives it the final one."""
    _check_tools()
    work = cache() / "build"
    shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
    work.mkdir()
    try:
        _say(f"downloading CPython {RELEASE} from Debian's mirror")
        archive = _download(work / "source.tar.xz")
        source, stage = work / "source", work / "stage"
        with tarfile.open(archive) as tar:
            tar.extraction_filter = getattr(tarfile, "data_filter", None)  # not in the first 3.10s and 3.11s
            tar.extractall(source)
        (top,) = source.iterdir()
        os.nice(10)  # from here on, and so for the compilers: somebody may be working on this machine
        _say(f"building CPython {RELEASE}t, once: about two minutes on two idle cores")
        _run("configure", ["./configure", f"--prefix={home}", *CONFIGURE], top)
        _run("make", ["make", "-s", f"-j{os.cpu_count() or 1}"], top)
        _run("make altinstall", ["make", "-s", "altinstall", f"DESTDIR={stage}"], top)
        installed = stage / home.relative_to(home.anchor)
        if not _tried(installed / python.relative_to(home)):
            raise Unavailable(
                f"no CPython {RELEASE}t: what was built lacks modules; see that {_packages()} are installed"
            )
        shutil.rmtree(home, ignore_errors=True)  # it does not run any more, or never did
        installed.rename(home)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check_tools() -> None:
    """Looks for what the build needs, so that it does not fail after minutes."""
    if not Path(APT_HELPER).exists():
        raise Unavailable("this system has no apt to download CPython's source by; put a python3.14t on PATH")
    missing = [package for program, package in PROGRAMS.items() if not shutil.which(program)]
    if not missing:
        for header, package in HEADERS.items():
            found = subprocess.run(["cc", "-E", "-"], input=f"#include <{header}>\n".encode(), capture_output=True)
            missing += [package] if found.returncode else []
    if missing:
        raise Unavailable(f"building CPython {RELEASE}t needs more: apt-get install {' '.join(missing)}")


def _packages() -> str:
    return ", ".join(HEADERS.values())


def _download(target: Path) -> Path:
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)"], capture_output=True, text=True, timeout=DEADLINE
    )
    mirrors = dict.fromkeys(listed.stdout.split())
    if not mirrors:
        raise Unavailable("apt knows no mirror to download CPython's source from: apt-get update")
    reason = ""
    for mirror in mirrors:  # security updates come from one of their own
        try:
            _run("the download", [APT_HELPER, "download-file", mirror + SOURCE, str(target), f"SHA256:{SHA256}"])
            return target
        except Unavailable as error:
            reason = reason or str(error)
    raise Unavailable(reason)


def _run(step: str, command: list[str], directory: Path | None = None, deadline: float = BUILD_DEADLINE) -> None:
    """Raises Unavailable where it fails. It ends with this process, and so does all that it started."""
    process = subprocess.Popen(
        command,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=deadline)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"no CPython {RELEASE}t: {step} did not end within {deadline:.0f} seconds") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode:
        said = [line.strip() for line in output.splitlines() if line.strip()]
        telling = [line for line in said if line.startswith("E: ")] or [line for line in said if "rror" in line]
        cause = (telling or said[-1:] or [f"exit {process.returncode}"])[0]
        raise Unavailable(f"no CPython {RELEASE}t: {step} failed: {cause}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)  # so that what has been started is ended and cleared away


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminated)
    try:
        print(interpreter())
    except Unavailable as error:
        _say(str(error))
        sys.exit(UNAVAILABLE)
