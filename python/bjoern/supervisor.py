"""The supervisor: the process a service is known by. It holds the sockets and sees to it that workers serve them.

Knows: how many workers there should be and how they are, what to do when one ends, signals, its files.
Must not know: the application, which it never imports: a generation does (`generation.py`).
Invariant: from the moment it listens until it stops, the sockets are open; so a reload loses no connection.

What happens is noted where it is heard of (a signal, a message, an end); `_settle` then compares what is with what
should be, and is the only one to order anything.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time

from . import addresses, children, exits, messages
from .board import Board
from .generation import EXIT_APP, HANGS, Channel, Generation, Handover
from .privileges import Identity
from .server import announcement, check_access_log, pin_access_log, url_of
from .systemd import Notifier

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import FrameType
    from typing import Any

    from _typeshed.wsgi import WSGIApplication

    from .options import Options
    from .pid_files import PidFile
    from .sockets import Listener

EXIT_WORKERS = 3  # no worker can be started

# A worker that has served for so long has not died at once; seconds.
_SETTLED = 1.0
# How long to wait before the second worker in a row that died at once is replaced; twice as long each time, up to the
# longest; seconds.
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.1, 15.0
# The longest where it served, however shortly: it is a request that kills, and not the start that fails.
_LONGEST_BACKOFF_OF_SERVING = 0.5
# So many in a row that never served, while none serves, and there is no hope.
_HOPELESS = 6
# What a worker gets beyond `graceful_timeout`, within which it is to end by itself; seconds.
_MARGIN = 1.0
# What a worker that hangs has for telling where, before it is killed; seconds.
_TELLING = 0.5
# Rows of the board: for those to come, those there are, and those from before, even after some SIGTTIN.
_LEAST_ROWS = 24
_GLANCE = 0.002  # seconds
_CHECK_PERIOD, _WATCH_PERIOD = 1.0, 0.15  # seconds

BOOTING, SERVING, OUTGOING, ENDING, ORPHANED = "booting", "serving", "outgoing", "ending", "orphaned"


class Worker:
    """One worker, as far as its supervisor knows."""

    def __init__(self, number: int, family: Family, channel: Channel) -> None:
        self.number, self.family, self.channel = number, family, channel
        self.process: int | None = None
        # BOOTING until it serves; OUTGOING: still serves, and will be told to end when there is another in its place;
        # ENDING once told, or by its own doing; ORPHANED where nobody can tell its end but its channel.
        self.state = BOOTING
        self.begun = time.monotonic()  # when it was forked, then since when it serves
        self.deadline: float | None = None  # when it is killed, once told to end
        self.told: bool | None = None  # to end: gracefully or not
        self.drains = False  # it says that it accepts no more
        self.requests: int | None = None  # how many it had had at the last look
        self.answers = False  # when asked for a sign of life
        self.asked: float | None = None  # when it was asked for a sign of life that has not come

    def __str__(self) -> str:
        return f"worker {self.number} (pid {self.process})" if self.process else f"worker {self.number}"


class Family:
    """A generation and its workers, as far as their supervisor knows."""

    def __init__(self, process: int, control: Channel) -> None:
        self.process, self.control = process, control
        self.workers: dict[int, Worker] = {}
        self.is_loaded = False
        self.is_gone = False
        self.was_staffed = False  # all its first workers have been forked
        self.is_irreplaceable = False  # it is gone, and another could not be had
        self.told: Mapping[str, Any] = {}  # its options
        self.failures: list[int | None] = []  # statuses of the first workers that ended before they served

    def living(self) -> list[Worker]:
        return [worker for worker in self.workers.values() if worker.state in (BOOTING, SERVING)]

    def serving(self) -> list[Worker]:
        return [worker for worker in self.workers.values() if worker.state in (SERVING, OUTGOING, ORPHANED)]


class Supervisor:
    """Runs a service: `run()` returns when it was stopped, raises SystemExit where it cannot go on."""

    def __init__(
        self,
        load: Callable[[], WSGIApplication],
        options: Options,
        listeners: Sequence[Listener],
        identity: Identity,
        pid_file: PidFile | None = None,
        directory: str | None = None,
    ) -> None:
        self._load, self._options, self._identity = load, options, identity
        self._listeners, self._pid_file = list(listeners), pid_file
        self._where = [url_of(addresses.of_socket(listener.socket)) for listener in listeners]
        self._directory = directory  # where the program was started
        self._notifier = Notifier()
        self._wanted = max(options.watched, 1)
        self._told: Mapping[str, Any] = {"graceful_timeout": options.graceful_timeout}
        self._board = Board.make(max(_LEAST_ROWS, 3 * self._wanted))
        self._current: Family | None = None
        self._coming: Family | None = None  # loads, or its workers begin
        self._retired: list[Family] = []  # their workers finish
        self._replaced: Family | None = None  # the one retired last, until it accepts no more, or this time has come
        self._replaced_by = 0.0
        self._asked: list[int] = []  # signals to be seen to
        self._reload_wanted = False
        self._stopping: bool | None = None  # graceful or not, once asked for
        self._stop_begun = False
        self._outcome: int | None = None  # the exit code, where it is not for a signal that this ends
        self._quick_ends = 0  # workers in a row that died at once
        self._failed_boots = 0  # workers in a row that never served
        self._next_fork = 0.0  # not before
        self._next_check = 0.0
        self._next_sign = 0.0
        self._was_ready = False
        self._watch: Any = None
        self._poll = select.poll()

    # Life

    def run(self, heed: Any) -> None:
        """Serves until stopped. `heed` is the `ShutdownSignals` class."""
        messages.identify()
        # Forked before our own handlers are installed: it is to have the program's.
        self._begin_first()
        heard, woken = socket.socketpair()
        heard.setblocking(False)
        woken.setblocking(False)
        # At the end of `heed`, the process may die of a signal: nothing is left for after it.
        with heard, woken, _Handlers(self._asked.append), heed(self._stop, self._options.graceful_timeout) as signals:
            try:
                signals.wake(woken.fileno())
                self._poll.register(heard, select.POLLIN)
                while not self._is_over():
                    self._turn(heard)
            finally:
                self._clear_away()
        if self._outcome is not None:
            raise SystemExit(self._outcome)

    def _stop(self, graceful: bool) -> None:
        self._stopping = graceful and self._stopping is not False

    def _turn(self, heard: socket.socket) -> None:
        timeout = self._settle()
        if self._is_over():
            return
        self._poll.poll(None if timeout is None else max(0, int(timeout * 1000) + 1))
        with contextlib.suppress(BlockingIOError):
            while heard.recv(4096):
                pass
        while self._asked:
            self._see_to(self._asked.pop(0))
        for family in self._families():
            self._hear_family(family)
        self._reap()

    def _is_over(self) -> bool:
        return self._stop_begun and not self._families()

    def _families(self) -> list[Family]:
        return [family for family in (self._current, self._coming, *self._retired) if family is not None]

    def _clear_away(self) -> None:
        """Leaves nothing behind, whichever way it ends."""
        for family in self._families():
            for worker in family.workers.values():
                if worker.process is not None and worker.state != ORPHANED and not family.is_gone:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(worker.process, signal.SIGKILL)
            self._kill(family)
        for listener in self._listeners:
            listener.close()
        if self._pid_file is not None:
            self._pid_file.remove()

    # Generations

    def _begin_first(self) -> None:
        """The first generation is a fork of this process: it has bjoern already."""
        ours, theirs = Channel.pair()
        exits.flush()
        process = children.fork()
        if process == 0:
            ours.close()
            listening = [listener.socket.detach() for listener in self._listeners]
            handover = Handover(theirs.socket.detach(), self._board.descriptor, listening)
            Generation(self._load, self._options, self._identity, handover).run()
        theirs.close()
        self._coming = self._met(process, ours)

    def _begin_next(self) -> None:
        """Any other is a fresh interpreter with this program, which finds in its environment that it is one."""
        if not sys.executable:
            messages.error("cannot reload: it is not known which interpreter this is; restart instead")
            return
        ours, theirs = Channel.pair()
        exits.flush()
        process = children.fork()
        if process == 0:
            try:
                if self._directory is not None:
                    os.chdir(self._directory)
                listening = [listener.socket.fileno() for listener in self._listeners]
                handover = Handover(theirs.fileno(), self._board.descriptor, listening)
                arguments = [sys.executable, *sys.orig_argv[1:]]
                os.execve(sys.executable, arguments, {**os.environ, **handover.given()})
            except BaseException as error:
                messages.error(f"cannot start {sys.executable}: {error}")
            finally:
                os._exit(EXIT_WORKERS)
        theirs.close()
        self._coming = self._met(process, ours)

    def _met(self, process: int, control: Channel) -> Family:
        self._poll.register(control, select.POLLIN)
        return Family(process, control)

    def _hear_family(self, family: Family) -> None:
        for worker in list(family.workers.values()):
            for message in worker.channel.messages():
                if message is None:
                    self._lost(worker)
                    break
                with _ignored_if_strange(f"{worker}"):
                    self._hear_worker(worker, message)
        if family.is_gone:
            return
        for message in family.control.messages():
            if message is None:
                self._gone(family)
                break
            with _ignored_if_strange(f"the process that forks (pid {family.process})"):
                self._hear_generation(family, message)

    def _hear_generation(self, family: Family, message: Mapping[str, Any]) -> None:
        if "loaded" in message:
            family.told = {**family.told, **message["loaded"]}
            family.is_loaded = True
        elif "failed" in message:
            family.failures.append(message["code"] << 8)
        elif "files" in message:
            self._note_files(message["files"])
        elif "forked" in message:
            family.workers[message["forked"]].process = message["pid"]
        elif "ended" in message:
            self._ended(family.workers[message["ended"]], message["status"])

    def _hear_worker(self, worker: Worker, message: Mapping[str, Any]) -> None:
        if "ready" in message and worker.state == BOOTING:
            worker.state, worker.begun, worker.answers = SERVING, time.monotonic(), message["answers"]
            self._failed_boots = 0
            messages.debug(f"{worker} serves")
        elif "draining" in message:
            worker.drains = True
            if worker.state in (SERVING, OUTGOING):  # not told: it has had its requests, or somebody sent it a signal
                worker.state = ENDING
                worker.deadline = time.monotonic() + self._told["graceful_timeout"] + _MARGIN
        elif "lives" in message:
            worker.asked = None
        elif "files" in message:
            self._note_files(message["files"])

    def _gone(self, family: Family) -> None:
        """A generation has ended, asked to or not. Its workers, if any, go on without."""
        family.is_gone = True
        self._poll.unregister(family.control)
        family.control.close()
        for worker in list(family.workers.values()):
            if worker.state == BOOTING or worker.process is None:
                self._forget(worker)
            else:
                worker.state = ORPHANED

    def _kill(self, family: Family) -> None:
        """Has done with a generation."""
        if not family.is_gone:
            self._gone(family)
        for worker in list(family.workers.values()):
            self._forget(worker)
        if family.process:
            with contextlib.suppress(ProcessLookupError):
                os.kill(family.process, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(family.process, 0)
            family.process = 0

    def _reap(self) -> None:
        """Learns of generations that ended and, where this is process 1, of anybody's children."""
        if os.getpid() == 1:
            with contextlib.suppress(ChildProcessError):
                while ended := os.waitpid(-1, os.WNOHANG)[0]:
                    self._reaped(ended)
            return
        for family in self._families():
            if family.process:
                try:
                    ended = os.waitpid(family.process, os.WNOHANG)[0]
                except ChildProcessError:
                    ended = family.process
                self._reaped(ended)

    def _reaped(self, process: int) -> None:
        for family in self._families():
            if family.process == process:
                family.process = 0

    # Workers

    def _fork(self, family: Family) -> None:
        used = {number for one in self._families() for number in one.workers}
        number = next(number for number in range(1, len(used) + 2) if number not in used)
        ours, theirs = Channel.pair()
        family.workers[number] = Worker(number, family, ours)
        self._poll.register(ours, select.POLLIN)
        family.control.send([theirs.fileno()], fork=number)
        theirs.close()

    def _order(self, worker: Worker, number: int) -> None:
        """Sends it a signal, through its parent, who knows that it has not ended."""
        worker.family.control.send(worker=worker.number, signal=int(number))

    def _tell_to_end(self, worker: Worker, graceful: bool = True) -> None:
        """Tells it once, and once more where it is to end at once."""
        if worker.told is not None and (graceful or not worker.told):
            return
        begun_already, worker.told = worker.state == ENDING, graceful
        if worker.state == ORPHANED or worker.family.is_gone:
            self._forget(worker)  # the end of its channel makes it end
            return
        worker.state = ENDING
        worker.deadline = time.monotonic() + _MARGIN + (self._told["graceful_timeout"] if graceful else 0.0)
        if not graceful:
            self._order(worker, signal.SIGQUIT)
            return
        # The end of the channel tells one that does not heed SIGTERM, which is for the application's handler then.
        with contextlib.suppress(OSError):
            worker.channel.socket.shutdown(socket.SHUT_WR)
        if not begun_already:  # it would take this for the second SIGTERM, and stop without grace
            self._order(worker, signal.SIGTERM)

    def _ended(self, worker: Worker, status: int | None) -> None:
        """Its parent says it has ended."""
        state = worker.state
        lived = time.monotonic() - worker.begun
        how = "could not be forked" if status is None else _described(status)
        self._forget(worker)
        if self._stopping is not None or worker.told is not None:
            messages.debug(f"{worker} {how}")
            return
        if state == BOOTING:
            self._failed_boots += 1
            worker.family.failures.append(status)
            messages.error(f"{worker} {how} before it served")
        elif state == ENDING and status == 0:
            messages.debug(f"{worker} has ended and is replaced")
            self._quick_ends = 0
            return
        else:
            messages.warning(f"{worker} {how} and is replaced")
        if state == BOOTING or lived < _SETTLED:
            self._quick_ends += 1
            if self._quick_ends > 1:
                longest = _LONGEST_BACKOFF if state == BOOTING else _LONGEST_BACKOFF_OF_SERVING
                delay = min(_FIRST_BACKOFF * 2 ** min(self._quick_ends - 2, 20), longest)
                self._next_fork = time.monotonic() + delay
        else:
            self._quick_ends = 0

    def _lost(self, worker: Worker) -> None:
        """Its channel has ended: of an orphan, that is all there is to learn. Of others their parent tells."""
        if worker.state == ORPHANED:
            self._forget(worker)
            self._board.clear(worker.number - 1)
        else:
            self._poll_not(worker)

    def _poll_not(self, worker: Worker) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._poll.unregister(worker.channel)

    def _forget(self, worker: Worker) -> None:
        if worker.family.workers.pop(worker.number, None) is not None:
            self._poll_not(worker)
            worker.channel.close()
            if worker.state != ORPHANED:  # that one clears it by itself, in a while
                self._board.clear(worker.number - 1)

    # Signals

    def _see_to(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._reload_wanted = True
        elif number == signal.SIGQUIT:
            self._outcome = 128 + number if self._outcome is None else self._outcome
            self._stopping = False
        elif number in (signal.SIGTTIN, signal.SIGTTOU):
            self._wanted = max(1, self._wanted + (1 if number == signal.SIGTTIN else -1))
            messages.info(f"{self._wanted} {'worker' if self._wanted == 1 else 'workers'} from now on")
        elif number == signal.SIGUSR1:
            self._tell_status()
            for family in self._families():
                for worker in family.serving():
                    if worker.state != ORPHANED:
                        self._order(worker, signal.SIGUSR1)
        elif number == signal.SIGUSR2:
            messages.info(
                "SIGUSR2 starts nothing here: SIGHUP replaces all but the supervisor by a fresh interpreter, so that a "
                "new bjoern or Python serves as well as new code"
            )

    def _tell_status(self) -> None:
        count = sum(len(family.serving()) for family in self._families())
        coming = "; a reload is under way" if self._coming is not None else ""
        messages.info(f"{count} of {self._wanted} workers serve{coming}")
        for family in self._families():
            for worker in family.workers.values():
                words = [f"{worker}: {worker.state} for {_span(time.monotonic() - worker.begun)}"]
                if row := self._board.row(worker.number - 1):
                    words.append(f"{_plural(row['requests'], 'request')}, {row['open']} open")
                    words.append(f"{row['busy']} busy, {row['queued']} queued")
                if (rss := _rss(worker.process)) is not None:
                    words.append(f"{rss >> 20} MiB")
                messages.info(", ".join(words))

    # Deciding

    def _settle(self) -> float | None:
        """Orders what makes things as they should be; how long until something is to be done again, None: unknown."""
        now = time.monotonic()
        deadlines: list[float] = []
        if self._stopping is None:
            self._settle_coming()
            self._settle_reload()
            self._settle_current(now, deadlines)
            self._settle_checks(now, deadlines)
        if self._stopping is not None:  # by now: it may have given up
            self._settle_stop()
        self._settle_retired()
        self._settle_replaced(now, deadlines)
        for family in self._families():
            for worker in list(family.workers.values()):
                if worker.deadline is not None and now >= worker.deadline:
                    worker.deadline = None
                    if worker.state != ORPHANED:
                        if worker.told is not False:
                            messages.warning(f"{worker} did not end in time and is killed")
                            worker.told = False
                        self._order(worker, signal.SIGKILL)
                elif worker.deadline is not None:
                    deadlines.append(worker.deadline)
        if self._notifier.period:
            if now >= self._next_sign:
                if self._was_ready and any(family.serving() for family in self._families()):
                    self._notifier.send("WATCHDOG=1")
                self._next_sign = now + self._notifier.period
            deadlines.append(self._next_sign)
        return min(deadlines) - now if deadlines else None

    def _settle_stop(self) -> None:
        graceful = bool(self._stopping)
        if not self._stop_begun:
            self._stop_begun = True
            self._notifier.send("STOPPING=1")
            for listener in self._listeners:
                listener.close()
            for family in (self._coming, self._current):
                if family is not None:
                    self._retire(family)
            self._coming = self._current = None
            for family in self._retired:
                if not family.is_gone:
                    family.control.send(close=True)
        for family in self._retired:
            for worker in list(family.workers.values()):
                self._tell_to_end(worker, graceful)

    def _settle_coming(self) -> None:
        family = self._coming
        if family is None:
            return
        if family.is_gone or (family.failures and not family.is_loaded):
            self._failed(family)
            return
        if not family.is_loaded:
            return
        if not family.was_staffed:
            family.was_staffed = True
            for _ in range(int(family.told["workers"]) if self._current is not None else self._wanted):
                self._fork(family)
        if any(worker.state == BOOTING for worker in family.workers.values()):
            return
        if family.failures and (self._current is not None or not family.serving()):
            self._failed(family)
            return
        self._take_over(family)

    def _take_over(self, family: Family) -> None:
        """The workers of a new generation serve: those of the one before it may go."""
        self._coming, before, self._current = None, self._current, family
        self._quick_ends = 0
        self._told = family.told
        if before is not None:
            self._wanted = int(family.told["workers"])
            self._retired.append(before)
            self._replaced, self._replaced_by = before, time.monotonic() + _MARGIN
            return
        self._was_ready = True
        messages.write("info", announcement(self._where, self._options, _plural(self._wanted, "worker")), bare=True)
        self._notifier.send("READY=1", f"STATUS={_plural(len(family.serving()), 'worker')} serving")

    def _settle_replaced(self, now: float, deadlines: list[float]) -> None:
        """Says that a reload is done, once nobody meets an old worker any more; one that is busy accepts nobody."""
        if self._replaced is None or self._current is None:
            return
        old = self._replaced.workers.values()
        if now < self._replaced_by and not all(worker.drains for worker in old):
            deadlines.append(self._replaced_by)
            return
        if now < self._replaced_by and any(self._board.row(worker.number - 1).get("alive") for worker in old):
            deadlines.append(now + _GLANCE)  # it is about to
            return
        self._replaced = None
        serving = len(self._current.serving())
        messages.info(f"reloaded: {serving} {'worker serves' if serving == 1 else 'workers serve'}")
        self._notifier.send("READY=1", f"STATUS={_plural(serving, 'worker')} serving")

    def _failed(self, family: Family) -> None:
        """A new generation cannot serve."""
        self._coming = None
        codes = {s if s is None else os.waitstatus_to_exitcode(s) for s in family.failures}
        self._retire(family)
        if self._current is not None:
            self._current.is_irreplaceable = self._current.is_gone
            messages.error("not reloaded: the workers from before go on")
            self._notifier.send("READY=1", "STATUS=the last reload failed")
        elif self._told.get("reload") or self._options.reload:
            messages.info("waits for a change")
        else:
            self._give_up(EXIT_APP if codes == {EXIT_APP} else EXIT_WORKERS, family)

    def _give_up(self, code: int, family: Family) -> None:
        if code == EXIT_WORKERS:
            last = family.failures[-1] if family.failures else None
            how = "" if last is None else f": the last one {_described(last)}"
            messages.error(f"no worker can be started{how}; see above for the reason")
        self._outcome = code
        self._stopping = False

    def _retire(self, family: Family) -> None:
        """Its workers may finish; without any it ends at once."""
        if family.workers:
            self._retired.append(family)
        else:
            self._kill(family)

    def _settle_reload(self) -> None:
        if not self._reload_wanted:
            return
        if self._coming is not None:
            if self._current is None and not self._options.reload:
                return  # the first is not done beginning
            self._retire(self._coming)
            self._coming = None
        self._reload_wanted = False
        self._notifier.reloading()
        self._begin_next()

    def _settle_current(self, now: float, deadlines: list[float]) -> None:
        family = self._current
        if family is None:
            return
        if family.is_gone:  # killed, most likely
            if self._coming is not None:
                return
            if not family.is_irreplaceable:
                messages.error("the process that forks the workers is gone: another one is started")
                self._begin_next()
            elif not family.serving():
                self._give_up(EXIT_WORKERS, family)
            return
        living = family.living()
        if len(living) < self._wanted:
            if self._failed_boots >= _HOPELESS and not family.serving():
                self._give_up(EXIT_WORKERS, family)
                return
            if now < self._next_fork:
                deadlines.append(self._next_fork)
            elif self._quick_ends < 2 or not any(worker.state == BOOTING for worker in living):
                for _ in range(self._wanted - len(living) if self._quick_ends < 2 else 1):
                    self._fork(family)
        elif len(living) > self._wanted:
            for worker in sorted(living, key=lambda one: -one.number)[: len(living) - self._wanted]:
                self._tell_to_end(worker)
        if sum(worker.state == SERVING for worker in living) >= self._wanted:
            for worker in list(family.workers.values()):
                if worker.state == OUTGOING:
                    self._tell_to_end(worker)

    def _settle_retired(self) -> None:
        for family in list(self._retired):
            for worker in list(family.workers.values()):
                self._tell_to_end(worker)
            if not family.workers:
                self._kill(family)
                self._retired.remove(family)

    # What is looked at from time to time

    def _settle_checks(self, now: float, deadlines: list[float]) -> None:
        max_rss, hang = self._told.get("max_rss", 0), self._told.get("worker_timeout", 0.0)
        if max_rss or hang:
            if now >= self._next_check:
                self._next_check = now + _CHECK_PERIOD
                for family in self._families():
                    for worker in family.serving():
                        self._check(worker, max_rss, hang)
            deadlines.append(self._next_check)
        if self._options.reload:
            from .changes import Watch

            if self._watch is None:
                self._watch = Watch(self._options.reload_include)
            changed = self._watch.changed()
            if changed:
                messages.info(f"{os.path.relpath(changed)} has changed: reloading")
                self._reload_wanted = True
            deadlines.append(now + (0.0 if self._reload_wanted else _WATCH_PERIOD))

    def _check(self, worker: Worker, max_rss: int, hang: float) -> None:
        """Whether a worker is too large, or hangs."""
        if max_rss and worker.state == SERVING and (rss := _rss(worker.process)) is not None and rss > max_rss:
            messages.info(f"{worker} has {rss >> 20} MiB, more than max_rss, and is replaced")
            worker.state = OUTGOING
        if not hang or worker.state == ORPHANED:
            return
        now, row = time.monotonic(), self._board.row(worker.number - 1)
        if since := row.get("out_since", 0):
            worker.asked = None
            if now - since / 1000 > hang:
                where = "a thread" if self._options.threads == 1 else "all threads"
                self._kill_hanging(worker, f"{where} in the application for more than {hang:g}s")
        elif row.get("requests") != worker.requests:
            worker.requests, worker.asked = row.get("requests"), None
        elif worker.asked is None:
            if worker.answers:
                worker.asked = now
                worker.channel.send(ask=True)
        elif now - worker.asked > hang:
            self._kill_hanging(worker, f"no sign of life for more than {hang:g}s")

    def _kill_hanging(self, worker: Worker, reason: str) -> None:
        messages.error(f"{worker} is killed and replaced: {reason}")
        worker.state, worker.told, worker.deadline = ENDING, False, time.monotonic() + _TELLING
        self._order(worker, HANGS)

    def _note_files(self, files: Sequence[str]) -> None:
        from .changes import Watch

        if self._watch is None:
            self._watch = Watch(self._options.reload_include)
        self._watch.add(files)


class _Handlers:
    """A context in which the supervisor's own signals are noted, and after which they are what they were."""

    def __init__(self, note: Callable[[int], object]) -> None:
        self._note = note
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> None:
        for number in (
            signal.SIGHUP,
            signal.SIGQUIT,
            signal.SIGTTIN,
            signal.SIGTTOU,
            signal.SIGUSR1,
            signal.SIGUSR2,
            signal.SIGCHLD,
        ):
            self._previous[number] = signal.signal(number, self._heard)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            if handler is not None:
                signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self._note(number)


def serve(
    load: Callable[[], WSGIApplication],
    options: Options,
    bind: Callable[[], Sequence[Listener]],
    directory: str | None = None,
) -> None:
    """Serves an application by workers until stopped, or does a generation's part where this process is one.

    `bind` gives the sockets that listen; `directory` is where the program was started.
    Ends as `Server.run` does; SystemExit with 3 or 4 where no worker can be started. Raises ValueError for a user or
    group that does not exist, OSError where one of the system's refusals is in the way, RuntimeError outside of the
    main thread.
    """
    try:
        signal.set_wakeup_fd(signal.set_wakeup_fd(-1))
    except ValueError:
        raise RuntimeError("workers= needs the main thread: there the signals are heard") from None
    pin_access_log(options)
    identity = Identity(options.user, options.group)
    if handover := Handover.taken():
        Generation(load, options, identity, handover).run()
    identity.check()
    pid_file = None
    if options.pid is not None:
        from .pid_files import PidFile

        pid_file = PidFile(options.pid)
        pid_file.check()
    if options.access_log not in (None, "-"):
        is_new = not os.path.exists(str(options.access_log))
        check_access_log(options.access_log)
        if is_new:
            identity.own(str(options.access_log))
    listeners = bind()
    try:
        for listener in listeners:
            listener.give(identity)
        if pid_file is not None:
            pid_file.write()
        supervisor = Supervisor(load, options, listeners, identity, pid_file, directory)
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    from .signals import ShutdownSignals

    supervisor.run(ShutdownSignals)


@contextlib.contextmanager
def _ignored_if_strange(sender: str) -> Iterator[None]:
    """A message that is not what it claims to be is passed over: whoever holds the channel's other end can send one."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        messages.warning(f"a message in the name of {sender} was not understood ({error!r}): it is ignored")


def starting_directory() -> str:
    """Where the program was started, by the name it had there: a link may lead elsewhere by the next reload."""
    here, name = os.getcwd(), os.environ.get("PWD", "")
    with contextlib.suppress(OSError):
        if os.path.isabs(name) and os.path.samefile(name, here):
            return name
    return here


def _described(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(number).name}"
        return f"was killed by signal {number}"
    return f"ended with exit code {os.waitstatus_to_exitcode(status)}"


def _rss(process: int | None) -> int | None:
    """The memory of a process, in bytes, as far as there is such a process and /proc."""
    if process is None:
        return None
    try:
        with open(f"/proc/{process}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return None


def _span(seconds: float) -> str:
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    parts = [f"{value}{unit}" for value, unit in ((days, "d"), (hours, "h"), (minutes, "m")) if value]
    return " ".join([*parts, f"{whole % 60}s"])


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
