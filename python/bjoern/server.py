"""A server: an application, the sockets it listens on, and the engine between them.

Knows: the order of things: bind, run, stop, clear away.
Must not know: HTTP, WSGI, how options are read, what a signal does.
Invariant: it closes the sockets it opened and none that it was given.
"""

from __future__ import annotations

import os
import sys
from _thread import allocate_lock, get_ident

from . import addresses, children, messages
from ._bjoern import Engine
from .addresses import Address, TcpAddress
from .options import Options, drawn
from .sockets import DEFAULT_LISTEN_BACKLOG, Listener, bind_all, descriptor

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Any

    from _typeshed.wsgi import WSGIApplication

    from .signals import ShutdownSignals
    from .sockets import SocketLike

DEFAULT_ADDRESS = TcpAddress("127.0.0.1", 8000)

Bind = str | Address


class Server:
    """A WSGI server (PEP 3333) for one application, listening from the moment it is made.

    `bind` is an address or a list of them: "HOST:PORT" (port 0: a free one), "[IPV6]:PORT", "unix:/PATH",
    "unix:@NAME", "fd://N". `sockets` are sockets or descriptors that listen already; they stay the caller's.
    `reuse_port` and `backlog` (connections) are those of bind(2) and listen(2); the rest are fields of `Options`.

    Raises TypeError where the application is not callable or an option does not exist, ValueError where an option
    or address is malformed, OSError where an address cannot be bound, or the access log not opened; then none is bound.

    `with Server(app, "127.0.0.1:0") as server:` serves in a background thread until the block ends.
    """

    def __init__(
        self,
        app: WSGIApplication,
        bind: Bind | Sequence[Bind] | None = None,
        *,
        sockets: Sequence[SocketLike] | None = None,
        reuse_port: bool = False,
        backlog: int = DEFAULT_LISTEN_BACKLOG,
        **options: Any,
    ) -> None:
        check_callable(app)
        if bind is not None and sockets is not None:
            raise ValueError("bind and sockets exclude each other: give the addresses, or sockets that listen")
        resolved = Options.resolve("Server", options)
        pin_access_log(resolved)
        check_access_log(resolved.access_log)
        listeners = [] if sockets is not None else bind_all(_parsed(bind), reuse_port=reuse_port, backlog=backlog)
        given = tuple((listener.socket for listener in listeners) if sockets is None else sockets)
        if not given:
            raise ValueError("no address to listen on: give at least one")
        self._prepare(app, resolved, listeners, given)

    def _prepare(
        self,
        app: WSGIApplication,
        options: Options,
        listeners: list[Listener],
        sockets: tuple[SocketLike, ...],
    ) -> None:
        """What a server is made of once all has been checked."""
        self.options = options
        vars(self.options)["max_requests"] = drawn(self.options.max_requests)  # the number that this server has
        self._app = app
        self.listeners = listeners
        self.sockets = sockets
        self.addresses = tuple(_address_of(sock) for sock in self.sockets)
        self._engine: Engine | None = None
        self._added = 0  # threads, by _add_thread
        self._spares: dict[int, threading.Thread] = {}  # those of them that may still run
        self._process: int | None = None  # the one that serves: what it forks is not the server
        self._listening: list[tuple[int, tuple[int, int]]] = []  # the engine's descriptors, and which sockets they are
        self._turn = allocate_lock()  # taken by the one call of run()
        self._thread_id: int | None = None  # the one that runs the application, where there is one only
        self._stats: dict[str, int] = {}
        self._stop: bool | None = None  # graceful or not, once asked for
        self._thread: threading.Thread | None = None
        self._over: threading.Event | None = None  # set when `_thread` has nothing more to do, or will not come back
        self._returned = False
        self._failure: BaseException | None = None

    @property
    def url(self) -> str:
        """The first address as a URL, or as "unix:/PATH"."""
        return url_of(self.addresses[0])

    def run(self, ready: Callable[[], object] | None = None) -> None:
        """Serves until stopped, then finishes the requests at hand; to be called once.

        `ready` is called just before it serves: from then on signals stop it as they should.
        In the main thread it heeds signals, see `bjoern.signals.ShutdownSignals`: KeyboardInterrupt after SIGINT,
        death by SIGTERM. Raises, after the drain, what a signal handler of yours or, as SystemExit or
        KeyboardInterrupt, the application raised; RuntimeError when called again.
        """
        if not self._turn.acquire(blocking=False):
            raise RuntimeError("a server runs once; make a new Server to serve again")
        # Imported after binding: a client that tries while modules are read finds a socket that listens.
        from .signals import ShutdownSignals

        self._process = os.getpid()
        with ShutdownSignals(self.stop, self.options.graceful_timeout) as signals:
            children.disown_by(self._disown)
            try:
                # The engine is made here, not in __init__: listen, fork, run is a pattern of bjoern 3.
                listening = [descriptor(sock) for sock in self.sockets]
                engine = self._make_engine(listening, lambda left, signal: self._unfinished(signals, left, signal))
                signals.wake(engine.wakeup_fd)
                self._listening = [(number, _identity(number)) for number in engine.listening]
                self._engine = engine
                if self._stop is not None:
                    self.stop(self._stop)
                if ready is not None:
                    ready()
                engine.begin(signals.fatal)  # before any thread could be stuck
                if self.options.threads == 1:
                    self._thread_id = get_ident()
                    engine.run()
                else:
                    self._run_crew(engine)
            finally:
                children.disown_no_more(self._disown)
                self.close()
                if self._engine is not None:  # its descriptors go with it
                    if not self._engine.at_work:
                        for thread in list(self._spares.values()):
                            thread.join()
                    self._stats, self._engine = self._engine.stats(), None

    def _make_engine(self, listening: list[int], unfinished: Callable[[list[str], int], object]) -> Engine:
        return Engine(self._app, listening, self.options, self.close, unfinished, add_thread=self._add_thread)

    def _add_thread(self) -> bool:
        """One more thread for the engine, since one waits for its client. Whether there is one."""
        import threading

        engine = self._engine
        if engine is None:
            return False
        self._added += 1
        name = f"bjoern-{self.options.threads + self._added}"
        thread = threading.Thread(target=engine.work, name=name, daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError):  # the system has no more: the stream keeps its turn while it waits
            return False
        for number, other in list(self._spares.items()):
            if not other.is_alive():
                self._spares.pop(number, None)
        self._spares[id(thread)] = thread
        return True

    def _run_crew(self, engine: Engine) -> None:
        """Serves by several threads, while this one hears signals."""
        import threading

        wanted = self.options.threads
        # Daemons: a call that never comes back must not keep the process from ending.
        crew = [threading.Thread(target=engine.work, name=f"bjoern-{n}", daemon=True) for n in range(1, wanted + 1)]
        for started, thread in enumerate(crew):
            try:
                thread.start()
            except (RuntimeError, MemoryError) as error:
                engine.stop(False)
                for one in crew[:started]:
                    one.join()
                engine.close()
                reason = f"only {started} of {wanted} threads could be started ({error})"
                raise RuntimeError(f"{reason}: give fewer, with threads= or --threads") from None
        try:
            engine.run()
        finally:
            if not engine.at_work:
                for thread in crew:
                    thread.join()

    def _unfinished(self, signals: ShutdownSignals, requests: list[str], signal: int) -> None:
        """The server has ended, and these requests have not. Where a signal ended it, the process ends.

        `signal`: one that came while no handler could run, or 0.
        """
        reason = f"it took longer than graceful_timeout={self.options.graceful_timeout:g}"
        if self._stop is False:
            reason = "it was not waited for"
        if not requests and self._thread_id is not None:
            requests = [_request_in(self._thread_id)]
        for request in requests:
            messages.warning(f"ended without an answer to {request}: {reason}")
        if self.options.threads == 1:  # the only thread is the one that does not come back
            self.close()
            if self._over is not None:
                self._over.set()
            signals.force(signal)

    def stop(self, graceful: bool = True) -> None:
        """Makes `run` return: gracefully, with the requests at hand answered within `graceful_timeout`, or at once.

        May be called from any thread or signal handler, more than once, and before `run`. In a process that was forked
        while it served, nothing happens: that one is not the server.
        """
        if self._is_disowned():
            return
        # No lock, because a signal handler may be in the way of itself. `run` sets _engine, then looks at _stop;
        # here it is the other way round, so one of the two sees the other. Stopping twice does no harm.
        self._stop = graceful and self._stop is not False
        engine = self._engine
        if engine is not None:
            engine.stop(graceful)
            self.close()  # the engine has its own descriptors; while ours are open, the kernel would queue connections

    def reopen_logs(self) -> None:
        """Opens the access log by its path again, after somebody has renamed the file.

        May be called from any thread or signal handler. Raises OSError where it cannot be opened; the old one stays.
        """
        engine = self._engine
        if engine is not None:
            engine.reopen_logs()

    def stats(self) -> dict[str, int]:
        """The engine's counters since `run` began, empty before; after `run` they stay."""
        engine = self._engine
        return dict(self._stats) if engine is None else engine.stats()

    def close(self) -> None:
        """Closes the sockets this server opened and removes their files. `run` does so when it stops."""
        for listener in self.listeners:
            listener.close()

    def _is_disowned(self) -> bool:
        return self._process not in (None, os.getpid())

    def _disown(self) -> None:
        """In a child that the application has forked: it must not keep the addresses, however long it lives."""
        for listener in self.listeners:
            listener.socket.close()
        engine = self._engine
        if engine is not None:
            for number, identity in self._listening:
                # Not closed: the engine would do so again, and the number may be another file's by then.
                if _identity(number) == identity:
                    os.dup2(engine.wakeup_fd, number, inheritable=False)

    def __enter__(self) -> Server:
        import threading

        self._process = os.getpid()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run_in_background, name="bjoern", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_disowned():
            return  # and has not its thread
        self.stop()
        if self._thread is not None and self._over is not None:
            self._over.wait()
            if self._returned:
                self._thread.join()
        if self._failure is not None and error is None:
            raise self._failure

    def _run_in_background(self) -> None:
        try:
            self.run()
        except BaseException as error:  # raised where the block ends
            self._failure = error
        finally:
            self._returned = True
            if self._over is not None:
                self._over.set()


