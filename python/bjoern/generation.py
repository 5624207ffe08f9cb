"""A generation: a process that has the application of one moment, and forks its workers; and what a worker is.

Knows: what a supervisor orders, fork(2), the application, the signals of a worker.
Must not know: how many workers there should be, or why one ends.
Invariant: a generation runs no thread and serves no request; a worker ends when its supervisor is gone.

The supervisor never imports the application, so that it can outlive it: new code is a new generation in a fresh
interpreter. The two talk by JSON over a socket that keeps messages apart, and so do the supervisor and each worker.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import sys
from copy import copy

from . import children, exits, messages
from ._bjoern import Engine, signal_handler
from .board import Board
from .options import HANDOVER, Options
from .server import Server, check_access_log
from .signals import is_default

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import FrameType
    from typing import Any, NoReturn

    from _typeshed.wsgi import WSGIApplication

    from .privileges import Identity

EXIT_APP = 4

# Has a worker that hangs write the stacks of its threads, before it is killed. faulthandler takes none of the signals
# that stand for a crash; no application is expected to have its own idea of this one.
HANGS = signal.SIGXCPU

MESSAGE_BYTES = 65536  # the longest message
_FILES_AT_ONCE = 100
_CLOSED_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

# Those a worker or a generation hears of. A handler for each, so that none kills it, and a program started by the
# application does not inherit that it is ignored.
_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGCHLD,
)


class Channel:
    """One end of a socket pair that keeps messages apart, and carries descriptors."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        sock.setblocking(False)

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(one), cls(other)

    def send(self, descriptors: Sequence[int] = (), **message: Any) -> None:
        """Sends a message; one to a peer that is gone, or does not listen, is lost: its end is heard of otherwise."""
        import json

        data = json.dumps(message).encode()
        with contextlib.suppress(OSError):
            socket.send_fds(self.socket, [data], list(descriptors))

    def receive(self) -> tuple[dict[str, Any] | None, list[int]]:
        """The next message and its descriptors; {} where there is none yet, None at the end.

        What is no message is passed over: a stranger has sent it, or it was cut.
        """
        import json

        while True:
            try:
                # No program that the application starts may inherit them, be it at this very moment.
                data, descriptors, _, _ = socket.recv_fds(self.socket, MESSAGE_BYTES, 1, _CLOSED_ON_EXEC)
            except BlockingIOError:
                return {}, []
            except OSError:
                return None, []
            for descriptor in descriptors:
                os.set_inheritable(descriptor, False)
            if not data and self._has_ended():
                return None, []
            with contextlib.suppress(ValueError, RecursionError):
                message = json.loads(data)
                if isinstance(message, dict) and message:
                    return message, descriptors
            for descriptor in descriptors:
                os.close(descriptor)

    def _has_ended(self) -> bool:
        """Whether the peer sends nothing more; one that sends an empty message looks alike."""
        poll = select.poll()
        poll.register(self.socket, select.POLLRDHUP)
        return bool(poll.poll(0))

    def messages(self) -> list[dict[str, Any] | None]:
        """All that have come by now; None is the end."""
        found: list[dict[str, Any] | None] = []
        while True:
            message, descriptors = self.receive()
            for descriptor in descriptors:
                os.close(descriptor)
            if message == {}:
                return found
            found.append(message)
            if message is None:
                return found

    def fileno(self) -> int:
        return self.socket.fileno()

    def close(self) -> None:
        self.socket.close()


class Handover:
    """What a generation gets from its supervisor: a channel, the board's memory, and the sockets that listen."""

    def __init__(self, control: int, board: int, listening: Sequence[int]) -> None:
        self.control, self.board, self.listening = control, board, list(listening)

    @classmethod
    def taken(cls) -> Handover | None:
        """The one this process was started with. Once: none of its children is a generation."""
        pid, *numbers = os.environ.pop(HANDOVER, "").split() or [""]
        if pid != str(os.getpid()):
            return None
        control, board, *listening = map(int, numbers)
        for descriptor in (control, board, *listening):
            os.set_inheritable(descriptor, False)
        return cls(control, board, listening)

    def given(self) -> dict[str, str]:
        """The variable for this process, which is about to become a generation; the descriptors are passed on."""
        numbers = (self.control, self.board, *self.listening)
        for descriptor in numbers:
            os.set_inheritable(descriptor, True)
        return {HANDOVER: " ".join(map(str, (os.getpid(), *numbers)))}


