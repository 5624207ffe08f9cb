"""Changes of files, while an application is developed.

Knows: modification times, sizes, folders.
Must not know: what is done about a change.
There is no inotify in the standard library: to look at a thousand files takes a few milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import stat

from . import messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

Stamp = tuple[int, int, int] | None  # None: there is no such file

# Folders nobody edits by hand; to look into them would take the time that a restart has.
_SKIPPED = {"__pycache__", ".git", ".hg", ".svn", "node_modules", ".venv", ".tox", ".mypy_cache", ".pytest_cache"}
# What vim and Emacs keep beside a file that is open.
_SCRATCH = ("~", ".swp", ".swx", ".swo", "4913", "#")


class Watch:
    """Files, and folders with all that is in them, since the last look."""

    def __init__(self, include: Iterable[str] = ()) -> None:
        self._files: dict[str, Stamp] = {}
        self._include = [os.path.abspath(path) for path in include]
        self._missing: set[str] = set()  # not there at the last look: an editor may be about to put it back
        self.add(path for path in self._include if not os.path.isdir(path))
        for path in self._include:
            if not os.path.exists(path):
                messages.warning(f"{path} is to be watched, but there is no such file or folder yet")
        self._inside = self._look_inside()

    def add(self, paths: Iterable[str]) -> None:
        for path in paths:
            if path not in self._files:
                self._files[path] = _stamp(path)

    def changed(self) -> str | None:
        """A path that has changed since the last look, None where none has."""
        found = None
        for path, before in self._files.items():
            now = _stamp(path)
            if now == before:
                self._missing.discard(path)
            elif now is None and path not in self._missing:
                self._missing.add(path)
            else:
                self._files[path] = now
                self._missing.discard(path)
                _forget_bytecode(path)
                found = path
        if self._include:
            inside = self._look_inside()
            if inside != self._inside:
                different = dict(inside.items() ^ self._inside.items())
                self._inside = inside
                for path in different:
                    _forget_bytecode(path)
                found = found or min(different)
        return found

    def _look_inside(self) -> dict[str, Stamp]:
        stamps = {}
        for top in self._include:  # a file yields nothing, and what was none may be a folder by now
            for folder, folders, files in os.walk(top):
                folders[:] = [name for name in folders if name not in _SKIPPED]
                for name in files:
                    if name.endswith(_SCRATCH) or name.startswith(".#"):
                        continue
                    path = os.path.join(folder, name)
                    stamps[path] = _stamp(path)
        return stamps


def _stamp(path: str) -> Stamp:
    try:
        status = os.stat(path)
    except OSError:
        return None
    if stat.S_ISDIR(status.st_mode):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _forget_bytecode(path: str) -> None:
    """Python takes compiled code for fresh where the source has its size and its second; saving twice is that quick."""
    if not path.endswith(".py"):
        return
    from importlib.util import cache_from_source

    with contextlib.suppress(OSError, NotImplementedError, ValueError):
        os.unlink(cache_from_source(path))