def check_callable(app: object) -> None:
    """Raises TypeError where a WSGI application cannot be called."""
    if not callable(app):
        raise TypeError(f"wsgi_app must be callable with (environ, start_response), got {app!r}")


def pin_access_log(options: Options) -> None:
    """Makes the path of the access log absolute: the application may change the working directory."""
    if options.access_log not in (None, "-"):
        vars(options)["access_log"] = os.path.abspath(str(options.access_log))


def check_access_log(path: str | None) -> None:
    """Raises OSError where the engine will not be able to open it, before anything is bound; makes the file."""
    if path is None or path == "-":
        return
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY, 0o666))
    except OSError as error:
        raise OSError(error.errno, f"the access log cannot be opened ({error.strerror})", path) from None


def url_of(address: Address) -> str:
    """An address as people type it: a URL for TCP, else its own text form."""
    return f"http://{address}" if isinstance(address, TcpAddress) else str(address)


def announcement(where: Sequence[str], options: Options, workers: str = "") -> str:
    """The line that says that somebody listens: `where`, and by how many threads, or `workers` in words, is served."""
    import platform

    from . import __version__

    served = "1 thread" if options.threads == 1 else f"{options.threads} threads"
    if workers:
        served = f"{workers} of {served}"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"bjoern {__version__} listening on {', '.join(where)} (pid {os.getpid()}, {python}, {served})"


def _identity(descriptor: int) -> tuple[int, int]:
    """Which file it is; of none: (0, 0)."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return 0, 0
    return status.st_dev, status.st_ino


def _request_in(thread_id: int) -> str:
    """The request that a thread is working on, as far as its stack shows one: a single thread keeps no book of it."""
    request, frame = "a request", sys._current_frames().get(thread_id)
    while frame is not None:  # the outermost is the application's own
        for value in frame.f_locals.values():
            if type(value) is dict and "wsgi.version" in value:
                request = f"{value.get('REQUEST_METHOD')} {ascii(value.get('RAW_URI'))[1:-1]}"
        frame = frame.f_back
    return request


def _parsed(bind: Bind | Sequence[Bind] | None) -> list[Address]:
    if bind is None:
        bind = DEFAULT_ADDRESS
    # An Address is a tuple, too: what is no str and no Address is a list of them.
    several = [bind] if isinstance(bind, Bind) else bind
    return [addresses.parse(one) if isinstance(one, str) else one for one in several]


def _address_of(sock: SocketLike) -> Address:
    import socket

    with socket.socket(fileno=os.dup(descriptor(sock))) as twin:  # asks a bare descriptor, too
        return addresses.of_socket(twin)
