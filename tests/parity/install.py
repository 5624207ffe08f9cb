"""bjoern 3.2.2 in a virtual environment of its own, made once per CPython and kept below `.venv-parity/`.

Knows: PyPI by way of pip, what the build of 3.2.2 needs (a C compiler, Python's headers and libev's).
Must not know: what is compared.
Run as a program it prints the interpreter's path, or on standard error why there is none, and exits with 1.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

RELEASE = "3.2.2"
FOLDER = Path(__file__).parents[2] / ".venv-parity"
DEADLINE = 600.0  # seconds until making it counts as stuck
CHECK = f"""
import _bjoern
assert _bjoern.version == {tuple(map(int, RELEASE.split(".")))}, "another release"
assert not _bjoern.features["has_statsd"], "not the stock build"
"""
WAY_OUT = "it needs PyPI or pip's cache, a C compiler, Python's headers and libev's (Debian: libev-dev)"


class Unavailable(Exception):
    """bjoern 3.2.2 cannot be had here; the text says why."""


def interpreter() -> Path:
    """The interpreter that has bjoern 3.2.2, of the same CPython as this one; made where it is not there yet.

    Raises Unavailable where it cannot be made.
    """
    home = FOLDER / sys.implementation.cache_tag
    python = home / "bin" / "python"
    complete = home / ".complete"
    if not complete.exists():
        shutil.rmtree(home, ignore_errors=True)  # an earlier attempt that failed
        _run(sys.executable, "-m", "venv", str(home))
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--retries", "1", "--timeout", "15"]
        _run(*pip, "install", "--quiet", f"bjoern=={RELEASE}")
        _run(str(python), "-c", CHECK)
        complete.touch()
    return python


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False, env=_stock())
    except subprocess.TimeoutExpired:
        raise Unavailable(f"no bjoern {RELEASE}: {command[0]} did not end") from None
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or f"exit {done.returncode}").splitlines()[-1]
        raise Unavailable(f"no bjoern {RELEASE} ({last}): {WAY_OUT}")


def _stock() -> dict[str, str]:
    """The environment without what would change the build, such as BJOERN_WANT_STATSD."""
    return {name: value for name, value in os.environ.items() if not name.startswith("BJOERN_")}


if __name__ == "__main__":
    try:
        print(interpreter())
    except Unavailable as error:
        sys.exit(str(error))