class Generation:
    """The process in which the application is imported, if it is, and from which workers are forked."""

    def __init__(
        self,
        load: Callable[[], WSGIApplication],  # raises loader.LoadError
        options: Options,
        identity: Identity,
        handover: Handover,
    ) -> None:
        self._load, self._options, self._identity, self._handover = load, options, identity, handover
        self._control = Channel(socket.socket(fileno=handover.control))
        self._sockets = [socket.socket(fileno=descriptor) for descriptor in handover.listening]
        self._board = Board(handover.board)
        self._app: WSGIApplication | None = None
        self._workers: dict[int, int] = {}  # their numbers, by process
        self._handlers: dict[int, Any] = {}  # as the program had them

    def run(self) -> NoReturn:
        """Serves its supervisor until that is gone or has no more use for it; ends the process."""
        code = 1
        try:
            messages.identify()
            code = self._run()
        except BaseException as error:
            exits.report(error)
        finally:
            exits.flush()
            os._exit(code)

    def _run(self) -> int:
        heard, woken = socket.socketpair()
        heard.setblocking(False)
        woken.setblocking(False)
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            if handler is not None and (handler is not signal.SIG_DFL or is_default(number)):
                self._handlers[number] = handler
                signal.signal(number, _heard)
        pythons_own = signal_handler(next(iter(self._handlers)))
        signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
        children.disown_by(lambda: self._disown((heard, woken)))
        self._identity.assume()
        if not self._prepare():
            return EXIT_APP
        signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)  # again: asyncio takes it away
        for caught in list(self._handlers):
            handler = signal.getsignal(caught)
            if handler is _heard and signal_handler(caught) != pythons_own and caught != signal.SIGCHLD:
                del self._handlers[caught]  # one in C (faulthandler): left alone here, and in the workers
            elif handler not in (None, _heard):  # the application's own: for the workers
                self._handlers[caught] = handler
                signal.signal(caught, _heard)
        signal.signal(signal.SIGCHLD, _heard)  # whoever has it: workers that end must be heard of
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(heard, select.POLLIN)
        while True:
            poll.poll()
            with contextlib.suppress(BlockingIOError):
                while heard.recv(4096):
                    pass
            self._reap()
            while True:
                message, descriptors = self._control.receive()
                if message is None:
                    return 0  # the workers' channels end as well
                if not message:
                    break
                self._obey(message, descriptors, (heard, woken))

    def _prepare(self) -> bool:
        """Imports the application where that is done before the fork, and tells how that went."""
        if self._options.preload:
            from .loader import LoadError

            try:
                self._app = self._load()
            except LoadError as error:
                messages.error(str(error), traceback=error.details)
                self._send_files(_imported_files() | _files_of(error))
                self._control.send(failed=str(error), code=EXIT_APP)
                return False
            if threads := _threads():
                messages.warning(
                    f"importing the application started {threads}, which the workers do not have after the fork: "
                    "start them later, or use --no-preload"
                )
        self._send_files(_imported_files())
        import gc

        gc.collect()
        gc.freeze()  # a collector that looks at an object writes to it, and so unshares its page
        self._control.send(loaded=_told(self._options))
        return True

    def _send_files(self, files: set[str]) -> None:
        if self._options.reload:
            send_files(self._control, files)

    def _obey(self, order: Mapping[str, Any], descriptors: list[int], own: Sequence[socket.socket]) -> None:
        if "fork" in order:
            self._fork(order["fork"], Channel(socket.socket(fileno=descriptors[0])), own)
        elif "signal" in order:
            for process, number in self._workers.items():
                if number == order["worker"]:
                    os.kill(process, order["signal"])
        elif "close" in order:
            for sock in self._sockets:
                sock.close()

    def _fork(self, number: int, channel: Channel, own: Sequence[socket.socket]) -> None:
        exits.flush()
        # What is sent to a worker before it has handlers of its own must not be lost.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            process = children.fork()
        except OSError as error:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            messages.error(f"cannot fork worker {number}: {error.strerror}")
            channel.close()
            self._control.send(ended=number, status=None)
            return
        if process == 0:
            code = 1
            try:
                self._let_go(own)
                code = _Worker(number, channel, self).run(before)
            except SystemExit as ending:
                code = exits.code_of(ending)
            except KeyboardInterrupt:
                code = 130
            except BaseException as error:
                exits.report(error)
            finally:
                _leave(code)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        channel.close()
        self._workers[process] = number
        self._control.send(forked=number, pid=process)

    def _let_go(self, own: Sequence[socket.socket]) -> None:
        """What a child must not have of it, be it a worker or not."""
        signal.set_wakeup_fd(-1)
        for one in own:
            one.close()
        self._control.close()
        for number, handler in self._handlers.items():
            if signal.getsignal(number) is _heard:  # else it is the application's
                signal.signal(number, handler)

    def _disown(self, own: Sequence[socket.socket]) -> None:
        """In a child that the application has forked while it was imported."""
        for sock in self._sockets:
            sock.close()
        self._let_go(own)

    def _reap(self) -> None:
        for process in list(self._workers):
            try:
                ended, status = os.waitpid(process, os.WNOHANG)
            except ChildProcessError:  # the application took it
                ended, status = process, 0
            if ended:
                self._control.send(ended=self._workers.pop(process), status=status)


