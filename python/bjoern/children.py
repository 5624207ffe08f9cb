"""Children: processes that the application forks while it is served. None of them is the server.

Knows: fork(2), what a child lets go of at once, and how one ends whose code comes back to the server's.
Must not know: sockets, signals, requests: who holds what a child must not have says so.
Invariant: what belongs to the server's own process (what is registered for its end, its files) a child leaves alone.
"""

from __future__ import annotations

import os
from _thread import get_ident

from . import exits, messages
from ._bjoern import note_fork

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, NoReturn

# What a child does at once, the last first.
_disowners: list[Callable[[], object]] = []
# The signals that a thread which is forking had blocked before.
_masks: dict[int, set[int]] = {}
# The thread that forks one of the server's own processes.
_forking: int | None = None


def disown_by(disown: Callable[[], object]) -> None:
    """Has `disown` called in each child that is forked from now on, but for the server's own; once a call."""
    _disowners.append(disown)


def disown_no_more(disown: Callable[[], object]) -> None:
    """There is nothing more that a child must not have."""
    if disown in _disowners:  # else this is a child
        _disowners.remove(disown)


def fork() -> int:
    """Forks one of the server's own processes, which keeps what there is."""
    global _forking
    _forking = get_ident()
    try:
        return os.fork()
    finally:
        _forking = None


def _forks() -> None:
    """Signals wait until the child has handlers of its own: the server's would take them for the server."""
    if _disowners:
        import signal

        _masks[get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def _has_forked() -> None:
    note_fork(True)
    _hear_signals()


def _is_forked() -> None:
    note_fork(False)
    disowners = _disowners[::-1]
    _disowners.clear()
    if _forking != get_ident():
        for disown in disowners:
            try:
                disown()
            except Exception:  # one that fails does not keep the others, or the child
                continue
    _hear_signals()


def _hear_signals() -> None:
    mask = _masks.pop(get_ident(), None)
    if mask is not None:
        import signal

        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


os.register_at_fork(before=_forks, after_in_parent=_has_forked, after_in_child=_is_forked)


def leave(raised: BaseException | None, environ: Mapping[str, Any] | None) -> NoReturn:
    """Ends a child, with the exit code that a program has that has returned, or `raised` this.

    `environ` is that of the request in which it was forked, if any. What is registered for the end is the parent's.
    """
    code = 1
    try:
        code = exits.code_of(raised)
        where = "a signal handler"
        if environ is not None:
            where = f"{environ.get('REQUEST_METHOD')} {ascii(environ.get('RAW_URI'))[1:-1]}"
        messages.warning(
            f"process {os.getpid()}, which the application forked in {where}, is not the server: "
            f"it ends with exit code {code}"
        )
    finally:
        exits.flush()
        os._exit(code)
