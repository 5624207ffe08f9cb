"""Pid files: which process a service is.

Knows: the file, and whether a process lives.
Must not know: what the process does.
Invariant: the file of a live process is never replaced, and only that of this process is removed.
"""

from __future__ import annotations

import errno
import os
import stat


class PidFile:
    """The file at `path`, which holds this process's id from `write()` to `remove()`."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)  # the working directory may change

    def check(self) -> None:
        """Raises FileExistsError where the file is that of another process that lives, or no pid file at all."""
        try:
            if not stat.S_ISREG(os.stat(self.path).st_mode):  # to open it may wait, and to replace it does harm
                raise FileExistsError(errno.EEXIST, "not a regular file: choose another pid file", self.path)
            with open(self.path, encoding="ascii", errors="replace") as file:
                text = file.read(64).strip()
        except FileNotFoundError:
            return
        if not text or (text.isdigit() and not _lives(int(text))):
            return  # left behind
        if text.isdigit():
            reason = f"process {text} has it, and runs: stop that one, or choose another pid file"
        else:
            reason = "no pid file, but something else: remove it, or choose another one"
        raise FileExistsError(errno.EEXIST, reason, self.path)

    def write(self) -> None:
        """Writes it, in one step. Raises OSError, as `check` does where it must not be replaced."""
        self.check()
        scratch = f"{self.path}.{os.getpid()}"
        try:
            with open(scratch, "w", encoding="ascii") as file:
                file.write(f"{os.getpid()}\n")
            os.replace(scratch, self.path)
        except OSError as error:
            if os.path.exists(scratch):
                os.unlink(scratch)
            raise OSError(error.errno, error.strerror, self.path) from None

    def remove(self) -> None:
        """Removes it, unless it is another's by now."""
        try:
            with open(self.path, encoding="ascii") as file:
                if file.read(64).strip() != str(os.getpid()):
                    return
            os.unlink(self.path)
        except (OSError, ValueError):
            pass


def _lives(pid: int) -> bool:
    if pid in (0, os.getpid()):  # as after the restart of a container
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