class _Worker:
    """What a worker does after its fork: it has the application, and serves until told to end or left alone."""

    def __init__(self, number: int, channel: Channel, generation: Generation) -> None:
        self._number, self._channel = number, channel
        self._load, self._app, self._options = generation._load, generation._app, generation._options
        self._sockets, self._board = generation._sockets, generation._board
        self._server: _WorkerServer | None = None
        self._leaves = False
        self._handlers: dict[int, Any] = {}  # its own, for the supervisor's signals

    def run(self, mask: set[Any]) -> int:
        try:
            return self._run(mask)
        finally:  # what the application does at its end is not cut short
            self._leaves = True
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                signal.signal(signal.SIGINT, _heard)

    def _run(self, mask: set[Any]) -> int:
        messages.identify(self._number)
        children.disown_by(self._disown)
        self._hear_signals()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if self._app is None:
            from .loader import LoadError

            try:
                self._app = self._load()
            except LoadError as error:
                messages.error(str(error), traceback=error.details)
                if self._options.reload:
                    send_files(self._channel, _imported_files() | _files_of(error))
                return EXIT_APP
        if self._options.reload:
            import _thread

            _thread.start_new_thread(self._tell_files, ())
        if self._options.worker_timeout:
            import faulthandler

            with contextlib.suppress(OSError, ValueError, RuntimeError, AttributeError):  # no stderr to write to
                faulthandler.register(HANGS, all_threads=True)
        try:
            self._server = _WorkerServer(
                self._app, self._sockets, self._options, self._channel, self._board, self._number
            )
        except OSError as error:  # the access log: the supervisor could open it, and this user cannot
            messages.error(f"{error.filename}: {error.strerror}")
            return 1
        try:
            answers = signal.getsignal(signal.SIGIO) == self._look_at_channel  # or the application has that signal
            self._server.run(ready=lambda: self._channel.send(ready=True, answers=answers))
        except KeyboardInterrupt:
            return 0
        return 0

    def _hear_signals(self) -> None:
        """Signals of the supervisor, where the application has not its own idea of them."""
        ours: dict[int, Callable[[int, FrameType | None], Any]] = {
            signal.SIGTERM: self._end,  # so that what it registered for its end is run
            signal.SIGQUIT: self._stop_at_once,
            signal.SIGHUP: _heard,
            signal.SIGUSR1: self._reopen_logs,
            signal.SIGUSR2: _heard,
            signal.SIGIO: self._look_at_channel,
        }
        for number, handler in ours.items():
            if is_default(number):
                signal.signal(number, handler)
                self._handlers[number] = handler
        # The end of the channel is the end of the supervisor, however it came, or its word that this worker is to end.
        # It arrives as SIGIO: no thread has to wait for it.
        descriptor = self._channel.fileno()
        fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_ASYNC)
        self._look_at_channel()  # it may be over by now

    def _disown(self) -> None:
        """In a child that the application has forked: it neither speaks to the supervisor nor is spoken to."""
        self._channel.close()
        for sock in self._sockets:
            sock.close()
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == handler:
                signal.signal(number, signal.SIG_DFL)

    def _look_at_channel(self, number: int = 0, frame: FrameType | None = None) -> None:
        for message in self._channel.messages():
            if message is not None:  # whether it lives
                self._channel.send(lives=True)
            elif self._server is None:
                raise SystemExit(0)
            else:
                self._server.stop()

    def _end(self, number: int, frame: FrameType | None) -> None:
        if not self._leaves and (self._server is None or not self._server.drains):
            raise SystemExit(0)

    def _stop_at_once(self, number: int, frame: FrameType | None) -> None:
        if self._server is None:
            raise SystemExit(0)
        self._server.stop(False)

    def _reopen_logs(self, number: int, frame: FrameType | None) -> None:
        if self._server is not None:
            try:
                self._server.reopen_logs()
            except OSError as error:
                messages.error(f"{error.filename}: {error.strerror}; the one before is written to")

    def _tell_files(self) -> None:
        """Tells what the application imports later, while it is developed."""
        import time

        known = len(sys.modules)
        send_files(self._channel, _imported_files())
        while True:
            time.sleep(0.2)
            if len(sys.modules) != known:
                known = len(sys.modules)
                send_files(self._channel, _imported_files())


