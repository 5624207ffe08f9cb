"""How a process ends: exit codes, what is registered for the end, the standard streams.

Knows: what an interpreter does at its end, and that a bjoern process ends without going through all of it.
Must not know: servers, signals, who ends.
"""

from __future__ import annotations

import sys

from . import messages


def code_of(raised: BaseException | None) -> int:
    """The exit code of a program that `raised` this, None: that returned. What Python would print of it is printed."""
    if raised is None:
        return 0
    if isinstance(raised, SystemExit):
        if raised.code is None or isinstance(raised.code, int):
            return (raised.code or 0) & 0xFF
        print(raised.code, file=sys.stderr)
        return 1
    sys.excepthook(type(raised), raised, raised.__traceback__)
    return 130 if isinstance(raised, KeyboardInterrupt) else 1


def run_exit_functions() -> None:
    """Waits for threads that are no daemons, and runs what is registered with atexit, as an interpreter does first."""
    try:
        threading = sys.modules.get("threading")
        if threading is not None:
            threading._shutdown()
        import atexit

        atexit._run_exitfuncs()
    except BaseException as error:
        report(error)


def report(error: BaseException) -> None:
    """Says what has been raised, with its traceback."""
    import traceback

    details = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    messages.error(f"{type(error).__name__}: {error}", traceback=details)


def flush() -> None:
    """Writes what waits in the standard streams."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):  # None, broken, closed: nobody reads it
            continue
