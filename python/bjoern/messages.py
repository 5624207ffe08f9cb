"""What the server says about itself: levels, and the two forms, text and JSON lines.

Knows: standard error, the process, and which worker it is.
Must not know: who has something to say.
Invariant: a message is one write, so that those of several processes do not mix.
"""

from __future__ import annotations

import os
import sys
from _thread import _local  # threading has it, too, and costs more

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

LEVELS = ("debug", "info", "warning", "error")

_least = LEVELS.index("info")
_json = False
_supervised = False
_worker: int | None = None


def configure(level: str, form: str) -> None:
    """Says what is to be written, and how; with "json" everything that this process writes to `sys.stderr` is JSON."""
    global _least, _json
    _least = LEVELS.index(level)
    if form == "json" and not _json and sys.stderr is not None:
        _json = True
        sys.stderr = _JsonLines(sys.stderr)


def identify(worker: int | None = None) -> None:
    """This is one of several processes, so its messages say which, and when."""
    global _supervised, _worker
    _supervised, _worker = True, worker


def debug(text: str, traceback: str = "") -> None:
    write("debug", text, traceback=traceback)


def info(text: str, traceback: str = "") -> None:
    write("info", text, traceback=traceback)


def warning(text: str, traceback: str = "") -> None:
    write("warning", text, traceback=traceback)


def error(text: str, traceback: str = "") -> None:
    write("error", text, traceback=traceback)


def write(level: str, text: str, *, bare: bool = False, traceback: str = "") -> None:
    """One message: a line, after the traceback where there is one. A `bare` one has nothing in front of it."""
    if LEVELS.index(level) < _least:
        return
    line = ("" if bare else _front(level)) + text + "\n"
    out = _record(level, text, traceback) if _json else traceback + line
    stream = sys.stderr.stream if isinstance(sys.stderr, _JsonLines) else sys.stderr
    try:
        stream.write(out)
        stream.flush()
    except (AttributeError, OSError, ValueError):  # None, broken, closed: nobody reads it
        pass


def _front(level: str) -> str:
    marked = "" if level == "info" else f"{level}: "
    if not _supervised:
        return f"bjoern: {marked}"
    import time

    who = f"bjoern[{os.getpid()}]" + ("" if _worker is None else f" worker {_worker}")
    return f"{time.strftime('%Y-%m-%d %H:%M:%S')} {who}: {marked}"


def _record(level: str, text: str, traceback: str = "") -> str:
    import json
    import time

    now = time.time()
    zone = time.strftime("%z", time.localtime(now))
    record: dict[str, Any] = {
        "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.localtime(now))}.{int(now * 1000) % 1000:03}{zone}",
        "level": level,
        "pid": os.getpid(),
    }
    if _worker is not None:
        record["worker"] = _worker
    record["message"] = text
    if traceback:
        record["traceback"] = traceback
    return json.dumps(record) + "\n"


class _JsonLines(_local):
    """Stands for `sys.stderr`, and makes each line written to it a record, and a traceback with its exception one.

    What is not a line yet is each thread's own: `print` writes the end of a line by itself, tracebacks line by line.
    """

    _line = ""
    _traceback = ""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if line.startswith("Traceback (") or (self._traceback and (not line or line[0] in " \t")):
                self._traceback += line + "\n"
            elif line or self._traceback:
                traceback, self._traceback = self._traceback, ""
                self.stream.write(_record("error", line, traceback + line + "\n" if traceback else ""))
                self.stream.flush()
        return len(text)

    def flush(self) -> None:
        """Makes a record of the line as far as it has come: at the end of a process it is not completed any more."""
        if self._line:
            self.write("\n")
        self.stream.flush()

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
