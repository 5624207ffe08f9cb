"""Signals while serving: SIGINT and SIGTERM drain the server, then do what they would have done without it.

Knows: Python's signal handlers and their wakeup descriptor.
Must not know: sockets, HTTP, the engine; it is given a function that stops the server.
Invariant: nothing is installed outside the main thread, and everything is put back, unless replaced meanwhile; in a
process that the application forks at once.
Which thread that is, `signal` tells by refusing: `threading` takes the one that imports it first for the main thread.
"""

from __future__ import annotations

import _thread  # threading is made of it, and costs more
import contextlib
import os
import signal
import time

from . import children, exits, messages
from ._bjoern import SignalHandler, signal_handler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType
    from typing import Any

_MARGIN = 1.0  # seconds for the process's end, beyond what the requests have

Outcome = BaseException | int | None  # raise it; die of it; return


class ShutdownSignals:
    """A context in which SIGINT and SIGTERM call `stop(graceful)`, and at whose end they take effect.

    SIGINT always stops. At the end the previous handler decides: what it raised is raised (Python's own handler
    raises KeyboardInterrupt), SIG_DFL kills the process, SIG_IGN lets it go on.
    SIGTERM stops where its disposition is SIG_DFL or a Python handler that raises; such a handler's exception is raised
    at the end, SIG_DFL kills the process. A handler that returns leaves the server running.
    Handlers run at once, but what they raise waits for the end: no request is interrupted.
    The second signal of a kind stops without grace; the second SIGINT also raises KeyboardInterrupt on the spot,
    which frees an application that hangs in Python code.
    """

    def __init__(self, stop: Callable[[bool], None], graceful_timeout: float) -> None:
        self._stop, self._graceful_timeout = stop, graceful_timeout
        self._begun: float | None = None  # when the drain began
        self._handler = SignalHandler(self._received)
        self._process = os.getpid()
        self._previous: dict[int, Any] = {}
        self._wakeup: tuple[int, int] | None = None  # ours, the previous
        self._draining: set[int] = set()
        self._stopped_at_once = False
        self._outcome: Outcome = None
        self._forced: KeyboardInterrupt | None = None
        self._undecided: tuple[int, FrameType | None] | None = None  # received, and not yet decided upon

    def __enter__(self) -> ShutdownSignals:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous = signal.getsignal(number)
            if previous is _end_at_once:
                previous = signal.SIG_DFL
            ignored = previous is signal.SIG_IGN and number != signal.SIGINT
            if previous is not None and not ignored:  # None: a handler that is not Python's cannot be put back
                self._previous[number] = previous  # before the first signal
                try:
                    signal.signal(number, self._handler)
                except ValueError:  # not the main thread
                    del self._previous[number]
        children.disown_by(self._restore)
        return self

    def wake(self, descriptor: int) -> None:
        """Has a byte written to the descriptor at every signal, so that a sleeping loop runs its handler at once."""
        with contextlib.suppress(ValueError):  # not the main thread
            self._wakeup = descriptor, signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)

    def _rearm(self) -> None:
        """Sets our wakeup descriptor again where there is none, as asyncio leaves it: a later signal is to be heard."""
        if self._wakeup is not None:
            current = signal.set_wakeup_fd(self._wakeup[0], warn_on_full_buffer=False)
            if current not in (-1, self._wakeup[0]):  # the application's
                signal.set_wakeup_fd(current)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        children.disown_no_more(self._restore)
        self._restore()
        self._decide()  # where a second signal came before the first one's handler could run
        if error is not None and error is not self._forced:
            return False
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        if self._outcome is not None:
            self._die(self._outcome)
        return True

    @property
    def fatal(self) -> list[int]:
        """The signals that end the process whatever the application does: their handlers decide nothing else."""
        ends = (signal.SIG_DFL, signal.default_int_handler)
        return [number for number, previous in self._previous.items() if previous in ends]

    def force(self, unheard: int = 0) -> None:
        """Ends the process as the signal would that has been received, if one has: the main thread cannot.

        `unheard`: one whose handler could not run. Not where the main thread has been interrupted: it ends by itself,
        or another signal comes.
        """
        number = min(self._draining, default=unheard)
        if not number or self._forced is not None:
            return
        exits.flush()
        os._exit(128 + number)

    def _received(self, number: int, frame: FrameType | None) -> None:
        previous = self._previous[number]
        self._rearm()
        if os.getpid() != self._process:  # one that was forked without Python's knowledge: the signal is not ours
            signal.signal(number, previous)
            signal.raise_signal(number)
        elif number in self._draining:
            self._stopped_at_once = True
            self._stop(False)
            if number == signal.SIGINT:
                self._forced = KeyboardInterrupt()
                raise self._forced
        else:
            self._undecided = number, frame
            if number == signal.SIGINT:
                self._drain(number)
            self._decide()

    def _decide(self) -> None:
        """Asks the disposition that the signal had before what is to become of it."""
        if self._undecided is None:
            return
        (number, frame), self._undecided = self._undecided, None
        previous = self._previous[number]
        if previous is signal.SIG_DFL:
            self._drain(number, number)
        elif callable(previous):
            try:
                previous(number, frame)
            except BaseException as error:
                if error is self._forced:  # the second signal came while the first one's handler ran
                    raise
                self._drain(number, error)

    def _drain(self, number: int, outcome: Outcome = None) -> None:
        """Starts the drain for a signal; the first outcome is the one that counts."""
        self._draining.add(number)
        if self._begun is None:
            self._begun = time.monotonic()
        if self._outcome is None:
            self._outcome = outcome
        self._stop(True)

    def _die(self, number: int) -> None:
        """Ends the process as killed by the signal, whose disposition is the default, once what is registered has run.

        That has what is left of `graceful_timeout`, and a second, as in a worker. Another signal ends it at once.
        """
        begun = self._begun or time.monotonic()
        left = max(0.0, begun + self._graceful_timeout - time.monotonic()) + _MARGIN
        if self._stopped_at_once:
            left = _MARGIN
        with contextlib.suppress(RuntimeError, MemoryError):  # no thread can be started: then there is no limit
            _thread.start_new_thread(_die_after, (left, number))
        exits.run_exit_functions()
        _die_now(number)

    def _restore(self) -> None:
        if self._wakeup is not None:
            (ours, previous), self._wakeup = self._wakeup, None
            current = signal.set_wakeup_fd(-1)
            signal.set_wakeup_fd(previous if current == ours else current)
        for number, handler in self._previous.items():
            if signal.getsignal(number) is self._handler:
                signal.signal(number, handler)


def is_default(number: int) -> bool:
    """Whether a signal is left to its default: by Python, and by libraries in C, as faulthandler is one."""
    return signal.getsignal(number) is signal.SIG_DFL and signal_handler(number) == 0


def heed_early() -> None:
    """Has SIGTERM end process 1 of a container, which the kernel spares the default, until a server heeds it."""
    if os.getpid() == 1 and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end_at_once)


def _end_at_once(number: int, frame: FrameType | None) -> None:
    exits.flush()
    os._exit(128 + number)


def _die_now(number: int) -> None:
    exits.flush()
    signal.raise_signal(number)
    # Still here: the signal is blocked, or this is process 1 of a container, which the kernel spares.
    raise SystemExit(128 + number)


def _die_after(seconds: float, number: int) -> None:
    time.sleep(seconds)
    messages.warning(
        "ended though threads or atexit functions were still at work: it took longer than graceful_timeout"
    )
    try:
        _die_now(number)
    finally:
        os._exit(128 + number)