class _WorkerServer(Server):
    """A worker's server: it tells its supervisor when it begins to end, and has a line on the board."""

    def __init__(
        self,
        app: WSGIApplication,
        sockets: Sequence[socket.socket],
        options: Options,
        channel: Channel,
        board: Board,
        number: int,
    ) -> None:
        # Not `super().__init__`: all has been checked before the fork, and what a worker runs or reads it unshares.
        check_access_log(options.access_log)  # as the user that a worker runs as
        self._prepare(app, copy(options), [], tuple(sockets))
        self._channel, self._board, self._number = channel, board, number
        self.drains = False

    def _make_engine(self, listening: list[int], unfinished: Callable[[list[str], int], object]) -> Engine:
        board = self._board.memory if self._number <= len(self._board) else None
        return Engine(
            self._app, listening, self.options, self.close, unfinished, board, self._number - 1, self._add_thread
        )

    def close(self) -> None:
        super().close()
        for sock in self.sockets:  # those of this process: while they are open, the system would queue connections
            assert isinstance(sock, socket.socket)
            sock.close()
        if not self.drains:
            self.drains = True
            self._channel.send(draining=True)


def send_files(channel: Channel, files: set[str]) -> None:
    """Tells which files a restart depends on."""
    names = sorted(files)
    for start in range(0, len(names), _FILES_AT_ONCE):
        for _ in range(1000):  # the supervisor reads in time, or has gone
            try:
                import json

                channel.socket.send(json.dumps({"files": names[start : start + _FILES_AT_ONCE]}).encode())
                break
            except BlockingIOError:
                select.select([], [channel.socket], [], 1.0)
            except OSError:
                return


def _imported_files() -> set[str]:
    """The source files of all modules that are no part of Python itself."""
    own = os.path.dirname(os.__file__) + os.sep
    files = set()
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str) and (not path.startswith(own) or "site-packages" in path or "dist-packages" in path):
            files.add(os.path.abspath(path))
    return files


def _files_of(error: BaseException) -> set[str]:
    """The files that an error of importing speaks of: the one with the wrong syntax was never a module."""
    files: set[str] = set()
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, SyntaxError) and link.filename:
            files.add(os.path.abspath(link.filename))
        trace = link.__traceback__
        while trace is not None:
            name = trace.tb_frame.f_code.co_filename
            if not name.startswith("<"):
                files.add(os.path.abspath(name))
            trace = trace.tb_next
        link = link.__cause__ or link.__context__
    return files


def _told(options: Options) -> dict[str, Any]:
    """The options a supervisor goes by: those of the newest generation."""
    return {
        name: getattr(options, name)
        for name in ("max_rss", "worker_timeout", "graceful_timeout", "reload", "reload_include")
    } | {"workers": max(options.watched, 1)}


def _threads() -> str:
    """How many threads there are beside this one, in words, "" for none."""
    threading = sys.modules.get("threading")
    count = threading.active_count() - 1 if threading else 0
    return "" if count < 1 else "1 thread" if count == 1 else f"{count} threads"


def _heard(number: int, frame: FrameType | None) -> None:
    """A handler that does nothing: the signal is for somebody else, or the loop looks by itself."""


def _leave(code: int) -> NoReturn:
    """Ends a worker as an interpreter ends, but without going back through the program that forked it."""
    exits.run_exit_functions()
    exits.flush()
    os._exit(code)
